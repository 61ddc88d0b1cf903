"""Does what runs keep what the file promises? Answered by packets, and by what the appliances say of themselves.

Silence proves nothing: a dead listener, a lost packet and a firewall's drop look alike to a sender. So every claim that something is
stopped has its positive twin. The target must answer within its own VM, and the firewall, or the IPS, must have counted the packet.
When that proof is incomplete the outcome is `error`; what could not be tried is `not run`, with its reason. Neither counts as passed.

Which claims there are (`checks`, `inspection`, `config`), what observations mean (`judge`) and how verdicts are told (`report`) is pure and
tested without a VM. Only `run` and `vantage` send anything. They add listeners and, in a lab, servers outside; no rule, address
or link of the vApp is changed for a test, so what is tested is what runs.

Probes leave from the VMs through the guest agent. No management network is opened that could itself be the hole.
"""
