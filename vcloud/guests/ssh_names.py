"""The VMs as hosts of plain ssh: `web-1.shop`. What stands in the ssh configuration, in known_hosts and
in Ansible's inventory about them. Pure.

Names and keys come from a host's libvirt, where anybody may have written them who may use it. A line of
an ssh configuration can start programs, so only names and keys of vcloud's own form get into one.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vcloud.design.model import Role
from vcloud.errors import UsageError
from vcloud.plan.state import VappState

HEAD = """\
# `vcloud ssh-config` and `vcloud inventory` write this file, and replace all of it.
# The connections go through a channel of the hypervisor; no network path is opened.
"""
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_KEY = re.compile(r"ssh-ed25519 [A-Za-z0-9+/]{20,200}={0,2}")


@dataclass(frozen=True, slots=True)
class SshHost:
    """A workload that ssh can log in to."""

    vapp: str
    vm: str
    tier: str
    host_key: str
    """As in known_hosts."""
    zones: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its name for ssh. No name of a vApp or a VM has a dot."""
        return f"{self.vm}.{self.vapp}"


@dataclass(frozen=True, slots=True)
class SshFolder:
    """The folder of vcloud's own files for plain ssh."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config"

    @property
    def known_hosts(self) -> Path:
        return self.path / "known_hosts"

    @property
    def key(self) -> Path:
        """A private key that no VM knows. While a connection is made, its public half may log in."""
        return self.path / "id_ed25519"


def ssh_hosts(state: VappState) -> Iterator[SshHost]:
    """The workloads of a vApp that have a pinned host key. What has no name or key of vcloud's form
    is left out.
    """
    manifest = state.manifest
    for vm in manifest.design.vms if manifest else ():
        domain, vapp = state.domain(vm.domain), vm.domain.partition(".")[0]
        key = domain.marks.host_key.strip() if domain and domain.uuid == vm.uuid else ""
        sound = all(map(_NAME.fullmatch, (vapp, vm.name, vm.tier))) and _KEY.fullmatch(key)
        if vm.role is Role.WORKLOAD and sound:
            both = (one for nic in vm.nics for one in (nic.address4, nic.address6))
            yield SshHost(
                vapp,
                vm.name,
                vm.tier,
                key,
                tuple(nic.zone for nic in vm.nics if _NAME.fullmatch(nic.zone)),
                tuple(str(address) for address in both if address is not None),
            )


def ssh_config_text(
    hosts: Iterable[SshHost], folder: SshFolder, channel: Sequence[str], connect: str | None
) -> str:
    """The ssh configuration. `channel` is the command `vcloud _channel` without its arguments. Raises
    UsageError where a path cannot be written in such a file.
    """
    key, known = _quoted(folder.key), _quoted(folder.known_hosts)
    more = ("--connect", connect) if connect else ()
    parts = [HEAD]
    for host in sorted(hosts, key=lambda host: host.name):
        proxy = shlex.join([*channel, host.vapp, host.vm, f"{folder.key}.pub", *more])
        lines = (
            "User root",
            f"ProxyCommand {_on_one_line(proxy)}",
            f"HostKeyAlias {host.name}",
            f"UserKnownHostsFile {known}",
            "GlobalKnownHostsFile /dev/null",
            "StrictHostKeyChecking yes",
            "UpdateHostKeys no",
            f"IdentityFile {key}",
            "IdentitiesOnly yes",
            # A hostile VM must neither ask for a password nor get what the user's own
            # configuration gives to every host. Options of the command line still win.
            "PreferredAuthentications publickey",
            "ForwardAgent no",
            "ForwardX11 no",
            "ConnectTimeout 120",
        )
        parts.append("".join([f"\nHost {host.name}\n", *(f"    {line}\n" for line in lines)]))
    return "".join(parts)


def known_hosts_text(hosts: Iterable[SshHost]) -> str:
    return "".join(sorted(f"{host.name} {host.host_key}\n" for host in hosts))


def with_include(text: str, config: Path) -> str:
    """The user's ssh configuration, with the folder's file included. An Include after a `Host` would
    count for this host only, so it stands first. Nothing else changes.
    """
    line = f"Include {_quoted(config)}"
    return text if line in (found.strip() for found in text.splitlines()) else f"{line}\n{text}"


def ansible_inventory(hosts: Iterable[SshHost], folder: SshFolder) -> dict[str, object]:
    """Ansible's inventory as its dynamic inventories print it with --list. Each vApp is a group, and
    each of its tiers. Raises UsageError where two groups would have one name.
    """
    found = sorted(hosts, key=lambda host: host.name)
    tiers: dict[str, list[str]] = {}
    vapps: dict[str, list[str]] = {}
    named: dict[str, tuple[str, str]] = {}
    for host in found:
        vapp, tier = _group(host.vapp), f"{_group(host.vapp)}__{_group(host.tier)}"
        for group, means in ((vapp, (host.vapp, "")), (tier, (host.vapp, host.tier))):
            if named.setdefault(group, means) != means:
                raise UsageError(
                    f"the group '{group}' of Ansible would mean {_said(means)} and {_said(named[group])}",
                    "Name the vApps that you want: vcloud inventory VAPP.",
                )
        tiers.setdefault(tier, []).append(host.name)
        if tier not in vapps.setdefault(vapp, []):
            vapps[vapp].append(tier)
    return {
        "_meta": {"hostvars": {host.name: host_variables(host, folder) for host in found}},
        "all": {"children": [*vapps]},
        **{vapp: {"children": children} for vapp, children in vapps.items()},
        **{tier: {"hosts": names} for tier, names in tiers.items()},
    }


def host_variables(host: SshHost, folder: SshFolder) -> dict[str, object]:
    """Ansible's variables of one host."""
    return {
        "ansible_user": "root",
        "ansible_ssh_common_args": f"-F {shlex.quote(str(folder.config))}",
        "vcloud_vapp": host.vapp,
        "vcloud_vm": host.vm,
        "vcloud_tier": host.tier,
        "vcloud_zones": [*host.zones],
        "vcloud_addresses": [*host.addresses],
    }


def ini_inventory(hosts: Iterable[SshHost], folder: SshFolder) -> str:
    """The same inventory as Ansible's INI. Raises as `ansible_inventory` does."""
    found = list(hosts)
    data = ansible_inventory(found, folder)
    variables = {host.name: host_variables(host, folder) for host in found}
    lines = []
    for group, content in data.items():
        if not isinstance(content, dict) or group in ("_meta", "all"):
            continue
        kind = "children" if "children" in content else "hosts"
        lines.append(f"[{group}{':children' if kind == 'children' else ''}]")
        for name in content[kind]:
            shown = "".join(
                f" {key}={_ini_value(value)}" for key, value in variables.get(name, {}).items()
            )
            lines.append(f"{name}{shown}")
        lines.append("")
    return "\n".join(lines)


def _ini_value(value: object) -> str:
    # Ansible splits the line like a shell, and reads what is left as a literal of Python.
    return shlex.quote(value if isinstance(value, str) else json.dumps(value))


def _group(name: str) -> str:
    return name.replace("-", "_")


def _said(means: tuple[str, str]) -> str:
    vapp, tier = means
    return f"the tier '{tier}' of '{vapp}'" if tier else f"the vApp '{vapp}'"


def _quoted(path: Path) -> str:
    text = _on_one_line(str(path))
    if '"' in text:
        raise UsageError(f"ssh cannot read the path '{path}' in its configuration")
    return f'"{text}"'


def _on_one_line(text: str) -> str:
    if not text.isprintable():
        raise UsageError(f"ssh cannot read {text!r} in its configuration")
    return text.replace("%", "%%")  # ssh replaces %h and the like
