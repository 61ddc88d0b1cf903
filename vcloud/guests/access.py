"""Ways into VMs that need no network: the guest agent, a channel of the hypervisor for ssh, the serial console."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vcloud.design.model import Role
from vcloud.errors import UsageError
from vcloud.hosts import machines
from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.inventory import choose_host
from vcloud.hosts.observe import observe_domain, observe_vapp
from vcloud.hosts.volumes import VappVolumes

if TYPE_CHECKING:
    from vcloud.hosts.executed import Executed
    from vcloud.plan.state import DomainState

KEY_FOLDER = "/run/vcloud/ssh"
LOG_TIMEOUT = 60
DENIED_COLUMNS = "denied: {source} -> {target} {protocol}/{port}, {packets} packets"


@contextmanager
def _running(vapp: str, vm: str, connect: str | None) -> Iterator[tuple[Host, DomainState]]:
    """The host and the domain of a running VM. Raises UsageError that names the VMs there are."""
    with open_host(choose_host(connect)) as host:
        domain = observe_domain(host, f"{vapp}.{vm}")
        if domain is None or domain.marks.vapp != vapp:
            names = [found.marks.vm for found in observe_vapp(host, vapp).domains]
            hint = f"There are: {', '.join(sorted(names))}." if names else "vcloud list shows the vApps."
            raise UsageError(f"there is no VM '{vapp}/{vm}' on {host.name}", hint)
        if not domain.running:
            raise UsageError(f"'{vapp}/{vm}' does not run", "`vcloud up` starts it.")
        yield host, domain


def execute_in(vapp: str, vm: str, argv: Sequence[str], connect: str | None, stdin: bytes, timeout: int) -> Executed:
    """Runs a command in a VM by its guest agent."""
    with _running(vapp, vm, connect) as (host, domain):
        return machines.agent_of(host, domain.name).execute_at_length(list(argv), stdin=stdin, timeout=timeout)


def ssh_into(vapp: str, vm: str, user: str, argv: Sequence[str], connect: str | None) -> int:
    """The system's ssh, over a channel of the hypervisor, with the VM's pinned host key and a key that lives for this session only.

    Returns ssh's exit code. Raises UsageError where the VM has no sshd or no pinned key.
    """
    with _running(vapp, vm, connect) as (_, domain):
        if domain.marks.role != Role.WORKLOAD:
            raise UsageError(
                f"'{vapp}/{vm}' is an appliance without sshd", f"Take: vcloud exec {vapp}/{vm} -- COMMAND, or vcloud console {vapp}/{vm}."
            )
        if not domain.marks.host_key:
            raise UsageError(f"no host key is pinned for '{vapp}/{vm}'", "`vcloud up` finishes it.")
        pinned = domain.marks.host_key
    with tempfile.TemporaryDirectory(prefix="vcloud-ssh-") as folder:
        return subprocess.call(_ssh_argv(Path(folder), vapp, vm, user, argv, connect, pinned))


def _ssh_argv(folder: Path, vapp: str, vm: str, user: str, argv: Sequence[str], connect: str | None, pinned: str) -> list[str]:
    key, known = folder / "key", folder / "known_hosts"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "vcloud", "-f", str(key)], check=True, stdin=subprocess.DEVNULL)
    alias = f"{vapp}.{vm}"
    known.write_text(f"{alias} {pinned}\n")
    proxy = [sys.executable, "-m", "vcloud", "_channel", vapp, vm, str(key) + ".pub", *(("--connect", connect) if connect else ())]
    options = {
        "HostKeyAlias": alias,
        "UserKnownHostsFile": str(known),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "IdentityFile": str(key),
        "IdentitiesOnly": "yes",
        "ControlPath": "none",
        "ConnectTimeout": "120",
        "ProxyCommand": shlex.join(proxy),
    }
    flags = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    return ["ssh", "-F", "/dev/null", *flags, "-l", user, alias, *argv]


def pump(vapp: str, vm: str, key: Path, connect: str | None) -> None:
    """Carries stdin and stdout to and from an sshd of its own in the VM, which lets in the public key in the file `key`."""
    from vcloud.hosts.channel import Sshd, authorize, serve_proxy

    with _running(vapp, vm, connect) as (host, domain):
        agent = machines.agent_of(host, domain.name)
        allowed = authorize(agent, KEY_FOLDER, key.read_text())
        try:
            serve_proxy(host, domain.name, Sshd(allowed))
        finally:
            agent.execute(["rm", "-f", allowed])


def attach_console(vapp: str, vm: str, connect: str | None) -> None:
    """The serial console of a VM on this terminal."""
    from vcloud.hosts.console import attach

    with _running(vapp, vm, connect) as (host, domain):
        attach(host, domain.name)


def log_of(vapp: str, vm: str, connect: str | None, lines: int) -> str:
    """The end of a VM's console; an appliance adds what it stopped. Works for VMs that do not run, too."""
    with open_host(choose_host(connect)) as host:
        domain = observe_domain(host, f"{vapp}.{vm}")
        if domain is None:
            raise UsageError(f"there is no VM '{vapp}/{vm}'", f"vcloud status {vapp} shows what there is.")
        text = "".join(f"{line}\n" for line in VappVolumes(host).console_tail(domain.name, lines))
        if domain.running and domain.marks.role == Role.FIREWALL:
            text += "".join(f"{line}\n" for line in _denied(host, domain.name)[-lines:])
        if domain.running and domain.marks.role == Role.IPS:
            text += "".join(f"{line}\n" for line in _events(host, domain.name)[-lines:])
        return text


def _denied(host: Host, domain: str) -> list[str]:
    from vcloud.guests.appliances import FIREWALL_REPORT
    from vcloud.proof.firewall_report import parse_report

    report = parse_report(machines.agent_of(host, domain).execute_at_length([FIREWALL_REPORT], timeout=LOG_TIMEOUT).stdout)
    return [
        DENIED_COLUMNS.format(source=source, target=target, protocol=protocol, port=port, packets=packets)
        for (source, target, protocol, port), packets in sorted(report.denied.items())
    ]


def _events(host: Host, domain: str) -> list[str]:
    from vcloud.guests.appliances import IPS_REPORT
    from vcloud.verify.run import parse_events

    found = []
    for event in parse_events(machines.agent_of(host, domain).execute_at_length([IPS_REPORT, "events"], timeout=LOG_TIMEOUT).stdout):
        if isinstance(event.get("alert"), dict):
            alert = event["alert"]
            ends = f"{event.get('src_ip')}:{event.get('src_port', 0)} -> {event.get('dest_ip')}:{event.get('dest_port', 0)}"
            found.append(f"{event.get('timestamp', '')} {alert.get('action', '')}: {alert.get('signature', '')} ({ends})")
    return list(dict.fromkeys(found))  # what is dropped is there twice, as an alert and as a drop
