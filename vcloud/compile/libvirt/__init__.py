"""libvirt's XML: domains and their devices, networks, network filters, storage pools and volumes,
and vcloud's records.

All XML that vcloud writes is a template in `templates/libvirt`, printed from typed values. jinja
escapes every value, so no name, path or text can break out of its place. Only XML that libvirt
itself gave (a running domain, a save image) is edited as a tree, in `vcloud.hosts`.

To add a device to VMs, change:

1. `templates/libvirt/NAME.xml.j2`, its XML, which prints `view`;
2. `devices.devices_of`, which says whether it takes a PCIe port and whether a memory image has it
   already; and its view;
3. `tests/unit/compile/libvirt`, which lists the devices that a VM has.

The domain's XML, its number of PCIe ports, the devices plugged into a woken VM and the limit of
NICs follow from these. A device that the memory image has must either be the same in every VM, or
be exchanged when a VM wakes (`vcloud.hosts.saveimage.head_for`).
"""
