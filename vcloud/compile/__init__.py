"""From a design to texts that others load: libvirt's XML, nft's ruleset, Suricata's files, identities of VMs, pictures.

Everything here is pure. The same design gives the same bytes on every machine, so texts can be compared by digest, and a plan costs no
call to a host. Order comes from the design or is sorted; nothing depends on a hash seed, on time or on a path of this machine.

MemoryImages hold layout, Python holds decisions: what a template prints was worked out and typed before, and a name that is missing or
None raises. XML is escaped by the environment; nft and Suricata have no escape worth the name, so no free text of a user reaches
them but through a function that leaves only harmless characters.

Secrets stay out: a VM's host key, the clock and the random seed are added at delivery, by `vcloud.apply`.

`cards` and `example` make the payloads by which `verify` proves the IPS: what a rule stops is decided beside the rule.
"""
