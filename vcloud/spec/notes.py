"""Notes on parts of a vApp file that are allowed, but are probably not what the user means."""

from __future__ import annotations

from collections.abc import Iterator

from vcloud.documents.document import dotted
from vcloud.errors import Problem
from vcloud.spec.model import Flow, Vapp
from vcloud.spec.paths import Path, paths_of
from vcloud.values import App, Protocol, share_a_port


def notes(vapp: Vapp, demanded: tuple[str, ...] = ()) -> tuple[Problem, ...]:
    """One note for each part that the user probably does not mean. `demanded` are zones that a profile
    lets the IPS inspect.
    """
    return tuple(
        Problem(vapp.file, vapp.line_of(path), path, what, hint)
        for found in (
            _empty_zones(vapp),
            _unsaid_apps(vapp, demanded),
            _unwatched_nics(vapp),
            _odd_exceptions(vapp),
            _open_secrets(vapp),
        )
        for path, what, hint in found
    )


def _empty_zones(vapp: Vapp) -> Iterator[tuple[str, str, str]]:
    used = {zone for vm in vapp.vms.values() for zone in vm.zones}
    yield from (
        (f"zones.{zone}", "this zone has no VM", "Remove it, or put a VM into it.")
        for zone in vapp.zones
        if zone not in used
    )


def _unsaid_apps(vapp: Vapp, demanded: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    """Inspected flows for which neither the file nor the port says which protocol they carry."""
    ips, detectors = vapp.protection.ips, vapp.protection.dlp
    inspected = {
        *demanded,
        *(ips.inspect if ips else ()),
        *(zone for one in detectors for zone in one.leaving),
    }
    zones = {tier: vm.zones for tier, vm in vapp.vms.items()}
    for flow in vapp.flows:
        unsaid = [
            str(service)
            for service, app in zip(flow.services, flow.apps, strict=True)
            if app is None and service.protocol is Protocol.TCP
        ]
        if unsaid and any(
            nic.zone in inspected for path in paths_of(vapp, flow, zones) for nic in path
        ):
            listed = ", ".join(unsaid)
            what = f"flow '{flow.id}' does not say which protocol {listed} carries, so the IPS lets unknown protocols pass there"
            known = ", ".join(app for app in App if app is not App.OTHER)
            yield flow.path, what, f"Write app: with one of {known}, or other for anything else."


def _unwatched_nics(vapp: Vapp) -> Iterator[tuple[str, str, str]]:
    """VMs that have NICs in zones that a detector watches and in others that it does not watch."""
    for detector in vapp.protection.dlp:
        for tier, vm in vapp.vms.items():
            others = [zone for zone in vm.zones if zone not in detector.leaving]
            if 0 < len(others) < len(vm.zones):
                listed = ", ".join(others)
                what = f"VM '{tier}' also has a NIC in {listed}, where this detector does not search the traffic"
                yield f"{detector.path}.leaving", what, f"Add {listed} to leaving."


def _odd_exceptions(vapp: Vapp) -> Iterator[tuple[str, str, str]]:
    """Exceptions of detectors that have no effect, or that also apply to other flows."""
    if not any(detector.excepted for detector in vapp.protection.dlp):
        return
    zones = {tier: vm.zones for tier, vm in vapp.vms.items()}
    paths = {flow.id: paths_of(vapp, flow, zones) for flow in vapp.flows}
    by_path: dict[Path, list[Flow]] = {}
    for flow in vapp.flows:
        for path in paths[flow.id]:
            by_path.setdefault(path, []).append(flow)
    flows = {flow.id: flow for flow in vapp.flows}
    for detector in vapp.protection.dlp:
        for flow in (flows[name] for name in detector.excepted):
            leaving = [path for path in paths[flow.id] if _leaves(path, detector.leaving)]
            alike = {
                other.id: other
                for path in leaving
                for other in by_path[path]
                if share_a_port(flow.services, other.services) and flow.prefixes == other.prefixes
            }
            also = [other for name, other in alike.items() if name not in detector.excepted]
            if not leaving:
                what = f"flow '{flow.id}' never leaves the zones of this detector, so the exception has no effect"
                yield f"{detector.path}.except", what, "Remove it."
            elif also:
                yield f"{detector.path}.except", _too_wide(flow, also), "Except both, or neither."


def _open_secrets(vapp: Vapp) -> Iterator[tuple[str, str, str]]:
    """Files with a secret that every user of the guest may read."""
    for tier, vm in vapp.vms.items():
        for path, file in vm.files.items():
            at = dotted(f"vms.{tier}.files", path)
            if vapp.holds_secret(at) and file.mode & 0o004:
                what = "a secret stands in this file, and every user of the guest may read it"
                yield (
                    at,
                    what,
                    "Write mode: '0600', and an owner: if a service of another user reads it.",
                )


def _too_wide(flow: Flow, also: list[Flow]) -> str:
    more = f" and {len(also) - 1} more" if also[1:] else ""
    return (
        f"the exception for flow '{flow.id}' also applies to flow '{also[0].id}' in line {also[0].line}{more}: "
        "both have the same source, target and service"
    )


def _leaves(path: Path, zones: tuple[str, ...]) -> bool:
    """Whether a path connects one of the zones with something outside them."""
    return (path.source.zone in zones) != (path.target.zone in zones)
