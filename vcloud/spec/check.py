"""Checks across a vApp file: circles, clashes, ports published twice, files that are missing.

Each value is right in itself here: the model has accepted it. If the file has other problems, only
its sound parts are checked.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Final

from vcloud.documents.field import FieldError
from vcloud.errors import Problem
from vcloud.spec.model import Detector, Flow, Vapp
from vcloud.spec.surroundings import Beside
from vcloud.spec.vm import File, Vm
from vcloud.values import INTERNET, Service, guest_name, tiers_at, zone_named

MOST_IN_ZONE: Final = 4000
"""VMs. A zone is a /20 network."""
MOST_PAIRS: Final = 250_000
"""Pairs of VMs that a service connects. Each is an entry of the firewall's tables, in IPv4 and in
IPv6.
"""
MOST_EXCEPTIONS: Final = 2000
"""Services that the exceptions of all detectors name. Each becomes one or a few rules of the IPS.
"""

_STEP: Final = re.compile(r"[.\[]")
"""Before each further key of a dotted path."""


def problems_of(vapp: Vapp, beside: Beside, wrong: Iterable[str] = ()) -> Iterator[Problem]:
    """Everything that is wrong with the vApp as a whole. Keeps the content of the files that it
    names as sources.

    At the dotted paths `wrong`, a value was refused and removed. Nothing is concluded from what is
    missing there.
    """
    at = _Pointer(vapp, wrong)
    yield from _clashing_names(vapp, at)
    yield from _clashing_zones(vapp, at)
    yield from _circles(vapp, at)
    yield from _full_zones(vapp, at)
    for tier, vm in vapp.vms.items():
        yield from _vm_problems(f"vms.{tier}", vm, at)
        yield from _image_problems(f"vms.{tier}.image", vm, beside, at)
        yield from _file_problems(f"vms.{tier}.files", vm, at)
        for path, file in vm.files.items():
            yield from _source_problems(f'vms.{tier}.files["{path}"].source', file, beside, at)
    yield from mount_problems(vapp, {})
    yield from _repeated_ids(vapp.flows, "flow", at)
    yield from _repeated_ids(vapp.protection.dlp, "detector", at)
    for flow in vapp.flows:
        yield from _flow_problems(vapp, flow, at)
    yield from _published_twice(vapp, at)
    yield from _too_many_pairs(vapp, at)
    yield from _too_many_exceptions(vapp, at)


def mount_problems(vapp: Vapp, recipes: Mapping[str, Mapping[str, str]]) -> Iterator[Problem]:
    """Disks with the same mount point. `recipes` has for each recipe's folder the mount point of
    each disk, if known.
    """
    at = _Pointer(vapp)
    for tier, vm in vapp.vms.items():
        by_image = recipes.get(vm.image_folder, {})
        mounts: dict[str, str] = {}
        for name, disk in vm.disks.items():
            path = disk.mount or by_image.get(name, "")
            if path in mounts:
                what = f"the disk '{mounts[path]}' is already mounted at {path}"
                yield at(f"vms.{tier}.disks.{name}.mount", what, "Choose another mount point.")
            if path:
                mounts[path] = name


class _Pointer:
    """Makes the problems of one vApp, each with its line. Knows at which paths there already are
    others.
    """

    def __init__(self, vapp: Vapp, wrong: Iterable[str] = ()) -> None:
        self.vapp = vapp
        self.wrong = {path[:end] for path in wrong for end in _ends(path)}
        self.zones = {tier: vm.zones for tier, vm in vapp.vms.items()}

    def __call__(self, path: str, what: str, hint: str = "") -> Problem:
        return Problem(self.vapp.file, self.vapp.line_of(path), path, what, hint)

    def is_sound(self, *paths: str) -> bool:
        """Whether nothing was refused at these paths or below."""
        return self.wrong.isdisjoint(paths)


def _ends(path: str) -> Iterator[int]:
    """How long the dotted path is up to each of its keys."""
    yield from (found.start() for found in _STEP.finditer(path))
    yield len(path)


def _clashing_names(vapp: Vapp, at: _Pointer) -> Iterator[Problem]:
    """`web` with a count makes `web-1`, which may also be the name of another VM."""
    owners: dict[str, str] = {}
    for tier, vm in vapp.vms.items():
        for name in vm.names(tier) if at.is_sound(f"vms.{tier}.count") else ():
            if name in owners:
                yield at(
                    f"vms.{tier}",
                    f"vms.{owners[name]} also makes a VM called '{name}'",
                    "Rename one of them.",
                )
                break
            owners[name] = tier


def _clashing_zones(vapp: Vapp, at: _Pointer) -> Iterator[Problem]:
    """Interface names are short. The name for a long zone ends in a hash, and a short zone may have
    just that name.
    """
    owners: dict[str, str] = {}
    for zone in vapp.zones:
        nic = guest_name("z-", zone)
        if nic in owners:
            what = f"the firewall's interface for this zone would have the name '{nic}', like that for zone '{owners[nic]}'"
            yield at(f"zones.{zone}", what, "Rename one of the zones.")
        owners.setdefault(nic, zone)


def _circles(vapp: Vapp, at: _Pointer) -> Iterator[Problem]:
    """Each circle of `after` is reported once, at the VM that closes it. A stack replaces
    recursion: chains may be long.
    """
    done: set[str] = set()
    for start in vapp.vms:
        trail = [start]
        branches = [iter(vapp.vms[start].after)] if start not in done else []
        while branches:
            other = next(branches[-1], None)
            if other is None:
                branches.pop()
                done.add(trail.pop())
            elif other in trail:
                circle = " -> ".join([*trail[trail.index(other) :], other])
                yield at(
                    f"vms.{trail[-1]}.after",
                    f"these VMs wait for each other in a circle: {circle}",
                    "Remove one of the dependencies.",
                )
            elif other in vapp.vms and other not in done:
                trail.append(other)
                branches.append(iter(vapp.vms[other].after))


def _full_zones(vapp: Vapp, at: _Pointer) -> Iterator[Problem]:
    placed = (vm for tier, vm in vapp.vms.items() if at.is_sound(f"vms.{tier}.zone"))
    sizes = Counter(zone for vm in placed for zone in vm.zones for _ in range(vm.count or 1))
    yield from (
        at(f"zones.{zone}", f"this zone has {size} VMs; the maximum is {MOST_IN_ZONE}")
        for zone, size in sizes.items()
        if size > MOST_IN_ZONE
    )


def _vm_problems(path: str, vm: Vm, at: _Pointer) -> Iterator[Problem]:
    if vm.packages and not vm.image.recipe:
        yield at(
            f"{path}.packages",
            "vcloud can add packages only to images that it builds",
            "Install them in the qcow2 image, or use a recipe.",
        )


def _file_problems(path: str, vm: Vm, at: _Pointer) -> Iterator[Problem]:
    """A file cannot be in another file."""
    for name in vm.files:
        if above := next(
            (parent for parent in map(str, PurePosixPath(name).parents) if parent in vm.files), None
        ):
            yield at(
                f'{path}["{name}"]',
                f"'{above}' is a file, so it cannot contain another",
                "Choose another path for one of them.",
            )


def _image_problems(path: str, vm: Vm, beside: Beside, at: _Pointer) -> Iterator[Problem]:
    """Checks folders and files. Names of shipped images were looked up when the model was
    validated.
    """
    image = vm.image
    if "/" in image.recipe and not beside.is_file(f"{image.location}/image.yaml"):
        what = f"'{image.recipe}' is not an image's folder: it has no image.yaml"
        yield at(path, what, "Write the path of a folder relative to this file, like ./images/api.")
    if image.file and not beside.is_file(image.location):
        yield at(path, f"there is no image file '{image.file}'", "Paths are relative to this file.")


def _source_problems(path: str, file: File, beside: Beside, at: _Pointer) -> Iterator[Problem]:
    """Also keeps the content of a source that is right."""
    if not file.source:
        return
    try:
        file.keep(beside.content(file.source))
    except FieldError as error:
        yield at(path, error.what, error.hint)


def _repeated_ids(
    entries: tuple[Flow | Detector, ...], kind: str, at: _Pointer
) -> Iterator[Problem]:
    first: dict[str, Flow | Detector] = {}
    for entry in entries:
        if not at.is_sound(f"{entry.path}.id") or not (
            "id" in entry.model_fields_set or _has_sound_id(entry, at)
        ):
            continue
        if entry.id in first:
            yield at(
                f"{entry.path}.id",
                f"the {kind} in line {first[entry.id].line} also has the id '{entry.id}'",
                "Write another id for one of them.",
            )
        first.setdefault(entry.id, entry)


def _has_sound_id(entry: Flow | Detector, at: _Pointer) -> bool:
    """Whether no part of a made id was refused."""
    parts = ("from", "to", "service") if isinstance(entry, Flow) else ("detect", "leaving")
    return at.is_sound(*(f"{entry.path}.{part}" for part in parts))


def _flow_problems(vapp: Vapp, flow: Flow, at: _Pointer) -> Iterator[Problem]:
    if flow.source == flow.target == INTERNET:
        yield at(
            f"{flow.path}.to",
            "a flow from the internet to the internet is not part of the vApp",
            "Write a VM or a zone in one of from and to.",
        )
    elif flow.source == flow.target and _is_one_vm(vapp, flow.source, at):
        yield at(
            f"{flow.path}.to",
            f"'{flow.target}' is a single VM, and needs no flow to itself",
            "Remove the flow, or give the VM a count.",
        )
    if flow.source == INTERNET:
        yield from _publish_problems(flow, at)
    elif "publish" in flow.model_fields_set:
        yield at(
            f"{flow.path}.publish",
            "only a flow from the internet can be published",
            "Remove publish, or write from: internet.",
        )


def _is_one_vm(vapp: Vapp, end: str, at: _Pointer) -> bool:
    name = end.removeprefix("vm:")
    return name in vapp.vms and vapp.vms[name].count is None and at.is_sound(f"vms.{name}.count")


def _publish_problems(flow: Flow, at: _Pointer) -> Iterator[Problem]:
    if flow.uses_icmp:
        yield at(
            f"{flow.path}.service",
            "ICMP has no ports and cannot be published",
            "Remove icmp from this flow.",
        )
    elif not _has_sound_ports(flow, at):
        return
    elif len(flow.publish) not in (0, 1, len(flow.services)):
        what = f"publish has {len(flow.publish)} ports for {len(flow.services)} services"
        yield at(
            f"{flow.path}.publish",
            what,
            "Write one for each service, in the same order, or true for the services' own ports.",
        )
    else:
        for service, published in zip(flow.services, flow.published, strict=True):
            if service.last - service.first != published.last - published.first:
                what = f"{service} has {_ports(service)}, but {published} has {_ports(published)}"
                yield at(f"{flow.path}.publish", what, "Publish a range of the same length.")


def _too_many_pairs(vapp: Vapp, at: _Pointer) -> Iterator[Problem]:
    """Reported at the flow with which the number passes the limit."""
    total = 0
    for flow in vapp.flows:
        before = total
        total += (
            _end_size(vapp, flow.source, at) * _end_size(vapp, flow.target, at) * len(flow.services)
        )
        if before <= MOST_PAIRS < total:
            what = (
                f"up to this flow, {total} pairs of VMs have a service; the maximum is {MOST_PAIRS}"
            )
            yield at(
                flow.path, what, "Use fewer VMs, or write ranges of ports instead of single ports."
            )


def _too_many_exceptions(vapp: Vapp, at: _Pointer) -> Iterator[Problem]:
    services = {flow.id: len(flow.services) for flow in vapp.flows}
    total = sum(
        services.get(name, 0) for detector in vapp.protection.dlp for name in detector.excepted
    )
    if total > MOST_EXCEPTIONS:
        what = f"the exceptions of all detectors name {total} services; the maximum is {MOST_EXCEPTIONS}"
        yield at("protection.dlp", what, "Except fewer flows, or flows with ranges of ports.")


def _end_size(vapp: Vapp, end: str, at: _Pointer) -> int:
    """How many VMs an end means. The internet counts as one."""
    if end == INTERNET:
        return 1
    tiers = tiers_at(end, at.zones)
    if zone_named(end, at.zones):
        tiers = tuple(tier for tier in tiers if at.is_sound(f"vms.{tier}.zone"))
    return sum(vapp.vms[tier].count or 1 for tier in tiers)


def _ports(service: Service) -> str:
    count = service.last - service.first + 1
    return f"{count} port{'s' if count > 1 else ''}"


def _published_twice(vapp: Vapp, at: _Pointer) -> Iterator[Problem]:
    """In the order of first ports, a range overlaps an earlier one if it begins before the furthest
    end so far.
    """
    ranges = sorted(
        (item, index)
        for index, flow in enumerate(vapp.flows)
        if _can_be_published(flow, at)
        for item in flow.published
    )
    furthest: tuple[Service, int] | None = None
    for item, index in ranges:
        if furthest and item.protocol == furthest[0].protocol and item.first <= furthest[0].last:
            later, other = max(index, furthest[1]), min(index, furthest[1])
            what = f"the flow '{vapp.flows[other].id}' in line {vapp.flows[other].line} already publishes {item}"
            yield at(f"{vapp.flows[later].path}.publish", what, "Publish another port.")
        if (
            furthest is None
            or item.protocol != furthest[0].protocol
            or item.last > furthest[0].last
        ):
            furthest = item, index


def _can_be_published(flow: Flow, at: _Pointer) -> bool:
    fits = len(flow.publish) in (0, 1, len(flow.services)) and not flow.uses_icmp
    return flow.source == INTERNET and fits and _has_sound_ports(flow, at)


def _has_sound_ports(flow: Flow, at: _Pointer) -> bool:
    return at.is_sound(f"{flow.path}.service", f"{flow.path}.publish")
