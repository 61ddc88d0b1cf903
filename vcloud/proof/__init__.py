"""What must be true of a running vApp, and what observations mean. Pure: no probe is sent here.

Silence proves nothing: a dead listener, a lost packet and a drop by the firewall look alike to a
sender. So for every claim that a packet is blocked, the target must answer a probe from within its
own VM, and the firewall or the IPS must have counted the packet. If this proof is incomplete, the
outcome is `error`. A check that could not be made is `not run`, with the reason. Neither counts as
passed.

`checks` and `inspection` list the claims. `config` compares what the appliances report with what
they were given. `firewall_report` and `ips_report` read those reports. `judge` decides what an
observation says about a claim, and `report` prints verdicts. `vcloud.verify` sends the probes.

Each check says what it proves (`Check.proves`): the stable id of a flow, a control, a rule or a
detector. To prove one more control: add a check here with the control's id, and what its answers
mean in `judge`.
"""
