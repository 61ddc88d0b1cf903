"""Hosts: everything that vcloud does with libvirt and with the shell of a libvirt host.

This is the only package that imports libvirt or paramiko. It gives plain values and VcloudErrors to
the other packages. The oldest supported libvirt is 9.0, the release in Debian 12. These are the
reasons behind the design:

- All state of a vApp is on its host. vcloud stores it in the metadata of libvirt networks that are
  never started (see `metadata`). To define such a network is one atomic step, libvirt refuses a
  second network of the same name, and the metadata can hold some hundred KiB. A lock is a network
  with a random UUID: libvirt refuses a second lock of that name, because its UUID differs. A
  manifest is a network with a fixed UUID: a new manifest replaces the old one.
- A person can remove the lock of a process that is only stopped. So a process that works under the
  lock of a vApp asks for the lock before it uses the host or a guest (see `lock`).
- libvirt cannot rename a volume. So every upload gets a new volume with a random part in its name,
  which it keeps. An empty marker volume beside it says that the upload is complete (see `uploads`).
- Copies of images stay on a host for the next VMs. They are deleted (`host_images`) only under a lock
  beside which no run works, and only if nothing that libvirt knows is based on them (`image_users`).
- vcloud talks to guests through the QEMU guest agent and virtio-serial channels. Neither needs a
  network.
- A libvirt call blocks in C code, but other Python threads run meanwhile. libvirtd works on five
  calls of one connection at a time (see `connection.MAX_CALLS`).
- libvirt does not tell what others have done to bridges, taps and packet filters. So `host_side` also
  asks the host's root, by a program that only reads (`vcloud.enforce`).
- Which cores are whose, the manifests say (`cores`). A vApp gets cores under the lock under which it gets
  its address outside, and afterwards looks at the VMs that run. Who starts a VM looks at the manifests
  afterwards. So one of the two sees the other.
- vcloud never trusts an SSH host key on first use. The key of a host, or of an authority that has
  certified it, must be in known_hosts before vcloud connects. `ssh -G` tells how to log in
  (`ssh_config`), so that commands by paramiko and libvirt's own ssh go the same way.
- Disks go from one host to another through this machine, in streams of two open connections (`copying`).
  A copy counts only when it was read back, and has the digest of what was sent.
- What a prepared host has is described once, in `vcloud.plan.preparation`. `preparing` looks at a host
  by programs that every Debian has, because a plain one has neither Python nor libvirt.
- The text of an inventory is changed where it must be, and then read like any other
  (`inventory_file`): a file that would say something else is not written.

To add a call to libvirt, begin at `Host.connection`, which asks for the lock, and wrap the call in
`connection.translated`, which turns libvirt's errors into HostError. To explain one more reason why a host cannot be opened, add it to `refusals`. A fact that
`doctor` and placement need about a host goes into `capabilities`.
"""
