"""All communication with guests.

There are three ways to a guest: its guest agent, a virtio-serial channel, and the serial console.
None of them is a network path, so administering a VM does not weaken its isolation.

A guest's answers may be hostile, because an attacker may control the VM. `vcloud.untrusted` checks
the form of every answer. If an answer cannot be read, only the work on that VM fails.

- `setup`: the steps in a VM of a shipped image before its services start. `services`: the state of
  its services, and how they are reloaded when their files change. `cloud_init`: the same for a
  user's own image.
- `appliances`: the reports of the firewall and the IPS. `probes`: the probe program (`remote` is
  its Python version).
- `access`, `ssh`, `forwarding`, `console`, `logs`: the commands `exec`, `ssh`, `port-forward`, `console`
  and `logs`.
- `copying`: the command `cp`; `archive` unpacks what a guest sends.
- `ssh_names`, `ssh_files`: the VMs as hosts of plain ssh and of Ansible.

Only `vcloud.hosts` calls libvirt: `hosts.agent`, `hosts.channel` and `hosts.console` open these
connections, and this package uses them.

To add a question to a guest: add a function to `appliances` that runs the program and returns a
frozen value, and a parser of its output, as in `vcloud.proof.ips_report`. Callers parse nothing
themselves.
"""
