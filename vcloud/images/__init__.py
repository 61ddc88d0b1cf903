"""Images, from which VMs start: built from Debian packages by recipes, or a user's own qcow2 files.

- A recipe describes the content of an image. The digest of an image covers the recipe, its tree of
  files, added packages, its base and the sources of the guest programs. The cache has one image per
  digest. Its folder appears in one rename, so a folder in the cache is always complete. A lock per
  digest makes the second of two builds wait for the first.
- A recipe does not name versions of packages. So an image also has a content digest, the digest of
  its bytes, which is part of its names on hosts. It also has a list of packages, which tells
  whether a later build differs (`refresh`, `vcloud.plan.images`).
- Images boot by direct kernel boot: QEMU loads the kernel and the initramfs itself. Firmware, boot
  loader and a distribution's initrd would cost most of a minute without KVM. The build unpacks the
  kernel to its ELF form. The initramfs holds one static program and a few modules in load order.
  This program mounts the root disk, which has no partition table.
- A derived image starts from the packed root of its base and not from a new bootstrap, so only its
  own packages must be installed.
- A recipe may be hostile, and so may an image that it has made. So its commands, and all programs
  that read what they have written, run in a jail: `jail` starts `inside`, which makes namespaces in
  which root has no rights on this machine (`ids`) and the file system holds only the image. The
  build itself opens no file of the image. It reads archives that the jail writes, and takes only
  regular files from them. `tree` reads the files of a recipe, and follows no link. The only network
  of the jail is the proxy in `way_out`.
- The kernel ends the jail with its parent. So a killed build leaves no mounts and no processes,
  only a folder, which the next build removes.

To add a key to recipes, add it to `recipe._File` and `recipe.Recipe` and, if the image depends on
it, to `recipe.digest`, and use it in `build`. To add a shipped image, add a folder with an image.yaml to images/.
"""
