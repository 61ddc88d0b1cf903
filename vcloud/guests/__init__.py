"""Everything that vcloud says to a guest, and everything that it reads from one.

There are three ways to a guest: its guest agent, a virtio-serial channel, and the serial console.
None of them is a network path, so administering a VM does not weaken its isolation.

What a guest says is hostile, because an attacker may control the VM. An answer is data of any form
until `vcloud.untrusted` has read it. An answer that cannot be read fails the work on that one VM
only.

- `setup`: what vcloud does in a VM of a shipped image before its services start. `services`: how
  they fare, and what they are told when their files change. `cloud_init`: a user's own image.
- `appliances`: what the firewall and the IPS report. `probes`: the probe program (`remote` is its
  Python form).
- `access`, `ssh`, `console`, `logs`: what the commands `exec`, `ssh`, `console` and `logs` do.

Only `vcloud.hosts` calls libvirt: `hosts.agent`, `hosts.channel` and `hosts.console` open the ways,
and this package uses them.

To ask a guest one more thing: add a function to `appliances` that runs the program and returns a
frozen value, and a parser of its output, as in `vcloud.proof.ips_report`. Callers parse nothing
themselves.
"""
