"""A lab: real libvirt hosts on this machine, and beside them an outside world that cannot be left.

Each host has its own network, mount, host name and process namespace, in which the machine's own libvirtd, virtlogd and sshd run
with folders of their own. For everybody who reaches it over qemu+ssh it is a host like any other.

- The first process of a host's process namespace (the holder) is the host: killing it is a power cut that nothing survives,
  neither daemon nor VM. So `down` has no list of processes to keep, and no process number is ever written down: what belongs
  to a lab is what the kernel finds in the lab's network namespaces.
- The machine's own network namespace has no interface, address or route of a lab. All wires end in namespaces of the lab, so no
  packet can leave by the machine's uplink, whether the lab is up or down. An operator's ssh enters through its ProxyCommand.
- Every step of `up` looks first and makes only what is missing. The second `up` and the repair of a half dead lab are the same code.
- A lab's folder holds all of it: `down` removes the folder and nothing is left.
"""
