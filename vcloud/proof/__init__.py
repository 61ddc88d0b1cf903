"""The claims about a running vApp, and the rules that turn observations into verdicts. Pure: no
probe is sent here.

Silence proves nothing: a dead listener, a lost packet and a drop by the firewall look alike to a
sender. So for every claim that a packet is blocked, the target must answer a probe from within its
own VM, and the firewall or the IPS must have counted the packet. If this proof is incomplete, the
outcome is `error`. A check that could not be made is `not run`, with the reason. Neither counts as
passed. A claim that no probe can test in this vApp is `not tried`: the report lists it, but the
exit code does not change.

`checks` and `inspection` list the claims, and `nics` the NICs of the VMs that probes leave by.
`config` compares what the appliances report with what they were given. `firewall_report` and
`ips_report` read those reports, `guest_network` compares the network of an appliance's kernel with
its identity, and `mending` says what mends a difference. `errors` makes forged ICMP errors.
`observed` holds the observations of a round, and `judge` turns them into verdicts (`forged` does so
for forged packets). `rounds` decides which checks are repeated, and joins the verdicts of several
tries. `report` prints verdicts. `vcloud.verify` sends the probes.

Each check says what it proves (`Check.proves`): the stable id of a flow, a control, a rule or a
detector. To prove one more control: add a check with the control's id here, and add to `judge` what
its answers mean.
"""
