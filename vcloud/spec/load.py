"""Loads a vApp file: all of its problems at once, or a `Vapp`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from vcloud.data import images_dir
from vcloud.documents.document import LARGEST, Node, read_document
from vcloud.documents.field import FieldError
from vcloud.documents.parameters import GIVEN, fill_in
from vcloud.documents.problems import deepest, problems_in
from vcloud.errors import Problem, SpecError, UsageError
from vcloud.spec.check import problems_of
from vcloud.spec.fields import Surroundings
from vcloud.spec.model import Vapp, derived_id
from vcloud.spec.types import parse_name, parse_service

APPLIANCES: Final = frozenset({"appliance", "firewall", "ips"})
"""Shipped recipes that are no workload's."""
STDIN: Final = "-"


def load_vapp(path: Path, parameters: Mapping[str, str] | None = None) -> Vapp:
    """The vApp in a file (`-` is stdin), with parameters overridden.

    Raises SpecError with everything that is wrong, UsageError where the file cannot be read.
    """
    if str(path) == STDIN:
        return parse_vapp(sys.stdin.buffer.read(LARGEST + 1), "stdin", Path(), parameters)
    return parse_vapp(_read(path), str(path), path.parent, parameters)


def parse_vapp(data: bytes | str, file: str = "vapp.yaml", folder: Path = Path(), parameters: Mapping[str, str] | None = None) -> Vapp:
    """The vApp in a text; `file` is what messages call it, paths in it are relative to `folder`. Raises SpecError."""
    document = read_document(data if isinstance(data, bytes) else data.encode(errors="surrogatepass"), file)
    document.tree = _without_extensions(document.tree)
    fill_in(document, parameters or {})
    around = _surroundings(document.tree, folder)
    vapp, errors = _validated(document.tree, around)
    problems = [*document.problems, *problems_in(errors, document, Vapp)]
    if vapp is None:
        vapp = _salvaged(document.tree, around)
    if vapp is not None:
        wrong = {problem.field for problem in problems} | document.refused
        problems += problems_of(vapp.locate(file, document.lines), folder, wrong)
    if problems or vapp is None:
        raise SpecError(tuple(set(problems)))
    return vapp


def read_name(path: Path, parameters: Mapping[str, str] | None = None) -> str:
    """The name of the vApp in a file, whatever else is wrong there but the parameters that are given. Raises SpecError, UsageError."""
    document = read_document(_read(path), str(path))
    fill_in(document, parameters or {})
    if wrong := tuple(problem for problem in document.problems if problem.field == "name" or problem.field.startswith(GIVEN)):
        raise SpecError(wrong)
    try:
        return parse_name(document.tree.get("name"))
    except FieldError as error:
        raise SpecError((Problem(str(path), document.lines.get("name", 0), "name", error.what, error.hint),)) from None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST + 1)
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read: {error.strerror}", "Name a vApp file, or make one: vcloud init.") from None


def _without_extensions(tree: Node) -> Node:
    """Top-level keys `x-...` belong to others."""
    kept = Node(tree.place)
    kept.update((key, value) for key, value in tree.items() if not key.startswith("x-"))
    return kept


def _surroundings(tree: Node, folder: Path) -> Surroundings:
    """The names that the file declares, well or badly, so that a reference to one of them is not reported as well."""
    vms = _mapping(tree.get("vms"))
    recipes = images_dir()
    return Surroundings(
        zones=frozenset(_mapping(tree.get("zones"))),
        vms=frozenset(vms),
        flows=frozenset(_flow_ids(tree.get("flows"))),
        disks=frozenset(f"{vm}.{disk}" for vm, written in vms.items() for disk in _mapping(_mapping(written).get("disks"))),
        recipes=frozenset(path.parent.name for path in recipes.glob("*/image.yaml")) - APPLIANCES,
        folder=folder,
        recipes_folder=recipes,
    )


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, Node) else {}


def _flow_ids(flows: object) -> Iterator[str]:
    for flow in map(_mapping, flows if isinstance(flows, list) else ()):
        if "id" in flow:
            yield str(flow["id"])
            continue
        services = flow.get("service")
        try:
            yield derived_id(flow.get("from"), flow.get("to"), *map(parse_service, services if isinstance(services, list) else [services]))
        except FieldError:
            continue


def _validated(tree: Node, around: Surroundings) -> tuple[Vapp | None, list[ErrorDetails]]:
    try:
        return Vapp.model_validate(tree, context=around), []
    except ValidationError as error:
        return None, error.errors(include_url=False)


def _salvaged(tree: Node, around: Surroundings) -> Vapp | None:
    """What remains when everything wrong is taken out, as long as there is enough to compare."""
    for _ in range(10):
        _stand_in(tree)
        vapp, errors = _validated(tree, around)
        if vapp is not None:
            return vapp
        for location in sorted({deepest(tree, error) for error in errors}, reverse=True, key=lambda keys: tuple(map(_sortable, keys))):
            if not location:
                return None
            _remove(tree, location)
    return None


def _stand_in(tree: Node) -> None:
    """Puts harmless values where necessary ones were taken out, so that what surrounds them can still be judged."""
    tree.setdefault("vcloud", 1)
    tree.setdefault("name", "unnamed")
    for vm in filter(None, map(_mapping, _mapping(tree.get("vms")).values())):
        vm.setdefault("image", "base")
        vm.setdefault("zone", list(_mapping(tree.get("zones"))))


def _sortable(key: str | int) -> tuple[int, str]:
    return (key, "") if isinstance(key, int) else (0, key)


def _remove(tree: Node, location: tuple[str | int, ...]) -> None:
    value: Any = tree
    for key in location[:-1]:
        value = value[key]
    del value[location[-1]]
