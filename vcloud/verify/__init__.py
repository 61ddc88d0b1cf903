"""Tests whether a running vApp is protected as its file demands: with packets, and with reports of
the appliances.

Silence proves nothing: a dead listener, a lost packet and a drop by the firewall look alike to a
sender. So for every claim that a packet is blocked, the target must answer a probe from within its
own VM, and the firewall or the IPS must have counted the packet. If this proof is incomplete, the
outcome is `error`. A check that could not be made is `not run`, with the reason. Neither counts as
passed. A claim that no probe can test in this vApp is `not tried`, and the report lists it.

A busy machine delays and loses packets. So a round measures with control probes how long an answer
takes, and checks that did not pass are repeated in another round (`vcloud.proof.rounds`).

`vcloud.proof` lists the claims and decides what observations mean. This package is the only sender
of probes. It starts temporary listeners in VMs, but changes no rule, address or link, so the test
does not change what it tests. It builds nothing. It needs root on this machine only to enter a
lab's network namespace.

Probes are started in the VMs through the guest agent. So no management network is needed, which
could weaken the isolation.

To probe from one more place: give it a name in `vcloud.proof.checks`, and a `Prober` in `vantage`.
"""
