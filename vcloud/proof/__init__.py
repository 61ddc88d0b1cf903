"""What must be true of a vApp that runs, and what observations mean. Pure: no probe is sent here.

Silence proves nothing: a dead listener, a lost packet and a firewall's drop look alike to a sender. So every claim that a packet is
stopped has a positive twin: the target answers within its own VM, and the firewall, or the IPS, has counted the packet. Where that proof
is incomplete, the outcome is `error`. A check that could not be made is `not run`, with the reason. Neither counts as passed.

`checks` and `inspection` list the claims, `judge` decides what an observation says about a claim, `config` compares what the appliances
report with what they were given, and `report` prints verdicts. `vcloud.verify` sends the probes.
"""
