"""Loads a vApp file: all of its problems at once, or a `Vapp`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from vcloud.data import images_dir
from vcloud.errors import Problem, SpecError, UsageError
from vcloud.spec.check import problems_of
from vcloud.spec.document import LARGEST, Document, Node, Place, dotted, read_document
from vcloud.spec.fields import Surroundings
from vcloud.spec.model import Vapp, derived_id
from vcloud.spec.parameters import fill_in
from vcloud.spec.types import FieldError, kind_of, nearest, parse_name, parse_service, shown

APPLIANCES: Final = frozenset({"appliance", "firewall", "ips"})
"""Shipped recipes that are no workload's."""
STDIN: Final = "-"
_EMPTY: Final = "Write something below the key, or remove it."


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
    problems = [*document.problems, *_problems(errors, document)]
    if vapp is None:
        vapp = _salvaged(document.tree, around)
    if vapp is not None:
        problems += problems_of(vapp.locate(file, document.lines), folder)
    if problems or vapp is None:
        raise SpecError(tuple(set(problems)))
    return vapp


def read_name(path: Path) -> str:
    """The name of the vApp in a file, whatever else is wrong there. Raises SpecError, UsageError."""
    document = read_document(_read(path), str(path))
    fill_in(document, {})
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
        for location in sorted({_deepest(tree, error) for error in errors}, reverse=True, key=lambda keys: tuple(map(_sortable, keys))):
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


def _deepest(tree: Node, error: ErrorDetails) -> tuple[str | int, ...]:
    """The keys that lead to what is wrong, as far as they exist: pydantic also counts what short forms leave out."""
    value: Any = tree
    for depth, key in enumerate(error["loc"]):
        if not (isinstance(value, dict | list) and _has(value, key)):
            return error["loc"][:depth]
        value = value[key]  # type: ignore[index]
    return error["loc"]


def _has(value: dict[str, Any] | list[Any], key: str | int) -> bool:
    return key in value if isinstance(value, dict) else isinstance(key, int) and key < len(value)


def _remove(tree: Node, location: tuple[str | int, ...]) -> None:
    value: Any = tree
    for key in location[:-1]:
        value = value[key]
    del value[location[-1]]


def _problems(errors: list[ErrorDetails], document: Document) -> Iterator[Problem]:
    for error in errors:
        place = _place_of(error, document)
        if not (_is_echo(error) or _is_refused(place.path, document.refused)):
            yield Problem(document.file, place.line, place.path, *_sentence(error))


def _is_echo(error: ErrorDetails) -> bool:
    """Whether pydantic only says that it goes without what another error is about."""
    return error["type"] == "default_factory_not_called" or (error["type"] == "too_short" and bool(error["input"]))


def _is_refused(path: str, refused: set[str]) -> bool:
    """Whether this place, or something in it, was refused before."""
    return any(f"{other}.".startswith((f"{path}.", f"{path}[")) for other in refused)


def _place_of(error: ErrorDetails, document: Document) -> Place:
    """The dotted path as far as it is written in the file, and its line."""
    keys = _deepest(document.tree, error)
    path = ""
    line = document.tree.place.line
    for key in keys:
        path = dotted(path, key)
        line = document.lines.get(path, line)
    if error["type"] == "missing":
        path = dotted(path, error["loc"][-1])
    return Place(path, line)


def _sentence(error: ErrorDetails) -> tuple[str, str]:
    """What is wrong and the way out, in the words of the file."""
    given, context = error.get("input"), error.get("ctx", {})
    match error["type"]:
        case "value_error" if isinstance(context["error"], FieldError):
            return context["error"].what, context["error"].hint
        case "missing":
            return "this is missing", ""
        case "extra_forbidden":
            return "this key is not known", nearest(str(error["loc"][-1]), _keys_beside(error), "Keys here")
        case "int_type" | "int_parsing":
            hint = "Remove the quotes." if isinstance(given, str) and given.isdecimal() else ""
            return f"a whole number is wanted, not {_given(given)}", hint
        case "bool_type":
            return f"true or false is wanted, not {_given(given)}", ""
        case "dict_type" | "model_type":
            return f"a mapping is wanted, not {_given(given)}", "" if given is not None else _EMPTY
        case "tuple_type" | "list_type":
            return f"a list is wanted, not {_given(given)}", "" if given is not None else _EMPTY
        case "greater_than_equal":
            return f"{shown(given)} is too small, at least {context['ge']} is wanted", ""
        case "less_than_equal":
            return f"{shown(given)} is too large, at most {context['le']} is allowed", ""
        case "too_short":
            return "this is empty, at least one entry is wanted", ""
        case "too_long":
            return f"there are {context['actual_length']} entries, at most {context['max_length']} are allowed", ""
        case "enum":
            return f"'{shown(given)}' is not {context['expected']}", ""
        case _:
            return str(error["msg"]), ""


def _given(value: object) -> str:
    if isinstance(value, str):
        return f"'{shown(value)}'"
    return str(value) if type(value) in (int, float) else kind_of(value)


def _keys_beside(error: ErrorDetails) -> list[str]:
    """The keys that are known where an unknown one stands."""
    kind: Any = Vapp
    for key in error["loc"][:-1]:
        kind = _below(kind, key)
    model = _unwrapped(kind)
    return [field.alias or name for name, field in model.model_fields.items()]


def _below(kind: Any, key: str | int) -> Any:
    """The type that stands under a key of a value of this type."""
    kind = _unwrapped(kind)
    if get_origin(kind) in (dict, tuple):
        return get_args(kind)[get_origin(kind) is dict]
    return next(field.annotation for name, field in kind.model_fields.items() if key == (field.alias or name))


def _unwrapped(kind: Any) -> Any:
    """Without what pydantic is told beside, and without None."""
    while get_origin(kind) in (Annotated, UnionType, Union):
        kind = get_args(kind)[0]
    return kind
