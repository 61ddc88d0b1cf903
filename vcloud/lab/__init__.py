"""A lab: real libvirt hosts on this machine, made of namespaces, and a simulated internet that
packets cannot leave.

Each host has its own network, mount, UTS and PID namespace. In these namespaces run the libvirtd,
virtlogd and sshd that are installed on the machine, with configuration and state folders of their
own. Over qemu+ssh, such a host looks like any other libvirt host. The simulated internet is
a network namespace called `outside`.

- The first process in the PID namespace of a host, its holder, stands for the host. When the kernel
  ends this process, it ends all processes of the PID namespace, daemons and VMs alike, as a power
  cut would. So `down` needs no list of processes, and no process number is stored anywhere. The
  kernel tells which processes belong to a lab: those in the lab's network namespaces.
- The machine's own network namespace has no interface, address or route of a lab. Both ends of
  every virtual cable are in namespaces of the lab. So no packet can leave through the machine's
  uplink, whether the lab runs or not. The operator's ssh enters the lab through a ProxyCommand.
- Every step of `up` checks what exists and creates only what is missing. So the same code starts a
  lab, does nothing to a running lab, and repairs a lab of which parts have ended.
- All files of a lab are in one folder, which `down` deletes.

To add a daemon, add its name to `host.DAEMONS`, its start to `host.ensure_host`, its configuration
file to `texts`, and its package to `lab.PACKAGES`.
"""
