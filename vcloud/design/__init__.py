"""The vApp as vcloud will build it, with every name, address and size decided.

UUIDs, MAC addresses and IP addresses are hashes of the vApp's own names (`addressing`), not numbers
in the order of the file. So a new VM changes nothing of the others, all hosts and all runs compute
the same values, and vcloud recognises its objects in libvirt without a local record. Names on a
host come from an instance of the vApp (`names`), so that a copy can run beside it.

A `Design` does not know its host. What only a host can say (the uplink's addresses, whether KVM
works, where volumes lie) is added when the design is compiled. So one design can be compared with
what any host has.

The ends of a flow are pairs of NICs here (`FlowPath`). Firewall, IPS, /etc/hosts and the checks of
`verify` all start from these pairs. So all of them agree by which NIC a VM with several NICs is
reached.

Each part knows why it exists (`origin`): a line of the file, a control of a profile, or vcloud
itself.

`resolve` is the only place where a default of the design is decided. A field that the user left out
is empty, and never missing. A vApp that exists keeps the order of its parts (`standing`), so that
sorting the keys of a file restarts nothing.
"""
