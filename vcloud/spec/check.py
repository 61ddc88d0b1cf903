"""What is wrong although each value is right in itself: circles, clashes, ports published twice, files that are not there.

Judges what the models accepted, also when that is only a part of the file.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from vcloud.design.model import Service
from vcloud.errors import Problem
from vcloud.spec.fields import INTERNET
from vcloud.spec.model import Detector, File, Flow, Vapp, Vm
from vcloud.spec.types import CONTENT_LENGTH

MOST_IN_ZONE: Final = 4000
"""VMs; a zone is a /20."""


def problems_of(vapp: Vapp, folder: Path) -> Iterator[Problem]:
    """Everything wrong with the vApp as a whole. Reads the files that it names as sources, relative to `folder`."""
    at = _Pointer(vapp)
    yield from _clashing_names(vapp, at)
    yield from _circles(vapp, at)
    yield from _full_zones(vapp, at)
    for tier, vm in vapp.vms.items():
        yield from _vm_problems(f"vms.{tier}", vm, at)
        yield from _image_problems(f"vms.{tier}.image", vm, at)
        for path, file in vm.files.items():
            yield from _source_problems(f'vms.{tier}.files["{path}"].source', file, folder, at)
    yield from _repeated_ids(vapp.flows, "flow", at)
    yield from _repeated_ids(vapp.protection.dlp, "detector", at)
    for flow in vapp.flows:
        yield from _flow_problems(vapp, flow, at)
    yield from _published_twice(vapp, at)


def notes(vapp: Vapp) -> tuple[Problem, ...]:
    """What is allowed but probably not meant."""
    at = _Pointer(vapp)
    used = {zone for vm in vapp.vms.values() for zone in vm.zones}
    return tuple(at(f"zones.{zone}", "no VM is in this zone") for zone in vapp.zones if zone not in used)


class _Pointer:
    """Makes problems of one vApp, each with its line."""

    def __init__(self, vapp: Vapp) -> None:
        self.vapp = vapp

    def __call__(self, path: str, what: str, hint: str = "") -> Problem:
        return Problem(self.vapp.file, self.vapp.line_of(path), path, what, hint)


def _clashing_names(vapp: Vapp, at: _Pointer) -> Iterator[Problem]:
    """`web` with a count makes `web-1`, which may be the name of another VM."""
    owners: dict[str, str] = {}
    for tier, vm in vapp.vms.items():
        for name in vm.names(tier):
            if name in owners:
                yield at(f"vms.{tier}", f"a VM called '{name}' also comes from vms.{owners[name]}", "Rename one of them.")
                break
            owners[name] = tier


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
    sizes = Counter(zone for vm in vapp.vms.values() for zone in vm.zones for _ in range(vm.count or 1))
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
    mounts: dict[str, str] = {}
    for name, disk in vm.disks.items():
        if disk.mount in mounts:
            yield at(
                f"{path}.disks.{name}.mount", f"disk '{mounts[disk.mount]}' is mounted at {disk.mount} already", "Choose another place."
            )
        if disk.mount:
            mounts[disk.mount] = name


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
        if entry.id in first:
            yield at(f"{entry.path}.id", f"the {kind} in line {first[entry.id].line} has the id '{entry.id}', too", "Give each its own id.")
        first.setdefault(entry.id, entry)


def _flow_problems(vapp: Vapp, flow: Flow, at: _Pointer) -> Iterator[Problem]:
    if flow.source == flow.target == INTERNET:
        yield at(f"{flow.path}.to", "a flow from the internet to the internet does not concern the vApp", "Name a VM or a zone at one end.")
    elif flow.source == flow.target and (vm := vapp.vms.get(flow.source.removeprefix("vm:"))) and vm.count is None:
        yield at(f"{flow.path}.to", f"'{flow.target}' is one VM, which needs no flow to itself", "Remove the flow, or give the VM a count.")
    if flow.source == INTERNET:
        yield from _publish_problems(flow, at)
    elif "publish" in flow.model_fields_set:
        yield at(f"{flow.path}.publish", "only a flow from the internet is published", "Remove publish, or write from: internet.")


def _publish_problems(flow: Flow, at: _Pointer) -> Iterator[Problem]:
    if flow.uses_icmp:
        yield at(
            f"{flow.path}.service",
            "ICMP has no ports and cannot be published",
            "Remove icmp from this flow.",
        )
    elif len(flow.publish) not in (0, 1, len(flow.services)):
        what = f"{len(flow.publish)} ports are published for {len(flow.services)} services"
        yield at(f"{flow.path}.publish", what, "Give one for each, in the same order, or true for the same ports.")
    else:
        for service, published in zip(flow.services, flow.published, strict=True):
            if service.last - service.first != published.last - published.first:
                what = f"{service} has {_ports(service)}, but {published} has {_ports(published)}"
                yield at(f"{flow.path}.publish", what, "Publish a range of the same length.")


def _ports(service: Service) -> str:
    count = service.last - service.first + 1
    return f"{count} port{'s' if count > 1 else ''}"


def _published_twice(vapp: Vapp, at: _Pointer) -> Iterator[Problem]:
    """Sorted by first port, a range overlaps an earlier one exactly when it begins before the furthest end so far."""
    ranges = sorted((item, index) for index, flow in enumerate(vapp.flows) if _can_be_published(flow) for item in flow.published)
    furthest: tuple[Service, int] | None = None
    for item, index in ranges:
        if furthest and item.protocol == furthest[0].protocol and item.first <= furthest[0].last:
            later, other = max(index, furthest[1]), min(index, furthest[1])
            what = f"{item} is published by flow '{vapp.flows[other].id}' in line {vapp.flows[other].line} already"
            yield at(f"{vapp.flows[later].path}.publish", what, "Publish another port.")
        if furthest is None or item.protocol != furthest[0].protocol or item.last > furthest[0].last:
            furthest = item, index


def _can_be_published(flow: Flow) -> bool:
    return flow.source == INTERNET and len(flow.publish) in (0, 1, len(flow.services)) and not flow.uses_icmp
