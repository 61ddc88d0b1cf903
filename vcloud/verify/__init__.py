"""Does a running vApp keep what its file promises? `verify` answers this with packets, and with
what the appliances report.

Silence proves nothing: a dead listener, a lost packet and a drop by the firewall look alike to a
sender. So for every claim that something is blocked, the target must answer a probe from within its
own VM, and the firewall or the IPS must have counted the packet. If this proof is incomplete, the
outcome is `error`. What could not be tried is `not run`, with the reason. Neither counts as passed.
What nothing can try in this vApp is `not tried`, which the report lists.

A busy machine delays and loses packets. So a round measures with control probes how long an answer
takes, and what did not pass is asked again in another round (`vcloud.proof.rounds`).

`vcloud.proof` lists the claims and decides what observations mean. This package is the only sender
of probes. It only reads: it adds listeners to VMs, but changes no rule, address or link of the
vApp, so that what is tested is what runs. It builds nothing, and needs no root on this machine
(except where the probes themselves do: to enter a lab's network namespace).

Probes leave from the VMs through the guest agent. No management network is opened that could itself
be the hole.

To probe from one more place: give it a name in `vcloud.proof.checks`, and a `Prober` in `vantage`.
"""
