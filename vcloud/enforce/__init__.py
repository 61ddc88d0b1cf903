"""Programs of vcloud that run on hosts with the rights of root, and their installation.

- `host_report` reads what only root can see of a host: bridges, taps, their packet filters, the
  processes that use them (`host_processes`), and what these share of processors and memory
  (`host_isolation`). It changes nothing.
- `install` says which files they are on a host. `vcloud.hosts.preparing` puts them there.
- `qemu_hook` is libvirt's hook. It refuses to start VMs beside each other that must not share a host,
  by the rules of `vcloud.tenancy`, whose text is a part of it. So are the texts of `hook_files`, of
  `hook_operators`, which decides whose terms count, and of `hook_known`, which knows the VMs of
  vApps that the host has run. libvirt keeps terms where anybody may edit them who may use libvirt, so
  an operator signs them (`vcloud.signature`).

A program of this package is one file, runs on Python 3.9, and imports only the standard library.
No argument, no environment variable and no file that somebody else may write can change what the
reporter does. So a sudoers rule may allow it to a whole group. vcloud reads what it prints as data
that anybody may have written. The hook reads what libvirt gives it, and files of root.

Where vcloud is root, nothing is installed: `vcloud.hosts.host_side` sends the program through stdin.
"""
