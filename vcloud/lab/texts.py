"""The configuration files of a lab, as functions of its layout. They do not repeat a daemon's
default settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from vcloud.compile.libvirt.network import render_bridge_network
from vcloud.design.addressing import uuid_of
from vcloud.lab.account import Account
from vcloud.lab.layout import (
    GATEWAY,
    KVM,
    MAX_HOSTS,
    PRIVATE_FOLDERS,
    SERVER,
    SERVERS4,
    SERVERS6,
    UPLINK4,
    UPLINK6,
    Host,
    Lab,
)

HOSTS = Path("/etc/hosts")
HOME = Path("/run/home")
"""The home of who logs in on a host."""


def libvirtd_conf(host: Host) -> str:
    """Each host has its own `host_uuid`. Otherwise all hosts would have the machine's UUID, and
    libvirt would refuse a migration between them.

    Nobody but root reaches its sockets: who may use libvirt may do anything as root.
    """
    return f"""\
host_uuid = "{host.uuid}"
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_ro_perms = "0700"
unix_sock_rw_perms = "0700"
unix_sock_admin_perms = "0700"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
"""


def qemu_conf(user: Account) -> str:
    """All hosts share the machine's kernel. So they use no cgroups, whose names would clash, and no
    security labels, because a kernel has only one policy. What is left to hold a guest that breaks
    out of QEMU is that QEMU is not root: libvirt gives it the files of its VM, and no others.
    """
    return f"""\
user = "+{user.uid}"
group = "+{user.gid}"
security_driver = "none"
cgroup_controllers = []
"""


def uplink_network(host: Host) -> str:
    uuid = uuid_of("lab", host.lab.name, host.name, "uplink")
    return render_bridge_network("uplink", uuid, "uplink0")


def sshd_config(host: Host) -> str:
    """By default sshd starts to refuse logins when 10 others are in progress (MaxStartups), and
    allows 10 sessions per connection (MaxSessions), see sshd_config(5). A lab allows more of both.

    Who logs in has a home of the host's own. The shell would read the `.bashrc` of this machine's
    root otherwise, for every command. It may be slow, or say something where libvirt's protocol is
    expected.
    """
    return f"""\
ListenAddress {host.management4}
HostKey /etc/ssh/ssh_host_ed25519_key
AuthorizedKeysFile /etc/ssh/authorized_keys
AuthenticationMethods publickey
PermitRootLogin prohibit-password
UsePAM yes
UseDNS no
PrintMotd no
PrintLastLog no
MaxStartups 100
MaxSessions 100
SetEnv HOME={HOME}
Subsystem sftp internal-sftp
"""


def hosts_file(lab: Lab) -> str:
    """Names every host that the lab may have, so that a running host knows the name of a host that
    is added later.
    """
    lines = [f"{host.management4} {host.name}" for host in map(lab.host, range(1, MAX_HOSTS + 1))]
    return "\n".join(["127.0.0.1 localhost", "::1 localhost", *lines]) + "\n"


def mounts(host: Host) -> tuple[tuple[Path, Path], ...]:
    """Pairs (source, target) of the host's bind mounts.

    A mount that hides the lab's folder from the host comes last, because the sources of all mounts
    are in this folder.
    """
    # `is_relative_to` is True for a private folder that contains the lab's folder, and True sorts
    # after False.
    targets = (HOSTS, *sorted(PRIVATE_FOLDERS, key=host.folder.is_relative_to))
    return tuple((host.machine_path(target), target) for target in targets)


def fstab(host: Host, *, own_kvm: bool) -> str:
    """With `own_kvm`, the host has a device of its own in place of the machine's /dev/kvm."""
    pairs = [*([(host.kvm, KVM)] if own_kvm else []), *mounts(host)]
    binds = [f"{source} {target} none bind 0 0" for source, target in pairs]
    return "\n".join(["sysfs /sys sysfs defaults 0 0", *binds]) + "\n"


def ssh_config(lab: Lab, hosts: Iterable[Host]) -> str:
    """The configuration for OpenSSH and paramiko. The ProxyCommand enters the lab at the operator's
    address on the management segment.
    """
    parts = [f"Host {host.name}\n  HostName {host.management4}\n" for host in hosts]
    return f"""\
{"".join(parts)}
Host *
  User root
  IdentityFile {lab.key}
  IdentitiesOnly yes
  UserKnownHostsFile {lab.known_hosts}
  GlobalKnownHostsFile none
  StrictHostKeyChecking yes
  UpdateHostKeys no
  BatchMode yes
  ConnectTimeout 20
  ServerAliveInterval 10
  LogLevel ERROR
  ProxyCommand nsenter --net=/run/netns/{lab.switch} nc %h %p
"""


def ssh_wrapper(lab: Lab) -> str:
    return f'#!/bin/sh\nexec ssh -F {lab.ssh_config} "$@"\n'


def known_hosts(hosts: Iterable[Host]) -> str:
    lines = []
    for host in hosts:
        kind, key = host.host_key.with_suffix(".pub").read_text().split()[:2]
        lines.append(f"{host.name},{host.management4} {kind} {key}\n")
    return "".join(lines)


def inventory(hosts: Iterable[Host], labels: Mapping[str, Mapping[str, str]]) -> str:
    """The inventory file of the lab's hosts. Its key `outside` tells `vcloud verify` where the
    simulated internet is. `labels` are those of each host by its name.
    """
    uplink = {
        "network": "uplink",
        "prefix4": str(UPLINK4),
        "gateway4": str(UPLINK4[GATEWAY]),
        "prefix6": str(UPLINK6),
        "gateway6": str(UPLINK6[GATEWAY]),
    }
    entries = {
        host.name: {
            "uri": host.uri,
            # A client on this machine would reach a host that has failed through this socket.
            **({} if host.failed.exists() else {"local_uri": host.local_uri}),
            "ssh_config": str(host.lab.ssh_config),
            "operator_key": str(host.lab.key),
            "uplink": dict(uplink),
            "outside": {
                "netns": host.lab.outside,
                "server4": str(SERVERS4[SERVER]),
                "server6": str(SERVERS6[SERVER]),
            },
            **({"labels": dict(labels[host.name])} if labels.get(host.name) else {}),
        }
        for host in hosts
    }
    return yaml.safe_dump({"hosts": entries}, sort_keys=False)


def outside_ruleset(port: int) -> str:
    """nft rules that send every TCP and UDP port of every server address to the responder. The
    responder still sees the original address and port.
    """
    # nft refuses to delete a table that does not exist. So the table is made first, then deleted,
    # then made with its content, all in one transaction.
    return f"""\
table inet outside
delete table inet outside
table inet outside {{
  chain servers {{
    type filter hook prerouting priority mangle
    ip daddr {SERVERS4} meta l4proto {{ tcp, udp }} tproxy ip to :{port}
    ip6 daddr {SERVERS6} meta l4proto {{ tcp, udp }} tproxy ip6 to :{port}
  }}
}}
"""
