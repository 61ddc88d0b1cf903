"""Asks a host for what only its root can see: bridges, packet filters and processes.

The reporter (`vcloud.enforce.host_report`) travels over stdin, so nothing of it is written to the
host. Where vcloud is not root, it runs its installed copy with sudo. Either way it is one exchange.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import libvirt

from vcloud.compile.libvirt.network import vapp_networks
from vcloud.enforce.install import reporter_text
from vcloud.errors import HostError
from vcloud.hosts.connection import Host
from vcloud.plan.host_difference import HostDifference, HostKind, HostSide
from vcloud.plan.host_isolation import kinds_of
from vcloud.plan.host_report import HostReport, parse_host_report
from vcloud.plan.host_side import host_differences, unseen_kinds
from vcloud.plan.manifest import Manifest
from vcloud.plan.state import VappState
from vcloud.proof.report import plain
from vcloud.untrusted import UnreadableError

SECONDS = 20
ELSEWHERE = "vcloud's commands run on another machine than this libvirt, or in another container"
TAIL = 160
"""Characters of the reporter's last words that are shown."""
PYTHON = ("python3", "-I", "-")
"""`-I`: no environment variable and no file in the current folder changes what Python runs."""
INSTALL = "As root on the host itself, `vcloud doctor --fix` installs a reporter for users of group libvirt."


@contextmanager
def looking_at(host: Host) -> Iterator[Callable[[VappState, Manifest], HostSide]]:
    """Begins to look at a host, beside what the caller does next.

    Yields a function that waits for the report and compares it with a vApp. It raises nothing: where
    nothing could be seen, its result says why.
    """
    with ThreadPoolExecutor(1) as pool:
        report = pool.submit(read_report, host)

        def compare(state: VappState, manifest: Manifest) -> HostSide:
            domains = {vm.name: state.domain(vm.domain) for vm in manifest.design.vms}
            networks = {
                network.bridge: state.network(network.name)
                for _, network in vapp_networks(manifest.design)
            }
            standing = _Standing(
                frozenset(name for name, found in domains.items() if found and found.running),
                frozenset(name for name, found in networks.items() if found and found.active),
            )
            return _seen_twice(host, manifest, standing, report.result)

        yield compare


@dataclass(frozen=True, slots=True)
class _Standing:
    """What libvirt says that stands of a vApp."""

    running: frozenset[str]
    """Names of the VMs that run."""
    bridges: frozenset[str]
    """Those of the active networks."""


def _seen_twice(
    host: Host, manifest: Manifest, standing: _Standing, report: Callable[[], HostReport]
) -> HostSide:
    """What the report says of a vApp. What differs is looked at once more, because the vApp may have
    changed between the report and what libvirt said.
    """
    try:
        bridge = uplink_bridge(host, manifest)
        first = _compared(report(), manifest, standing, bridge)
        if not first.differences:
            return first
        again = _compared(read_report(host), manifest, standing, bridge)
        seen = {_told(found) for found in first.differences}
        both = (found for found in again.differences if _told(found) in seen)
        return replace(again, differences=tuple(both))
    except HostError as error:
        kinds = kinds_of(manifest.design)
        return HostSide(unseen=dict.fromkeys(kinds, error.what), hint=error.hint)


def _told(difference: HostDifference) -> tuple[str, ...]:
    """What makes two differences the same one. A process that somebody starts again and again has
    another number each time.
    """
    if difference.kind in (HostKind.PROCESS, HostKind.SOCKET):
        return difference.kind, difference.vm, difference.network, difference.device
    return difference.kind, difference.device, difference.other, difference.what


def _compared(
    report: HostReport, manifest: Manifest, standing: _Standing, uplink_bridge: str
) -> HostSide:
    """What a report says of a vApp. `uplink_bridge` may be empty: it is not known."""
    # A socket can lead to a libvirt in a container, while vcloud's commands run outside. Such a
    # reporter sees none of the active bridges, no card of a running VM, and no VM that libvirt runs.
    running = [vm for vm in manifest.design.vms if vm.name in standing.running]
    devices = {*standing.bridges, *(nic.tap for vm in running for nic in vm.nics)}
    if (
        running
        and standing.bridges
        and devices.isdisjoint(report.devices)
        and report.machines.keys().isdisjoint(vm.domain for vm in running)
    ):
        return HostSide(unseen=dict.fromkeys(kinds_of(manifest.design), ELSEWHERE))
    unseen, kinds = unseen_kinds(report), kinds_of(manifest.design)
    return HostSide(
        host_differences(
            manifest.design,
            standing.running,
            uplink_bridge,
            report,
            dict(manifest.cores),
            manifest.owned,
        ),
        {kind: why for kind, why in unseen.items() if kind in kinds},
        as_root=not report.program,
    )


def program() -> bytes:
    """The text of the reporter."""
    return reporter_text()


def read_report(host: Host) -> HostReport:
    """What the reporter sees on a host.

    Raises:
        HostError: it may not look, it cannot run, or its report cannot be read.
    """
    done = host.shell.run(PYTHON, stdin=program(), timeout=SECONDS)
    if done.code != 0:
        said = plain(done.stderr.decode(errors="replace").strip().rpartition("\n")[2][-TAIL:])
        raise HostError(
            f"the host's side of {host.name} cannot be looked at: {said or f'exit {done.code}'}",
            INSTALL,
        )
    try:
        return parse_host_report(done.stdout)
    except UnreadableError as error:
        raise HostError(
            f"the report of {host.name}'s side cannot be read: {error.what}", INSTALL
        ) from None


def uplink_bridge(host: Host, manifest: Manifest) -> str:
    """The bridge on which the firewalls of this host meet the outside; empty if libvirt does not
    tell.
    """
    uplink = manifest.uplink
    if not uplink.network:
        return uplink.bridge
    try:
        return str(host.connection.networkLookupByName(uplink.network).bridgeName())
    except libvirt.libvirtError:
        return ""
