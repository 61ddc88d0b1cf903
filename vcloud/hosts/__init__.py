"""Hosts: what vcloud says to libvirt, and what it says to a host's shell.

This is the only package that imports libvirt or paramiko; what leaves it are values and VcloudErrors. Its floor is libvirt 9.0 as Debian 12
has it, so everything here is built from what that release can do:

- All state is on the host. Inactive libvirt networks are the database: defining one is atomic, a name can be taken only once, and its
  metadata keeps up to some hundred KiB. Locks are networks with a random UUID (a second one is refused), manifests have a fixed UUID
  (a second one replaces the first).
- Volumes cannot be renamed, so an upload has a name of its own until the end of time, and a marker beside it says that it is whole.
- Guests are spoken to through the guest agent and virtio-serial channels. Neither needs a network.
- libvirt's calls block in C and let Python's other threads run. One connection carries five of them at a time.
- There is no trust on first use: a host's SSH key is known before the first connection, or there is none.
"""
