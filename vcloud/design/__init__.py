"""What a vApp is once nothing is left to guess.

Names, UUIDs, MACs and addresses are hashes of the vApp's own names (`addressing`), not numbers dealt out in file order: adding a VM moves
nobody else, every host and every run agree without asking each other, and libvirt's state is recognised with no local record of it.

A `Design` does not know its host. What only a host can say (the uplink's addresses, whether KVM works, where volumes lie) joins it when
it is compiled, so the same design can be compared with what any host holds.

All ends of flows are pairs of cards here (`FlowPath`). Firewall, IPS, /etc/hosts and the checks of `verify` start from these same pairs, so
there is one answer to the question by which card a VM with several of them is met.

`resolve` is the only place where a default of the design is decided; fields that nobody asked for are empty, never absent.
"""
