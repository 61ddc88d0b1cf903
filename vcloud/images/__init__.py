"""Images, from which VMs start: built from Debian packages by recipes, or a user's own qcow2 files.

- An image depends only on its recipe. The digest of an image covers the recipe, its tree of files,
  added packages, its base and the sources of the guest programs. The cache has one folder per
  digest, which appears in one rename, so a folder in the cache is always complete. A lock per
  digest makes the second of two builds wait for the first.
- Images boot by direct kernel boot: QEMU loads the kernel and the initramfs itself. Firmware, boot
  loader and a distribution's initrd would cost most of a minute without KVM. The build unpacks the
  kernel to its ELF form. The initramfs holds one static program and a few modules in load order.
  This program mounts the root disk, which has no partition table.
- A derived image starts from the packed root of its base and not from a new bootstrap, so only its
  own packages must be installed.
- The build runs in its own mount and PID namespace, and the kernel ends it with its parent. So it
  leaves neither mounts nor processes behind.

To add a key to recipes, add it to `recipe._File`, `recipe.Recipe` and `recipe.digest`, and use it
in `build`. To add a shipped image, add a folder with an image.yaml to images/.
"""
