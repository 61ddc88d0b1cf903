"""What a VM starts from: images built from Debian packages by recipes, and a user's own qcow2 files.

An image is a function of its recipe: the digest covers the recipe, its tree of files, added packages, the base and the sources of the
guest programs. The cache is a folder per digest that appears in one rename, so what can be found is whole; a lock per digest lets the
second of two builds wait for the first.

Images boot by direct kernel boot, because firmware, boot loader and a distribution's initrd cost most of a minute without KVM: the
kernel is unpacked to its ELF form when the image is built, and the initramfs is one static program and a few modules in load order.
The root disk has no partition table and is mounted by that program.

A derived image starts from the packed root of its base, not from a second bootstrap, and pays only for its own packages. The build runs
in its own mount and process namespace and dies with its parent: neither mounts nor processes are left behind.
"""
