"""What is wrong although each value is right in itself: circles, clashes, ports published twice, files that are not there.

Judges what the models accepted, also when that is only a part of the file.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from vcloud.documents.field import CONTENT_LENGTH
from vcloud.errors import Problem
from vcloud.spec.model import Detector, File, Flow, Vapp, Vm
from vcloud.values import INTERNET, Service, meeting_zones, zone_named

MOST_IN_ZONE: Final = 4000
"""VMs; a zone is a /20."""
PLAIN_ZONE: Final = 13
"""Letters of a zone's name that a card's name can hold as they are."""
MOST_PAIRS: Final = 250_000
"""Of VMs that may talk by some service: each is an entry of the firewall's tables, in both versions of IP."""
MOST_EXCEPTIONS: Final = 2000
"""Services of flows on which the data of a detector may leave, of all detectors; each is a rule of the IPS or a few."""

_STEP: Final = re.compile(r"[.\[]")


def problems_of(vapp: Vapp, folder: Path, wrong: Iterable[str] = ()) -> Iterator[Problem]:
    """Everything wrong with the vApp as a whole. Reads the files that it names as sources, relative to `folder`.

    At the paths `wrong` something was refused and left out: nothing is judged by what stands there instead.
    """
    at = _Pointer(vapp, wrong)
    yield from _clashing_names(vapp, at)
    yield from _clashing_zones(vapp, at)
    yield from _circles(vapp, at)
    yield from _full_zones(vapp, at)
    for tier, vm in vapp.vms.items():
        yield from _vm_problems(f"vms.{tier}", vm, at)
        yield from _image_problems(f"vms.{tier}.image", vm, at)
        yield from _file_problems(f"vms.{tier}.files", vm, at)
        for path, file in vm.files.items():
            yield from _source_problems(f'vms.{tier}.files["{path}"].source', file, folder, at)
    yield from mount_problems(vapp, {})
    yield from _repeated_ids(vapp.flows, "flow", at)
    yield from _repeated_ids(vapp.protection.dlp, "detector", at)
    for flow in vapp.flows:
        yield from _flow_problems(vapp, flow, at)
    yield from _published_twice(vapp, at)
    yield from _too_many_pairs(vapp, at)
    yield from _too_many_exceptions(vapp, at)


def mount_problems(vapp: Vapp, recipes: Mapping[str, Mapping[str, str]]) -> Iterator[Problem]:
    """Disks that are mounted at the same place. `recipes` maps folders of recipes to where they mount disks, as far as that is known."""
    at = _Pointer(vapp)
    for tier, vm in vapp.vms.items():
        by_image = recipes.get(vm.image_folder, {})
        mounts: dict[str, str] = {}
        for name, disk in vm.disks.items():
            place = disk.mount or by_image.get(name, "")
            if place in mounts:
                yield at(f"vms.{tier}.disks.{name}.mount", f"disk '{mounts[place]}' is mounted at {place} already", "Choose another place.")
            if place:
                mounts[place] = name


def notes(vapp: Vapp) -> tuple[Problem, ...]:
    """What is allowed but probably not meant."""
    at = _Pointer(vapp)
    used = {zone for vm in vapp.vms.values() for zone in vm.zones}
    empty = (at(f"zones.{zone}", "no VM is in this zone") for zone in vapp.zones if zone not in used)
    return (*empty, *_unwatched_cards(vapp, at), *_odd_exceptions(vapp, at))


class _Pointer:
    """Makes problems of one vApp, each with its line, and knows where there are others."""

    def __init__(self, vapp: Vapp, wrong: Iterable[str] = ()) -> None:
        self.vapp = vapp
        self.wrong = {path[:end] for path in wrong for end in (*(found.start() for found in _STEP.finditer(path)), len(path))}

    def __call__(self, path: str, what: str, hint: str = "") -> Problem:
        return Problem(self.vapp.file, self.vapp.line_of(path), path, what, hint)

    def is_sound(self, *paths: str) -> bool:
        """Whether nothing was refused at these paths or below."""
        return self.wrong.isdisjoint(paths)


def _clashing_names(vapp: Vapp, at: _Pointer) -> Iterator[Problem]:
    """`web` with a count makes `web-1`, which may be the name of another VM."""
    owners: dict[str, str] = {}
    for tier, vm in vapp.vms.items():
        for name in vm.names(tier) if at.is_sound(f"vms.{tier}.count") else ():
            if name in owners:
                yield at(f"vms.{tier}", f"a VM called '{name}' also comes from vms.{owners[name]}", "Rename one of them.")
                break
            owners[name] = tier


def _clashing_zones(vapp: Vapp, at: _Pointer) -> Iterator[Problem]:
    """Names of cards are short, so that a long zone's ends in a hash, which may be how another one is called."""
    if max(map(len, vapp.zones)) <= PLAIN_ZONE:
        return
    from vcloud.design.addressing import guest_name

    owners: dict[str, str] = {}
    for zone in vapp.zones:
        card = guest_name("z-", zone)
        if card in owners:
            what = f"the firewall's card for this zone would be called '{card}', as the one for zone '{owners[card]}' is"
            yield at(f"zones.{zone}", what, "Rename one of them.")
        owners.setdefault(card, zone)


def _circles(vapp: Vapp, at: _Pointer) -> Iterator[Problem]:
    """Each circle of `after` once, at the VM that closes it."""
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
                yield at(f"vms.{trail[-1]}.after", f"VMs wait for each other in a circle: {circle}", "Remove one of these.")
            elif other in vapp.vms and other not in done:
                trail.append(other)
                branches.append(iter(vapp.vms[other].after))


def _full_zones(vapp: Vapp, at: _Pointer) -> Iterator[Problem]:
    placed = (vm for tier, vm in vapp.vms.items() if at.is_sound(f"vms.{tier}.zone"))
    sizes = Counter(zone for vm in placed for zone in vm.zones for _ in range(vm.count or 1))
    yield from (
        at(f"zones.{zone}", f"{size} VMs are in this zone, at most {MOST_IN_ZONE} have room")
        for zone, size in sizes.items()
        if size > MOST_IN_ZONE
    )


def _vm_problems(path: str, vm: Vm, at: _Pointer) -> Iterator[Problem]:
    if vm.packages and not vm.image.recipe:
        yield at(
            f"{path}.packages",
            "packages can only be added to an image that vcloud builds",
            "Put them into the qcow2 image, or use a recipe.",
        )


def _file_problems(path: str, vm: Vm, at: _Pointer) -> Iterator[Problem]:
    """A path below another file's can never be made."""
    for name in vm.files:
        if above := next((parent for parent in map(str, PurePosixPath(name).parents) if parent in vm.files), None):
            yield at(f'{path}["{name}"]', f"'{above}' is a file, so no other can be in it", "Choose another path for one of them.")


def _image_problems(path: str, vm: Vm, at: _Pointer) -> Iterator[Problem]:
    """A shipped name was looked up with the other references; folders and files are looked at here."""
    location = vm.image.location
    if vm.image.recipe and "/" in vm.image.recipe and not _is_file(location / "image.yaml" if location else None):
        yield at(
            path,
            f"'{vm.image.recipe}' is not the folder of an image: it has no image.yaml",
            "Name a folder beside this file, like ./images/api.",
        )
    if vm.image.file and not _is_file(location):
        yield at(path, f"no image file is at '{vm.image.file}'", "Paths are relative to this file.")


def _is_file(path: Path | None) -> bool:
    try:
        return path is not None and stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _source_problems(path: str, file: File, folder: Path, at: _Pointer) -> Iterator[Problem]:
    if not file.source:
        return
    try:
        file.keep(_read_source(folder, file.source))
    except OSError as error:
        yield at(path, f"'{file.source}' cannot be read: {error.strerror}", "Paths are relative to this file.")
    except _UnfitError as error:
        yield at(path, f"'{file.source}' {error}", "Name a file beside this one.")


class _UnfitError(Exception):
    """A source that must not be taken, and why."""


def _read_source(folder: Path, source: str) -> bytes:
    """The content of a regular file inside the folder. Raises OSError, _UnfitError.

    What is opened is what is judged, so that a file cannot be exchanged between check and use.
    """
    path = Path(os.path.realpath(folder / source, strict=True))
    if not path.is_relative_to(folder.resolve()):
        raise _UnfitError("leads to a place outside the folder of the vApp file")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _UnfitError("is not a regular file")
        content = opened.read(CONTENT_LENGTH + 1)
    if len(content) > CONTENT_LENGTH:
        raise _UnfitError(f"has more than {CONTENT_LENGTH >> 20} MiB")
    return content


def _repeated_ids(entries: tuple[Flow | Detector, ...], kind: str, at: _Pointer) -> Iterator[Problem]:
    first: dict[str, Flow | Detector] = {}
    for entry in entries:
        if not at.is_sound(f"{entry.path}.id") or not ("id" in entry.model_fields_set or _has_sound_id(entry, at)):
            continue
        if entry.id in first:
            yield at(f"{entry.path}.id", f"the {kind} in line {first[entry.id].line} has the id '{entry.id}', too", "Give each its own id.")
        first.setdefault(entry.id, entry)


def _has_sound_id(entry: Flow | Detector, at: _Pointer) -> bool:
    """Whether nothing is missing of what the id is made of."""
    parts = ("from", "to", "service") if isinstance(entry, Flow) else ("detect", "leaving")
    return at.is_sound(*(f"{entry.path}.{part}" for part in parts))


def _flow_problems(vapp: Vapp, flow: Flow, at: _Pointer) -> Iterator[Problem]:
    if flow.source == flow.target == INTERNET:
        yield at(f"{flow.path}.to", "a flow from the internet to the internet does not concern the vApp", "Name a VM or a zone at one end.")
    elif flow.source == flow.target and _is_one_vm(vapp, flow.source, at):
        yield at(f"{flow.path}.to", f"'{flow.target}' is one VM, which needs no flow to itself", "Remove the flow, or give the VM a count.")
    if flow.source == INTERNET:
        yield from _publish_problems(flow, at)
    elif "publish" in flow.model_fields_set:
        yield at(f"{flow.path}.publish", "only a flow from the internet is published", "Remove publish, or write from: internet.")


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
        what = f"{len(flow.publish)} ports are published for {len(flow.services)} services"
        yield at(f"{flow.path}.publish", what, "Give one for each, in the same order, or true for the same ports.")
    else:
        for service, published in zip(flow.services, flow.published, strict=True):
            if service.last - service.first != published.last - published.first:
                what = f"{service} has {_ports(service)}, but {published} has {_ports(published)}"
                yield at(f"{flow.path}.publish", what, "Publish a range of the same length.")


def _too_many_pairs(vapp: Vapp, at: _Pointer) -> Iterator[Problem]:
    """Reported at the flow that passes the limit."""
    total = 0
    for flow in vapp.flows:
        before = total
        total += _end_size(vapp, flow.source, at) * _end_size(vapp, flow.target, at) * len(flow.services)
        if before <= MOST_PAIRS < total:
            what = f"with this flow {total} pairs of VMs may talk by some service, at most {MOST_PAIRS} are allowed"
            yield at(flow.path, what, "Name fewer VMs, or ranges of ports instead of single ones.")


def _too_many_exceptions(vapp: Vapp, at: _Pointer) -> Iterator[Problem]:
    services = {flow.id: len(flow.services) for flow in vapp.flows}
    total = sum(services.get(name, 0) for detector in vapp.protection.dlp for name in detector.excepted)
    if total > MOST_EXCEPTIONS:
        what = f"the exceptions of all detectors name {total} services, at most {MOST_EXCEPTIONS} are allowed"
        yield at("protection.dlp", what, "Except fewer flows, or flows with ranges of ports.")


def _end_size(vapp: Vapp, end: str, at: _Pointer) -> int:
    """How many VMs a flow's end stands for; the internet counts as one."""
    kind, _, name = end.rpartition(":")
    if kind != "zone" and name in vapp.vms:
        return vapp.vms[name].count or 1
    if end == INTERNET:
        return 1
    return sum(vm.count or 1 for tier, vm in vapp.vms.items() if name in vm.zones and at.is_sound(f"vms.{tier}.zone"))


def _ports(service: Service) -> str:
    count = service.last - service.first + 1
    return f"{count} port{'s' if count > 1 else ''}"


def _published_twice(vapp: Vapp, at: _Pointer) -> Iterator[Problem]:
    """Sorted by first port, a range overlaps an earlier one exactly when it begins before the furthest end so far."""
    ranges = sorted((item, index) for index, flow in enumerate(vapp.flows) if _can_be_published(flow, at) for item in flow.published)
    furthest: tuple[Service, int] | None = None
    for item, index in ranges:
        if furthest and item.protocol == furthest[0].protocol and item.first <= furthest[0].last:
            later, other = max(index, furthest[1]), min(index, furthest[1])
            what = f"{item} is published by flow '{vapp.flows[other].id}' in line {vapp.flows[other].line} already"
            yield at(f"{vapp.flows[later].path}.publish", what, "Publish another port.")
        if furthest is None or item.protocol != furthest[0].protocol or item.last > furthest[0].last:
            furthest = item, index


def _can_be_published(flow: Flow, at: _Pointer) -> bool:
    fits = len(flow.publish) in (0, 1, len(flow.services)) and not flow.uses_icmp
    return flow.source == INTERNET and fits and _has_sound_ports(flow, at)


def _has_sound_ports(flow: Flow, at: _Pointer) -> bool:
    return at.is_sound(f"{flow.path}.service", f"{flow.path}.publish")


def _unwatched_cards(vapp: Vapp, at: _Pointer) -> Iterator[Problem]:
    """VMs that a detector watches at some of their cards only."""
    for detector in vapp.protection.dlp:
        for tier, vm in vapp.vms.items():
            others = [zone for zone in vm.zones if zone not in detector.leaving]
            if 0 < len(others) < len(vm.zones):
                listed = ", ".join(others)
                what = f"VM '{tier}' also has a card in {listed}, by which the data may leave without being searched"
                yield at(f"{detector.path}.leaving", what, f"Add {listed} to leaving.")


def _odd_exceptions(vapp: Vapp, at: _Pointer) -> Iterator[Problem]:
    """Exceptions of detectors that do nothing, or more than they say."""
    flows = {flow.id: flow for flow in vapp.flows}
    by_path: dict[_Path, list[Flow]] = {}
    if any(detector.excepted for detector in vapp.protection.dlp):
        for flow in vapp.flows:
            for path in _paths(vapp, flow):
                by_path.setdefault(path, []).append(flow)
    for detector in vapp.protection.dlp:
        for flow in (flows[name] for name in detector.excepted):
            leaving = [path for path in _paths(vapp, flow) if (path[0][1] in detector.leaving) != (path[1][1] in detector.leaving)]
            alike = {other.id: other for path in leaving for other in by_path[path] if _share_a_service(flow, other)}
            also = [other for name, other in alike.items() if name not in detector.excepted]
            if not leaving:
                what = f"flow '{flow.id}' never leaves the zones of this detector, so this exception has no effect"
                yield at(f"{detector.path}.except", what, "Remove it.")
            elif also:
                more = f" and {len(also) - 1} more" if also[1:] else ""
                what = f"the exception for flow '{flow.id}' also holds for flow '{also[0].id}' in line {also[0].line}{more}"
                yield at(f"{detector.path}.except", f"{what}: both have the same source, target and service", "Except both, or neither.")


_Card = tuple[str, str]
"""The VM of the file, and the zone; of the internet, nothing."""
_Path = tuple[_Card, _Card]


def _paths(vapp: Vapp, flow: Flow) -> frozenset[_Path]:
    """From which cards to which a flow goes."""
    wanted = zone_named(flow.target, vapp.vms)
    return frozenset(
        _path(vapp, one, other, wanted)
        for one in _tiers(vapp, flow.source)
        for other in _tiers(vapp, flow.target)
        if one != other or vapp.vms[one].count not in (None, 1)
    )


def _path(vapp: Vapp, one: str, other: str, wanted: str) -> _Path:
    here, there = (vapp.vms[tier].zones if tier else () for tier in (one, other))
    if not there:
        return (one, here[0]), ("", "")
    ours, theirs = meeting_zones(here, there, wanted)
    return (one, ours), (other, theirs)


def _tiers(vapp: Vapp, end: str) -> tuple[str, ...]:
    """The VMs that a flow's end stands for, replicas as one; the internet is nothing."""
    if end == INTERNET:
        return ("",)
    if zone := zone_named(end, vapp.vms):
        return tuple(tier for tier, vm in vapp.vms.items() if zone in vm.zones)
    return (end.removeprefix("vm:"),)


def _share_a_service(one: Flow, other: Flow) -> bool:
    return any(a.protocol is b.protocol and a.first <= b.last and b.first <= a.last for a in one.services for b in other.services)
