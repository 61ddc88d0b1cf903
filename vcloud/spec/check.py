"""Checks across a vApp file: circles, clashes, ports published twice, files that are missing.

The model has already accepted each value by itself. If the file has other problems, only its sound
parts are checked.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Final, NamedTuple

from vcloud.documents.field import FieldError
from vcloud.errors import Problem
from vcloud.spec.images import image_problems
from vcloud.spec.model import Detector, Flow, Vapp
from vcloud.spec.paths import Path, paths_of
from vcloud.spec.placement import placement_problems
from vcloud.spec.surroundings import Beside
from vcloud.spec.tenancy import tenancy_problems
from vcloud.spec.vm import File, Vm
from vcloud.values import (
    ALL_SERVICES,
    INTERNET,
    App,
    Network,
    Protocol,
    Service,
    covers,
    guest_name,
    is_outside,
    prefix_of,
    tiers_at,
    zone_named,
)

MOST_IN_ZONE: Final = 4000
"""VMs. A zone is a /20 network."""
MOST_PAIRS: Final = 250_000
"""Pairs of VMs that a service connects. Each pair takes one entry of the firewall's maps in IPv4,
and one in IPv6.
"""
MOST_EXCEPTIONS: Final = 2000
"""Services that the exceptions of all detectors name. Each service becomes one or a few rules of
the IPS.
"""

_APP_PARTS: Final = ("from", "to", "service", "app")
"""Keys of a flow that decide which connections it allows, and which protocol they carry."""
_STEP: Final = re.compile(r"[.\[]")
"""The character before each key of a dotted path but the first."""


def problems_of(vapp: Vapp, beside: Beside, wrong: Iterable[str] = ()) -> Iterator[Problem]:
    """Everything that is wrong with the vApp as a whole. Stores the content of the files that the
    vApp file names as sources.

    `wrong` are the dotted paths at which a value was refused and removed. A check that needs such a
    value is skipped.
    """
    at = _Pointer(vapp, wrong)
    yield from _clashing_names(vapp, at)
    yield from _clashing_zones(vapp, at)
    yield from _earlier_names(vapp, at)
    yield from _circles(vapp, at)
    yield from _full_zones(vapp, at)
    for tier, vm in vapp.vms.items():
        yield from _vm_problems(f"vms.{tier}", vm, at)
        yield from image_problems(f"vms.{tier}", vm, beside, at)
        yield from _file_problems(f"vms.{tier}.files", vm, at)
        for path, file in vm.files.items():
            yield from _source_problems(f'vms.{tier}.files["{path}"].source', file, beside, at)
    yield from mount_problems(vapp, {})
    yield from _repeated_ids(vapp.flows, "flow", at)
    yield from _repeated_ids(vapp.protection.dlp, "detector", at)
    for flow in vapp.flows:
        yield from _flow_problems(vapp, flow, at)
    yield from _different_apps(vapp, at)
    yield from _published_twice(vapp, at)
    yield from _too_many_pairs(vapp, at)
    yield from _too_many_exceptions(vapp, at)
    yield from tenancy_problems(vapp, at)
    yield from placement_problems(vapp, at)


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
    """Makes the problems of one vApp, each with its line. It also knows the paths at which a value
    was refused before.
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
    """The length of each part of the dotted path that ends with a key."""
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


def _earlier_names(vapp: Vapp, at: _Pointer) -> Iterator[Problem]:
    """`was` must name a VM that the file no longer has, and only one entry may name it: the disks
    of a VM go to one VM.
    """
    present = {name for tier, vm in vapp.vms.items() for name in (tier, *vm.names(tier))}
    owners: dict[str, str] = {}
    for tier, vm in vapp.vms.items():
        if not vm.was:
            continue
        if vm.was in present - ({tier} if vm.count else set()):
            yield at(
                f"vms.{tier}.was",
                f"the file has a VM '{vm.was}', so '{tier}' is not its new name",
                "Remove `was`, or the VM of the earlier name.",
            )
        elif vm.was in owners:
            yield at(
                f"vms.{tier}.was",
                f"vms.{owners[vm.was]} was '{vm.was}' as well",
                "Only one VM can have its data disks.",
            )
        owners.setdefault(vm.was, tier)


def _clashing_zones(vapp: Vapp, at: _Pointer) -> Iterator[Problem]:
    """The names of the firewall's interfaces are short. The name for a zone with a long name ends
    in a hash, and another zone may happen to have the same name.
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
            # All circles through a VM in `done` have been reported.
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


def _source_problems(path: str, file: File, beside: Beside, at: _Pointer) -> Iterator[Problem]:
    """If the source is right, its content is stored in `file`."""
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
    """Whether no part of the file that the default id is made of was refused."""
    parts = ("from", "to", "service") if isinstance(entry, Flow) else ("detect", "leaving")
    return at.is_sound(*(f"{entry.path}.{part}" for part in parts))


def _flow_problems(vapp: Vapp, flow: Flow, at: _Pointer) -> Iterator[Problem]:
    if is_outside(flow.source) and is_outside(flow.target):
        yield at(
            f"{flow.path}.to",
            "a flow from outside to outside is not part of the vApp",
            "Write a VM or a zone in one of from and to.",
        )
    elif flow.source == flow.target and _is_one_vm(vapp, flow.source, at):
        yield at(
            f"{flow.path}.to",
            f"'{flow.target}' is a single VM, and needs no flow to itself",
            "Remove the flow, or give the VM a count.",
        )
    yield from _app_problems(flow, at)
    if is_outside(flow.source):
        yield from _publish_problems(flow, at)
    elif "publish" in flow.model_fields_set:
        yield at(
            f"{flow.path}.publish",
            "only a flow from outside can be published",
            "Remove publish, or write from: internet, or from: with addresses outside.",
        )


def _app_problems(flow: Flow, at: _Pointer) -> Iterator[Problem]:
    """`app` can name a protocol for TCP only, because the IPS checks how connections begin."""
    if not flow.app or not at.is_sound(f"{flow.path}.service", f"{flow.path}.app"):
        return
    if len(flow.app) not in (1, len(flow.services)):
        what = f"app has {len(flow.app)} protocols for {len(flow.services)} services"
        hint = "Write one for each service, in the same order, or one for all."
        yield at(f"{flow.path}.app", what, hint)
        return
    for number, app in enumerate(flow.app):
        services = flow.services if len(flow.app) == 1 else flow.services[number : number + 1]
        if app is not App.OTHER and all(one.protocol is not Protocol.TCP for one in services):
            what = f"{', '.join(map(str, services))} cannot carry {app} as the IPS checks it: that is for TCP only"
            where = f"{flow.path}.app" + (f"[{number}]" if len(flow.app) > 1 else "")
            yield at(where, what, "Write other here, or remove app.")


def _different_apps(vapp: Vapp, at: _Pointer) -> Iterator[Problem]:
    """A connection carries one protocol, so two flows that allow it must say the same."""
    if not all(at.zones.values()):
        return
    by_path: dict[Path, list[tuple[Service, App, int]]] = {}
    for index, flow in enumerate(vapp.flows):
        sound = at.is_sound(flow.path, *(f"{flow.path}.{part}" for part in _APP_PARTS))
        if sound and any(flow.apps) and not (is_outside(flow.source) and is_outside(flow.target)):
            its = [(s, app, index) for s, app in zip(flow.services, flow.apps, strict=True) if app]
            for path in paths_of(vapp, flow, at.zones):
                by_path.setdefault(path, []).extend(its)
    clashes = dict.fromkeys(clash for its in by_path.values() for clash in _clashes(its))
    for service, app, index, other_app, other in sorted(clashes, key=lambda clash: clash[2]):
        flow, before = vapp.flows[index], vapp.flows[other]
        end = "here, too" if other == index else f"in the flow '{before.id}' in line {before.line}"
        what = f"{service} carries {app} here, and {other_app} {end}, for the same connections"
        yield at(f"{flow.path}.app", what, "Write the same app in both flows.")


def _clashes(
    entries: Iterable[tuple[Service, App, int]],
) -> Iterator[tuple[Service, App, int, App, int]]:
    """Pairs of entries that overlap and carry different protocols. As the entries are sorted, one
    overlaps an earlier one that does not end before it.
    """
    furthest: dict[App, tuple[int, Service, int]] = {}
    for service, app, index in sorted(entries):
        for other, (last, its, number) in furthest.items():
            if other is not app and service.first <= last:
                later = (service, app, index), (its, other, number)
                (one, what, here), (_, before, there) = sorted(later, key=lambda end: -end[2])
                yield one, what, here, before, there
        furthest[app] = max(furthest.get(app, (0, service, index)), (service.last, service, index))


def _is_one_vm(vapp: Vapp, end: str, at: _Pointer) -> bool:
    name = end.removeprefix("vm:")
    return name in vapp.vms and vapp.vms[name].count is None and at.is_sound(f"vms.{name}.count")


def _publish_problems(flow: Flow, at: _Pointer) -> Iterator[Problem]:
    if flow.uses_icmp:
        yield at(
            f"{flow.path}.service",
            "ICMP has no ports and cannot be published",
            "Write the services that are published, like tcp/80."
            if set(ALL_SERVICES) <= {*flow.services}
            else "Remove icmp from this flow.",
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
    """The problem names the flow with which the number passes the limit."""
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
    """How many VMs the end of a flow means. The outside counts as one."""
    if is_outside(end):
        return 1
    tiers = tiers_at(end, at.zones)
    if zone_named(end, at.zones):
        tiers = tuple(tier for tier in tiers if at.is_sound(f"vms.{tier}.zone"))
    return sum(vapp.vms[tier].count or 1 for tier in tiers)


def _ports(service: Service) -> str:
    count = service.last - service.first + 1
    return f"{count} port{'s' if count > 1 else ''}"


def _published_twice(vapp: Vapp, at: _Pointer) -> Iterator[Problem]:
    """For each client, a published port may belong to one flow only. Two flows from prefixes have a
    client in common only if one prefix contains the other.
    """
    by_source: dict[Network | None, list[_Published]] = {}
    for index, flow in enumerate(vapp.flows):
        if _can_be_published(flow, at):
            its = by_source.setdefault(prefix_of(flow.source), [])
            its += (_Published(item, index, flow.source == INTERNET) for item in flow.published)
    clashes = set(_overlaps(itertools.chain(*by_source.values())))
    around: list[Network] = []
    prefixes = [prefix for prefix in by_source if prefix is not None]
    for prefix in sorted(prefixes, key=lambda one: (one.version, one)):
        while around and not covers(around[-1], prefix):
            around.pop()
        around.append(prefix)
        its = [item for one in around for item in by_source[one]]
        clashes |= {*_overlaps(one._replace(for_all=True) for one in its)}
    for item, later, other in sorted(clashes):
        what = f"the flow '{vapp.flows[other].id}' in line {vapp.flows[other].line} already publishes {item}"
        yield at(f"{vapp.flows[later].path}.publish", what, "Publish another port.")


class _Published(NamedTuple):
    """A published service, and the number of its flow."""

    service: Service
    flow: int
    for_all: bool
    """Every client reaches this service. If not, it clashes only with a service that every client
    reaches.
    """


def _overlaps(published: Iterable[_Published]) -> Iterator[tuple[Service, int, int]]:
    """A service, and the numbers of the later and the earlier flow that publish it. As the services
    are sorted, one overlaps an earlier one if it begins before the last port of any earlier one.
    """
    furthest: dict[bool, _Published] = {}
    for one in sorted(published):
        other = furthest.get(one.for_all)
        same = other and other.service.protocol == one.service.protocol
        if other and same and one.service.first <= other.service.last:
            yield one.service, max(one.flow, other.flow), min(one.flow, other.flow)
        # A service for every client clashes with every other service, and another one only with a
        # service for every client.
        for met_by in (True, False) if one.for_all else (True,):
            last = furthest.get(met_by)
            same = last and last.service.protocol == one.service.protocol
            if last is None or not same or one.service.last > last.service.last:
                furthest[met_by] = one


def _can_be_published(flow: Flow, at: _Pointer) -> bool:
    fits = len(flow.publish) in (0, 1, len(flow.services)) and not flow.uses_icmp
    return is_outside(flow.source) and fits and _has_sound_ports(flow, at)


def _has_sound_ports(flow: Flow, at: _Pointer) -> bool:
    return at.is_sound(f"{flow.path}.service", f"{flow.path}.publish")
