"""Carries out plans: `up` and what belongs to it, `save` and `down`.

`up` asks for a plan twice: before the user agrees, and again under the vApp's lock, because
somebody may have been at work meanwhile. It then runs exactly the steps of the second plan.
`schedule` begins each step when the steps that it needs have ended; `actions` says what is done for
each kind of step: `power` starts a VM, `rules` loads an appliance, `connect` raises a workload's
links. `run` holds what they share.

The order is the safety, and it stands in `vcloud.plan.order`: networks first, then the appliances,
whose rules are loaded and checked, and only then is any workload connected. Workloads boot beside
the appliances to save time, with their links down and their services waiting. When something is
taken away, its links are cut first.

Before the first step of a run, all VMs of others are kept off the cores that are the vApp's own
(`cores`), and each VM that is started is kept to its own.

At the end of a run, vcloud looks at the host's side of the vApp once more. Only if nothing differs
there, the vApp is called protected. What libvirt has no call for (flags of ports, addresses, foreign
ports) is mended by commands that root runs on the host: the plan lists them, and `mend` runs them.

Every step can be repeated. While a run is under way, the manifest says `applying`, and a domain
gets the digests of what it was made from only when it is wholly made. So the next `up` finishes
what a killed run has left, and `down` removes it.

One run at a time changes a vApp. The manifest names the lock of the run that has claimed the vApp.
A run asks for its lock before each step, and at the end whether the manifest is still its own. In a
guest, the program of a killed run goes on. So each run has a number, higher than all before it,
which it sends with every identity and all rules: the guest lets one program go after the other, and
refuses what comes from a run before.

A VM that is made anew wakes from a memory image where the host has one (`wake`). It boots where
there is none, or where waking fails. As many VMs wake, are restored or load rules at a time as the
host has processors. The appliances come first, because all others wait for them. From the first
answer of its guest agent on, a woken VM and a booted VM are treated alike: one document gives
either its name, its key and its own entropy, and libvirt keeps the same definition of both. An
image of a user's own cannot read that document. It wakes in the middle of its boot
(`vcloud.compile.guest.gate`), and cloud-init does the rest.

A VM that was saved (by `vcloud save`, or by hand with virsh) goes on where it was, with its own key
and machine id. It gets the time, fresh entropy, and whatever the file says differently now. Its
links are cut before it runs, and are raised in their turn, after the rules.
"""
