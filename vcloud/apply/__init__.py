"""Carries out plans: the commands `up`, `stop`, `start`, `restart`, `save`, `down` and `migrate`.

`up` makes a plan twice: before the user agrees, and again under the vApp's lock, because another
operator may have changed the vApp meanwhile. It then runs exactly the steps of the second plan.
`schedule` begins each step when the steps that it needs have ended. `actions` maps each kind of
step to a function: `power` starts a VM, `rules` loads an appliance, `connect` raises a workload's
links. `run` holds the values that all steps share.

The order of the steps (`vcloud.plan.order`) keeps the vApp protected: first the networks, then the
appliances, whose rules are loaded and checked. Only then workloads are connected. Workloads boot at
the same time as the appliances to save time, with their links down and their services waiting.
Before a VM is removed, its links are cut.

Before the first step of a run, all VMs of others are kept off the cores that are the vApp's own
(`cores`), and each VM that is started is kept to its own.

At the end of a run, vcloud looks at the host's side of the vApp once more. `up` calls the vApp
protected only if nothing differs there. libvirt has no calls to change flags of ports, addresses,
and foreign ports. For these, root runs commands on the host: the plan lists them, and `mend` runs
them.

Copies of the vApp on hosts that a person has said to be dead are removed before the first step
(`superseded`).

Minutes may pass between the plan and a step, while images are uploaded. So each step that stops a VM
first looks at it once more (`last_look`): what somebody has put over a disk, or saved, meanwhile was
named in no plan.

Every step can be repeated. During a run, the manifest says `applying`, and the mark of a domain
gets its digests only when the VM is completely made. So if a run is killed, the next `up` finishes
its work, or `down` removes it.

Only one run at a time changes a vApp. The manifest names the lock of the run that has claimed the
vApp. A run checks before each step that it still has its lock, and at the end that the manifest is
still its own. A guest program that a killed run started goes on. So each run has a number, higher
than all before it, and sends the number with every identity and all rules. The guest runs one such
program at a time, and refuses commands with a lower number.

A VM that is made anew wakes from a memory image if the host has one (`wake`). Otherwise, or if
waking fails, it boots. The number of VMs that wake, are restored or load rules at the same time is
the number of the host's processors. The appliances come first, because all other VMs wait for them.
After the first answer of its guest agent, a woken VM is treated like a booted one: the same
identity document gives it its name, its key and its own entropy, and libvirt has the same
definition of it. An image of a user's own cannot read that document. It wakes in the middle of its
boot (`vcloud.compile.guest.gate`), and cloud-init does the rest.

`start` is a run of `up` whose wanted manifest is the one that the host has, so it needs no file. A
manifest has no contents of files: the identity that `start` gives only names their paths.

A VM that was saved (by `vcloud save`, or by hand with virsh) is resumed with its own key and
machine id. It gets the time, fresh entropy, and the changes of the file since it was saved. Its
links are cut before it runs, and are raised after the rules are loaded.

`moving` moves a stopped vApp to another host (`vcloud.plan.moving` tells the steps), and `draining`
all vApps of a host. What was begun is ended by `settle`, which `up` asks first. On the destination the
vApp is started by the steps of `up`, from its manifest instead of its file: the guests keep their files.
"""
