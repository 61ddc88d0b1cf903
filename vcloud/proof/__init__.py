"""What must be true of a running vApp, and what observations mean. Pure: no probe is sent here.

Silence proves nothing: a dead listener, a lost packet and a drop by the firewall look alike to a
sender. So for every claim that a packet is blocked, the target must answer a probe from within its
own VM, and the firewall or the IPS must have counted the packet. If this proof is incomplete, the
outcome is `error`. A check that could not be made is `not run`, with the reason. Neither counts as
passed. What nothing can try in this vApp is `not tried`: the report says so, and it is no fault.

`checks` and `inspection` list the claims. `config` compares what the appliances report with what
they were given. `firewall_report` and `ips_report` read those reports, `guest_network` compares the
network of an appliance's kernel with its identity, and `mending` says what mends a difference.
`errors` makes forged ICMP errors. `observed` holds what was seen, `judge` decides what it says about
a claim (`forged`: about a forged packet), `rounds` what is asked again and what several tries mean,
and `report` prints verdicts. `vcloud.verify` sends the probes.

Each check says what it proves (`Check.proves`): the stable id of a flow, a control, a rule or a
detector. To prove one more control: add a check here with the control's id, and what its answers
mean in `judge`.
"""
