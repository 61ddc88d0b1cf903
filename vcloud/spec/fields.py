"""The types of the model's fields. Each type joins a check of `types` with the JSON schema for the
same values.

A reference (`ZoneRef`, `VmRef`, `EndRef`, ...) is also looked up among the names that the file
declares, so that a wrong one is reported together with all other problems.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, TypeVar, cast

from pydantic import (
    AfterValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
    Strict,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, core_schema

from vcloud.documents.field import (
    CONTENT_LENGTH,
    PARAMETER_LENGTH,
    FieldError,
    Shape,
    kind_of,
    parse_content,
    shown,
)
from vcloud.documents.secrets import SECRET
from vcloud.spec import types
from vcloud.spec.surroundings import Surroundings
from vcloud.values import ALL, INTERNET, Service, is_prefix


@dataclass(frozen=True, slots=True)
class Unenforced:
    """Marks a field that this release accepts and cannot enforce. `refuse` then stops `plan` and
    `up` with the sentence.

    In the sentence, `{value}` is the field's value (of a list, each item's), and `{owner}` the
    mapping that has the field.
    """

    sentence: str


class Given:
    """Marks a field that may be left out (its default is None), but whose key may not stand without
    a value.
    """

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        schema: Any = handler(source)
        # The schema of `T | None` accepts None, and holds the schema of T. Only the inner one is
        # kept, so `key:` without a value is an error.
        return cast(CoreSchema, schema["schema"])


@dataclass(frozen=True, slots=True)
class OneOrMany:
    """A list that may be written as a single item without brackets. No item may come twice, unless
    `repeats` is set.
    """

    repeats: bool = False

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._listed, handler(source))

    def _listed(self, value: object) -> object:
        if isinstance(value, list) and not self.repeats:
            texts = [item for item in value if isinstance(item, str)]
            counts = Counter(texts)
            if twice := next((text for text in texts if counts[text] > 1), None):
                raise FieldError(f"'{shown(twice)}' is listed twice", "Remove one of them.")
        is_one = isinstance(value, str | int) and not isinstance(value, bool)
        return [value] if is_one else value

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        array = handler(schema)
        return {"anyOf": [array["items"], array]}


T = TypeVar("T")
ListOf = Annotated[tuple[T, ...], OneOrMany()]
EachOf = Annotated[tuple[T, ...], OneOrMany(repeats=True)]
"""A list with one item for each item of another list."""
Optional = Annotated[T | None, Given()]


@dataclass(frozen=True, slots=True)
class Reference:
    """A name that the file must declare elsewhere, under `kind`."""

    shape: Shape
    kind: str
    names: Callable[[Surroundings], frozenset[str]]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(self._find)

    def _find(self, value: object, info: core_schema.ValidationInfo) -> str:
        """Accepts a declared name even if its spelling is not allowed, because the problem is
        reported where the name is declared.
        """
        around: Surroundings | None = info.context
        if around is None:
            return self.shape.parse(value)
        known = self.names(around)
        if isinstance(value, str) and value in known:
            return value
        name = self.shape.parse(value)
        raise FieldError(
            f"no {self.kind} is called '{name}'", around.suggestions.nearest(name, known, self.kind)
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return self.shape.json_schema()


def _like(shape: Shape) -> WithJsonSchema:
    """The schema of a text of this shape, for a field whose check does more."""
    return WithJsonSchema(shape.json_schema())


def _free(length: int) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "maxLength": length})


def _number_or(shape: Shape, last: int, first: int = 1) -> WithJsonSchema:
    return WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": first, "maximum": last}, shape.json_schema()]}
    )


def parse_end(value: object, info: ValidationInfo) -> str:
    """The end of a flow. Raises FieldError if it means no VM, zone or address, or more than one."""
    around: Surroundings | None = info.context
    if isinstance(value, str) and is_prefix(value):
        return types.parse_prefix(value)
    if around is None or value == INTERNET:
        return types.END.parse(value)
    if not isinstance(value, str) or value not in around.vms | around.zones:
        return _qualified_end(types.END.parse(value), around)
    if value in around.vms & around.zones:
        raise FieldError(
            f"'{value}' is the name of a VM and of a zone", f"Write vm:{value} or zone:{value}."
        )
    return value


def _qualified_end(text: str, around: Surroundings) -> str:
    """The end of a flow with its kind before its name, such as `vm:db`."""
    kind, _, name = text.rpartition(":")
    ends = {"vm": ("VM", around.vms), "zone": ("zone", around.zones)}
    called, known = ends.get(kind, ("VM or zone", around.vms | around.zones | {INTERNET}))
    if not kind or name not in known:
        what = called if kind else "end"
        raise FieldError(
            f"no {called} is called '{name}'", around.suggestions.nearest(name, known, what)
        )
    return text


def parse_recipe(value: object, info: ValidationInfo) -> str:
    """A shipped recipe's name, or the path of a recipe's folder. Whether the folder exists is
    checked later.
    """
    around: Surroundings | None = info.context
    text = types.parse_local_path(value)
    if around is not None and "/" not in text and text not in around.recipes:
        hint = around.suggestions.nearest(text, around.recipes, "image")
        raise FieldError(f"no image is called '{text}'", f"{hint} For a folder, write ./{text}.")
    return text


def parse_version(value: object) -> int:
    """The version of the file format."""
    if value == "1":
        raise FieldError("the version must be a number, not text", "Remove the quotes.")
    if value is True or value != 1:
        raise FieldError(
            f"this release cannot read version {shown(value)} of the file format",
            "Write vcloud: 1.",
        )
    return 1


def parse_parameter(value: object) -> str | int | bool | dict[str, bool]:
    """The default of a parameter, or the declaration of a secret."""
    if isinstance(value, dict):
        if value.keys() != SECRET.keys() or value["secret"] is not True:
            raise FieldError(
                "a parameter is a default, or {secret: true} for a secret without one",
                "Write {secret: true}. The secret itself does not stand in this file: --param-file gives it.",
            )
        return SECRET
    if not isinstance(value, str | int):
        raise FieldError(
            f"a parameter's default must be text, a whole number, true or false; this is {kind_of(value)}"
        )
    return parse_content(value, PARAMETER_LENGTH) if isinstance(value, str) else value


def parse_publish(value: object) -> tuple[tuple[int, int], ...]:
    """Ranges of ports on the uplink. An empty tuple means the service's own ports."""
    if value is True:
        return ()
    if value is False:
        raise FieldError(
            "a flow from the internet is always published", "Remove the flow, or write the port."
        )
    if value == []:
        raise FieldError("this is empty; at least one entry is required")
    return tuple(
        types.parse_ports(item) for item in (value if isinstance(value, list) else [value])
    )


def parse_regex(value: object) -> str:
    """A detector's pattern. The parser of patterns is imported here, so that files without a
    detector load faster.
    """
    from vcloud.patterns.pattern import parse_pattern

    return parse_pattern(value)


VappName = Annotated[str, types.VAPP_NAME]
Part = Annotated[str, types.PART_NAME]
DiskName = Annotated[str, types.DISK_NAME]
ParameterName = Annotated[str, types.PARAMETER_NAME]
Id = Annotated[str, types.ID]
DataClass = Annotated[str, types.CLASS_NAME]
Label = Annotated[str, types.LABEL]
HostName = Annotated[str, types.HOST_NAME]
Profile = Annotated[str, types.PROFILE]
Control = Annotated[str, types.CONTROL_REFERENCE]
Date = Annotated[date, PlainValidator(types.parse_date), _like(types.DATE)]
Package = Annotated[str, types.PACKAGE]
Sni = Annotated[str, types.SNI]
Url = Annotated[str, types.URL]
Sha256 = Annotated[str, types.SHA256]
Owner = Annotated[str, PlainValidator(types.parse_owner), _like(types.OWNER)]
Unit = Annotated[str, PlainValidator(types.parse_unit), _like(types.UNIT)]
Permissions = Annotated[int, PlainValidator(types.parse_mode), _like(types.MODE)]
GuestPath = Annotated[str, PlainValidator(types.parse_guest_path), _like(types.GUEST_PATH)]
LocalPath = Annotated[str, PlainValidator(types.parse_local_path), _like(types.LOCAL_PATH)]
SourcePath = Annotated[str, PlainValidator(types.parse_source), _like(types.LOCAL_PATH)]
_SERVICES = {"anyOf": [{"const": ALL}, types.SERVICE.json_schema()]}
Services = Annotated[
    tuple[Annotated[Service, PlainValidator(types.parse_services), WithJsonSchema(_SERVICES)], ...],
    AfterValidator(lambda parsed: tuple(itertools.chain(*parsed))),
    OneOrMany(),
]
"""Each entry is parsed as one service or several; the result is one flat list."""
PublicKey = Annotated[str, PlainValidator(types.parse_public_key), _free(CONTENT_LENGTH)]
Content = Annotated[str, PlainValidator(parse_content), _free(CONTENT_LENGTH)]
Script = Annotated[str, PlainValidator(types.parse_script), _free(types.SCRIPT_LENGTH)]
Text = Annotated[
    str,
    PlainValidator(types.parse_text),
    WithJsonSchema(
        {"type": "string", "pattern": r"^[^\u0000-\u001f\u007f]*$", "maxLength": types.TEXT_LENGTH}
    ),
]
Words = Annotated[
    str,
    PlainValidator(types.parse_words),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^[^\u0000-\u001f\u007f]*\S[^\u0000-\u001f\u007f]*$",
            "maxLength": types.TEXT_LENGTH,
        }
    ),
]
"""A text that is not empty."""
Memory = Annotated[
    int,
    PlainValidator(types.parse_memory),
    _number_or(types.SIZE, types.LARGEST >> 20, types.SMALLEST_MEMORY >> 20),
]
DiskSize = Annotated[
    int,
    PlainValidator(types.parse_disk_size),
    _number_or(types.SIZE, types.LARGEST >> 20, types.SMALLEST_DISK >> 20),
]
Duration = Annotated[
    int, PlainValidator(types.parse_duration), _number_or(types.DURATION, types.LONGEST)
]
Port = Annotated[int, Strict(), Field(ge=1, le=types.LAST_PORT)]
Count = Annotated[int, Strict(), Field(ge=1, le=250)]
AtLeast = Annotated[int, Strict(), Field(ge=1, le=1000)]

ZoneRef = Annotated[str, Reference(types.PART_NAME, "zone", lambda around: around.zones)]
VmRef = Annotated[str, Reference(types.PART_NAME, "VM", lambda around: around.vms)]
FlowRef = Annotated[str, Reference(types.ID, "flow", lambda around: around.flows)]
DiskRef = Annotated[str, Reference(types.DISK_REFERENCE, "disk", lambda around: around.disks)]
EndRef = Annotated[
    str,
    PlainValidator(parse_end),
    WithJsonSchema({"anyOf": [types.END.json_schema(), types.PREFIX.json_schema()]}),
]
RecipeRef = Annotated[str, PlainValidator(parse_recipe), _like(types.LOCAL_PATH)]

_PORTS = {
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": types.LAST_PORT},
        types.PORTS.json_schema(),
    ]
}
Publish = Annotated[
    tuple[tuple[int, int], ...],
    PlainValidator(parse_publish),
    WithJsonSchema(
        {"anyOf": [{"const": True}, _PORTS, {"type": "array", "items": _PORTS, "minItems": 1}]}
    ),
]
Regex = Annotated[
    str,
    PlainValidator(parse_regex),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": types.TEXT_LENGTH}),
]
Version = Annotated[int, PlainValidator(parse_version), WithJsonSchema({"const": 1})]
ParameterValue = Annotated[
    str | int | bool | dict[str, bool],
    PlainValidator(parse_parameter),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": ["string", "integer", "boolean"], "maxLength": PARAMETER_LENGTH},
                {
                    "type": "object",
                    "properties": {"secret": {"const": True}},
                    "required": ["secret"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]
