"""Turns a file of docker compose into a vApp file, and names what it leaves out.

What compose says is never widened: a port that is published for this machine only is left out, and
no flow is made that compose does not name. A secret is never copied: values of `environment` stay
where they are. The result is a text to start from, which the user reads and completes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from vcloud.documents.document import mapping_or_empty
from vcloud.documents.field import FieldError, shown
from vcloud.documents.reader import read_document
from vcloud.errors import Problem, SpecError
from vcloud.spec import types

RECIPES: Final = frozenset({"nginx", "postgres"})
"""Shipped recipes whose names are those of images that compose files use."""
PORTS: Final = {"postgres": 5432, "postgresql": 5432, "mysql": 3306, "mariadb": 3306, "redis": 6379}
"""Ports of images for which a flow can be made from `depends_on`."""
DISK: Final = "10G"
"""Compose gives volumes no size."""
_DEFAULT: Final = "default"
"""Compose's own name of the network of services that name none."""
_ZONE: Final = "app"
"""The zone of that network."""
_PORT: Final = re.compile(
    r"(?:(?P<out>[0-9]{1,5}(?:-[0-9]{1,5})?):)?(?P<in>[0-9]{1,5}(?:-[0-9]{1,5})?)(?:/(?P<kind>tcp|udp))?"
)
_MEMORY: Final = re.compile(r"([0-9]{1,12})(?:\.[0-9]{1,3})?([bkmg]?)b?", re.IGNORECASE)
_UNITS: Final = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30}
_TAKEN: Final = frozenset(
    {"image", "ports", "networks", "volumes", "depends_on", "mem_limit", "cpus", "deploy", "scale", "expose"}
)  # fmt: skip
_HINTS: Final = {
    "environment": "its program reads settings in a VM from a file: write files:, with ${env:NAME} or a secret parameter",
    "env_file": "write files:, with ${env:NAME} or a secret parameter",
    "secrets": "write files:, with ${file:PATH} or a secret parameter",
    "build": "write a recipe: a folder with image.yaml",
    "command": "a VM starts services of systemd: write run:, or a unit into files:",
    "entrypoint": "a VM starts services of systemd: write run:, or a unit into files:",
    "healthcheck": "write ready: {tcp: PORT} or ready: {command: ...}",
    "restart": "systemd restarts services, and libvirt is not asked to",
}


@dataclass(frozen=True, slots=True)
class Imported:
    """A vApp file as text, and what of the compose file is not in it, each with its line."""

    text: str
    left: tuple[Problem, ...]


def import_compose(
    data: bytes, file: str, name: str, is_file: Callable[[str], bool] = lambda _: False
) -> Imported:
    """The vApp file for a compose file. `name` is the vApp's name where the file gives none; `is_file`
    says whether a path relative to the file leads to a regular file below its folder.

    Raises:
        SpecError: it is no compose file, or cannot be read.
    """
    document = read_document(data, file, example="services: {web: {image: nginx}}")
    services = mapping_or_empty(document.tree.get("services"))
    if not services:
        what = "this is no file of docker compose: it has no services"
        problem = Problem(file, 0, "", what, "Only compose files can be imported.")
        raise SpecError((problem,))
    if document.problems:
        raise SpecError(tuple(document.problems))
    return _Import(file, document.tree, document.lines, is_file).done(name)


@dataclass(slots=True)
class _Import:
    """One compose file on its way."""

    file: str
    tree: Mapping[str, Any]
    lines: Mapping[str, int]
    is_file: Callable[[str], bool]
    left: list[Problem] = field(default_factory=list)
    flows: list[dict[str, Any]] = field(default_factory=list)
    zone_of: dict[str, str] = field(default_factory=dict)
    """Network -> its zone."""

    def done(self, name: str) -> Imported:
        for key in self.tree:
            known = ("services", "networks", "volumes", "version", "name")
            if key not in known and not key.startswith("x-"):
                self._leave(key, "", _HINTS.get(key, "vApp files have no such part"))
        services = mapping_or_empty(self.tree["services"])
        names = _names(services)
        zones: dict[str, Any] = {}
        vms: dict[str, Any] = {}
        for service, written in services.items():
            its = mapping_or_empty(written)
            vms[names[service]] = self._vm(service, its, names, zones)
        vapp: dict[str, Any] = {
            "vcloud": 1,
            "name": _part(str(self.tree.get("name", name)), 31),
            "zones": zones,
            "vms": vms,
        }
        if self.flows:
            vapp["flows"] = [_said(flow, zones) for flow in self.flows]
        head = f"# Made from {shown(self.file)}. No traffic passes but that of the flows.\n"
        text = head + yaml.safe_dump(vapp, sort_keys=False, allow_unicode=True, width=100)
        return Imported(text, tuple(self.left))

    def _leave(self, path: str, what: str, hint: str) -> None:
        """Notes what is left out. Values are not shown: one may be a secret."""
        line = self.lines.get(path, 0)
        self.left.append(Problem(self.file, line, path, what or "left out", hint))

    def _vm(
        self,
        service: str,
        its: Mapping[str, Any],
        names: Mapping[str, str],
        zones: dict[str, Any],
    ) -> dict[str, Any]:
        path, vm = f"services.{service}", names[service]
        for key in its:
            if key not in _TAKEN:
                self._leave(f"{path}.{key}", "", _HINTS.get(key, "vApp files have no such key"))
        networks = self._networks(service)
        own = [self._zone(network, zones) for network in dict.fromkeys(networks)]
        made: dict[str, Any] = {
            "image": self._image(path, its),
            "zone": own[0] if len(own) == 1 else own,
        }
        made |= self._sizes(path, its)
        made |= self._volumes(path, its, made["image"])
        after = [names[other] for other in _listed(its.get("depends_on")) if other in names]
        if after:
            made["after"] = after
        self._publish(path, its, vm)
        for other in _listed(its.get("depends_on")):
            self._connect(path, other, vm, names)
        return made

    def _networks(self, service: str) -> list[str]:
        its = mapping_or_empty(mapping_or_empty(self.tree["services"]).get(service))
        return _listed(its.get("networks")) or [_DEFAULT]

    def _zone(self, network: str, zones: dict[str, Any]) -> str:
        """The zone of a network. Two networks never become one zone, whatever their names are."""
        if network not in self.zone_of:
            wanted = _ZONE if network == _DEFAULT else _part(network)
            self.zone_of[network] = _unused(wanted, zones, 21)
            zones[self.zone_of[network]] = {}
        return self.zone_of[network]

    def _image(self, path: str, its: Mapping[str, Any]) -> str:
        short = _short(its.get("image"))
        if short in RECIPES:
            if ":" in str(its.get("image")):
                hint = f"the recipe {short} has the version of Debian"
                self._leave(f"{path}.image", "the version is left out", hint)
            return short
        what = f"no recipe is called '{shown(short)}', so `base` stands in its place"
        hint = "add packages: and run:, or write a recipe: a folder with image.yaml"
        self._leave(f"{path}.image", what, hint)
        return "base"

    def _sizes(self, path: str, its: Mapping[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        deploy = mapping_or_empty(its.get("deploy"))
        for key in deploy:
            if key not in ("replicas", "resources"):
                self._leave(f"{path}.deploy.{key}", "", "vApp files have no such key")
        limits = mapping_or_empty(mapping_or_empty(deploy.get("resources")).get("limits"))
        count = deploy.get("replicas", its.get("scale"))
        if type(count) is int and 1 < count <= 250:
            made["count"] = count
        cpus = _number(its.get("cpus", limits.get("cpus")))
        if cpus:
            made["cpus"] = min(64, max(1, -int(-cpus // 1)))
        memory = _mebibytes(its.get("mem_limit", limits.get("memory")))
        if memory:
            made["memory"] = max(memory, 128)
        return made

    def _volumes(self, path: str, its: Mapping[str, Any], image: str) -> dict[str, Any]:
        disks: dict[str, Any] = {}
        files: dict[str, Any] = {}
        volumes = its.get("volumes")
        for index, written in enumerate(volumes if isinstance(volumes, list) else ()):
            source, target = _volume(written)
            at = f"{path}.volumes[{index}]"
            try:
                types.parse_guest_path(target)
            except FieldError:
                self._leave(at, "", "its path in the guest is not one that vcloud takes")
                continue
            if source.startswith((".", "/", "~")):
                relative = source.removeprefix("./")
                if relative.isprintable() and self.is_file(relative):
                    files[target] = {"source": relative}
                else:
                    hint = "write each file into files:, with its source in the folder of the vApp file"
                    self._leave(at, "a folder of this machine is left out", hint)
                continue
            if image != "postgres":
                disk = _unused(_part(source or "data", 20), disks, 20)
                disks[disk] = {"size": DISK, "mount": target}
            elif disks:
                self._leave(at, "", "the recipe postgres has one disk, data")
                continue
            else:
                disks["data"] = DISK
            hint = "compose gives no size; write the one you need"
            self._leave(at, f"its disk gets {DISK}", hint)
        return {key: value for key, value in (("disks", disks), ("files", files)) if value}

    def _publish(self, path: str, its: Mapping[str, Any], vm: str) -> None:
        ports = its.get("ports")
        for index, written in enumerate(ports if isinstance(ports, list) else ()):
            at = f"{path}.ports[{index}]"
            found = _port(written)
            if found is None:
                hint = (
                    "write a flow: {from: internet, to: " + vm + ", service: tcp/80, publish: 8080}"
                )
                self._leave(
                    at, "left out: it is published for some clients only, or is no port", hint
                )
                continue
            service, published = found
            # The id that a flow has by default comes from its ends and its service.
            flow_id = {"id": f"{vm}-port-{index + 1}"} if index else {}
            self.flows.append(
                {**flow_id, "from": "internet", "to": vm, "service": service, "publish": published}
            )

    def _connect(self, path: str, other: str, vm: str, names: Mapping[str, str]) -> None:
        """A flow to a service that this one depends on, where its port is known."""
        its = mapping_or_empty(mapping_or_empty(self.tree["services"]).get(other))
        if not its:
            self._leave(f"{path}.depends_on", "", f"the file has no service '{shown(other)}'")
            return
        if not {*self._networks(path.partition(".")[2])} & {*self._networks(other)}:
            hint = "in compose they do not reach each other; write a flow if they should"
            self._leave(f"{path}.depends_on", f"it has no network with '{shown(other)}'", hint)
            return
        exposed = [_port(one) for one in _listed_ports(its.get("expose"))]
        services = [one[0] for one in exposed if one]
        if port := PORTS.get(_short(its.get("image"))):
            services = services or [f"tcp/{port}"]
        if services:
            self.flows.append({"from": vm, "to": names[other], "service": services})
        else:
            hint = f"write a flow: {{from: {vm}, to: {names[other]}, service: tcp/PORT}}"
            self._leave(f"{path}.depends_on", f"the port of '{shown(other)}' is not known", hint)


def _said(flow: Mapping[str, Any], zones: Mapping[str, Any]) -> dict[str, Any]:
    """A flow whose ends are VMs, also where a zone has the same name."""
    ends = {key: f"vm:{flow[key]}" for key in ("from", "to") if flow[key] in zones}
    return {**flow, **ends}


def _names(services: Mapping[str, Any]) -> dict[str, str]:
    """The name of a VM for each service."""
    made: dict[str, str] = {}
    for service in services:
        made[service] = _unused(_part(service), made.values(), 21)
    return made


def _unused(name: str, used: Collection[str], longest: int) -> str:
    """The name, with a number if it is used already."""
    number, wanted = 2, name
    while name in used:
        name, number = f"{wanted[: longest - 4].rstrip('-')}-{number}", number + 1
    return name


def _part(text: str, longest: int = 21) -> str:
    """A text as the name of a part of a vApp. Two texts may get one name."""
    name = re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")
    name = name if name[:1].isalpha() else f"x{name}"
    name = f"{name}-vm" if name in types.RESERVED else name
    return name[:longest].rstrip("-")


def _listed(written: object) -> list[str]:
    """The names in a list, or the keys of a mapping."""
    if isinstance(written, dict):
        return [*written]
    return [one for one in written if isinstance(one, str)] if isinstance(written, list) else []


def _listed_ports(written: object) -> list[object]:
    return [*written] if isinstance(written, list) else []


def _short(image: object) -> str:
    """`postgres` of `docker.io/library/postgres:16-alpine`."""
    return str(image or "").rpartition("/")[2].partition("@")[0].partition(":")[0]


def _number(value: object) -> float:
    try:
        number = float(str(value)) if value is not None else 0
    except ValueError:
        return 0
    return number if math.isfinite(number) else 0


def _mebibytes(value: object) -> int:
    found = _MEMORY.fullmatch(str(value)) if value is not None else None
    return (int(found[1]) << _UNITS[found[2].lower()]) >> 20 if found else 0


def _volume(written: object) -> tuple[str, str]:
    """Source and target of a volume; the source of an anonymous one is empty."""
    if isinstance(written, dict):
        return str(written.get("source", "")), str(written.get("target", ""))
    parts = str(written).split(":")
    return ("", parts[0]) if len(parts) == 1 else (parts[0], parts[1])


def _port(written: object) -> tuple[str, int | str] | None:
    """Service and port outside. None where it is published at one address only, or cannot be read."""
    if isinstance(written, dict):
        if "host_ip" in written or "target" not in written:
            return None
        kind, outside = written.get("protocol", "tcp"), written.get("published")
        written = (
            f"{outside}:{written['target']}/{kind}" if outside else f"{written['target']}/{kind}"
        )
    found = _PORT.fullmatch(str(written))
    if not found:
        return None
    inside, outside = found["in"], found["out"] or found["in"]
    try:
        types.parse_service(f"{found['kind'] or 'tcp'}/{inside}")
        types.parse_ports(outside)
    except FieldError:
        return None
    published = int(outside) if outside.isdecimal() else outside
    return f"{found['kind'] or 'tcp'}/{inside}", published


def told(left: tuple[Problem, ...]) -> Iterator[str]:
    """What was left out, as lines."""
    for one in sorted(left):
        place = f"{one.file}:{one.line}" if one.line else one.file
        yield f"{place}: {one.field}: {one.what}; {one.hint}"
