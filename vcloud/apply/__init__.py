"""Walks a plan on one host.

The order is the safety: networks, then the appliances, loaded and checked, and only then does any workload get a live link. Workloads boot
beside the appliances to save time, but with their links down and their services behind the gate. When something is taken away, links go first.

Every step can be repeated. The manifest says `applying` while a run is under way, and each domain carries the digests of what it was made from
only once it is wholly made; whatever a killed run left is therefore recognised by the next `up`, which finishes it, and by `down`, which removes it.

A VM that is made anew wakes from the memory of a template where the host has one (`wake`), and boots where not, or where anything stands in
the way. As many wake at a time as the host has processors: the appliances first, then in the order of their start, because what all others
wait for must not share a processor with those who wait. From its agent's first answer on both are the same: one document gives either its
identity, its key and its own randomness, and the definition that libvirt keeps is that of a cold boot. An image of a user's own, which cannot
be told so, wakes in the middle of its boot (`vcloud.compile.guest.gate`), and cloud-init does the rest.

A VM that was saved (`save`, or somebody's virsh) goes on where it was. It is no copy, so that it keeps its key and its machine id; it gets the
time, fresh randomness and whatever the file says differently now. Its links are cut before it runs, and come back in their turn, after the rules.
"""
