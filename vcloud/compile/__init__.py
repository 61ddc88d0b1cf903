"""Turns a design into the texts that other programs load: libvirt's XML, nft's ruleset, Suricata's
files, identities of VMs, pictures.

Everything here is pure. The same design gives the same bytes on every machine. So texts are
compared by digest, and a plan needs no call to a host to know what it would deliver. Nothing
depends on a hash seed, on the time or on a path of this machine.

Text that is loaded into an appliance or a guest names the flow, detector or control that it belongs
to by its id, and never a line, a file name, a reason or the version of a profile. It is sorted by
these ids. So editing comments, moving entries and renaming the file reload nothing. The order of
the file matters in a few places only: the zones of a VM (the first one has its default route) and
run commands. Until the vApp exists, the order of its zones (which orders the firewall's NICs),
disks (`vdb`, `vdc`, ...) and files matters, too (`vcloud.design.standing`).

Templates hold layout, and Python makes the decisions: a template prints values that were computed
and typed before, and a value that is missing or None raises. jinja escapes XML. nft and Suricata
have no reliable escape, so a user's free text reaches them only through a function that replaces all
but harmless characters.

Secrets stay out: `vcloud.apply` adds a VM's host key, the clock and the entropy at the moment of
delivery.

The test payloads by which `verify` proves the IPS are made here, beside the rules that must stop
them.
"""
