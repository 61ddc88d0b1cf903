"""Walks a plan on one host.

The order is the safety: networks, then the appliances, loaded and checked, and only then does any workload get a live link. Workloads boot
beside the appliances to save time, but with their links down and their services behind the gate. When something is taken away, links go first.

Every step can be repeated. The manifest says `applying` while a run is under way, and each domain carries the digests of what it was made from
only once it is wholly made; whatever a killed run left is therefore recognised by the next `up`, which finishes it, and by `down`, which removes it.
"""
