"""The types of the fields: what `types` parses, with the JSON schema that says the same to an editor.

A reference (`ZoneRef`, `VmRef`, `EndRef`, ...) is also looked up among the names of the file, so that a misspelt one is reported together
with everything else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import (
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
    Strict,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, core_schema

from vcloud.documents.field import CONTENT_LENGTH, PARAMETER_LENGTH, FieldError, Suggestions, kind_of, parse_content, shown
from vcloud.spec import types
from vcloud.values import INTERNET, Service


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a value is judged against: the names in its file, and where the file and the shipped recipes lie."""

    zones: frozenset[str]
    vms: frozenset[str]
    flows: frozenset[str]
    disks: frozenset[str]
    """As `db.data`."""
    recipes: frozenset[str]
    folder: Path
    recipes_folder: Path
    suggestions: Suggestions = field(default_factory=Suggestions, compare=False)


def reference(parse: Callable[[object], str], kind: str, names: Callable[[Surroundings], frozenset[str]]) -> PlainValidator:
    """Finds a name among those of the file. One that is declared with a bad name is reported there, not here."""

    def find(value: object, info: ValidationInfo) -> str:
        there = frozenset[str]() if info.context is None else names(info.context)
        if isinstance(value, str) and value in there:
            return value
        name = parse(value)
        if info.context is not None:
            raise FieldError(f"no {kind} is called '{name}'", info.context.suggestions.nearest(name, there))
        return name

    return PlainValidator(find)


def parse_end(value: object, info: ValidationInfo) -> str:
    """A flow's end must mean exactly one thing."""
    around: Surroundings | None = info.context
    if around is None or value == INTERNET:
        return types.parse_end(value)
    if not isinstance(value, str) or value not in around.vms | around.zones:
        return _qualified_end(types.parse_end(value), around)
    if value in around.vms & around.zones:
        raise FieldError(f"'{value}' is a VM and a zone", f"Write vm:{value} or zone:{value}.")
    return value


def _qualified_end(text: str, around: Surroundings) -> str:
    kind, _, name = text.rpartition(":")
    called, there = {"vm": ("VM", around.vms), "zone": ("zone", around.zones)}.get(
        kind, ("VM or zone", around.vms | around.zones | {INTERNET})
    )
    if not kind or name not in there:
        raise FieldError(f"no {called} is called '{name}'", around.suggestions.nearest(name, there))
    return text


def parse_recipe(value: object, info: ValidationInfo) -> str:
    """A name must be a shipped recipe's; folders are looked at later."""
    around: Surroundings | None = info.context
    text = types.parse_local_path(value)
    if around is not None and "/" not in text and text not in around.recipes:
        hint = around.suggestions.nearest(text, around.recipes, "Shipped are")
        raise FieldError(f"no image is called '{text}'", f"{hint} A folder is written with a slash: ./{text}.")
    return text


class Given:
    """What may be left out, but not be written as nothing."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: Any = handler(source)
        return cast(CoreSchema, schema["schema"])


@dataclass(frozen=True, slots=True)
class OneOrMany:
    """A list that may be written as its only item, and names nothing twice."""

    repeats: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._listed, handler(source))

    def _listed(self, value: object) -> object:
        if isinstance(value, list) and not self.repeats:
            texts = [item for item in value if isinstance(item, str)]
            counts = Counter(texts)
            if twice := next((text for text in texts if counts[text] > 1), None):
                raise FieldError(f"'{shown(twice)}' is listed twice", "Remove one of them.")
        return [value] if isinstance(value, str) else value

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        array = handler(schema)
        return {"anyOf": [array["items"], array]}


def _text(pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^(?:{pattern})$"})


def _free(length: int) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "maxLength": length})


def _number_or(pattern: str, last: int, first: int = 1) -> WithJsonSchema:
    return WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": first, "maximum": last}, {"type": "string", "pattern": f"^(?:{pattern})$"}]}
    )


VappName = Annotated[str, PlainValidator(types.parse_name), _text(types.NAME_PATTERN)]
Part = Annotated[str, PlainValidator(types.parse_part), _text(types.PART_PATTERN)]
DiskName = Annotated[str, PlainValidator(types.parse_disk_name), _text(types.DISK_PATTERN)]
Id = Annotated[str, PlainValidator(types.parse_id), _text(types.ID_PATTERN)]
DataClass = Annotated[str, PlainValidator(types.parse_class), _text(types.ID_PATTERN)]
Label = Annotated[str, PlainValidator(types.parse_label), _text(types.LABEL_PATTERN)]
Profile = Annotated[str, PlainValidator(types.parse_profile), _text(types.PROFILE_PATTERN)]
Package = Annotated[str, PlainValidator(types.parse_package), _text(types.PACKAGE_PATTERN)]
Sni = Annotated[str, PlainValidator(types.parse_sni), _text(types.SNI_PATTERN)]
Url = Annotated[str, PlainValidator(types.parse_url), _text(types.URL_PATTERN)]
Sha256 = Annotated[str, PlainValidator(types.parse_sha256), _text(types.SHA256_PATTERN)]
Owner = Annotated[str, PlainValidator(types.parse_owner), _text(types.OWNER_PATTERN)]
Permissions = Annotated[int, PlainValidator(types.parse_mode), _text(types.MODE_PATTERN)]
GuestPath = Annotated[str, PlainValidator(types.parse_guest_path), _text(types.GUEST_PATH_PATTERN)]
LocalPath = Annotated[str, PlainValidator(types.parse_local_path), _text(types.LOCAL_PATH_PATTERN)]
SourcePath = Annotated[str, PlainValidator(types.parse_source), _text(types.LOCAL_PATH_PATTERN)]
PublicKey = Annotated[str, PlainValidator(types.parse_public_key), _free(CONTENT_LENGTH)]
Text = Annotated[
    str,
    PlainValidator(types.parse_text),
    WithJsonSchema({"type": "string", "pattern": r"^[^\u0000-\u001f\u007f]*$", "maxLength": types.TEXT_LENGTH}),
]
Content = Annotated[str, PlainValidator(parse_content), _free(CONTENT_LENGTH)]
Script = Annotated[str, PlainValidator(types.parse_script), _free(types.SCRIPT_LENGTH)]
Memory = Annotated[
    int, PlainValidator(types.parse_memory), _number_or(types.SIZE_PATTERN, types.LARGEST >> 20, types.SMALLEST_MEMORY >> 20)
]
DiskSize = Annotated[
    int, PlainValidator(types.parse_disk_size), _number_or(types.SIZE_PATTERN, types.LARGEST >> 20, types.SMALLEST_DISK >> 20)
]
Duration = Annotated[int, PlainValidator(types.parse_duration), _number_or(types.DURATION_PATTERN, types.LONGEST)]
ServiceField = Annotated[Service, PlainValidator(types.parse_service), _text(types.SERVICE_PATTERN)]
Port = Annotated[int, Strict(), Field(ge=1, le=types.LAST_PORT)]

ZoneRef = Annotated[str, reference(types.parse_part, "zone", lambda around: around.zones), _text(types.PART_PATTERN)]
VmRef = Annotated[str, reference(types.parse_part, "VM", lambda around: around.vms), _text(types.PART_PATTERN)]
FlowRef = Annotated[str, reference(types.parse_id, "flow", lambda around: around.flows), _text(types.ID_PATTERN)]
DiskRef = Annotated[str, reference(types.parse_disk_ref, "disk", lambda around: around.disks), _text(types.DISK_REF_PATTERN)]
EndRef = Annotated[str, PlainValidator(parse_end), _text(types.END_PATTERN)]
RecipeRef = Annotated[str, PlainValidator(parse_recipe), _text(types.LOCAL_PATH_PATTERN)]


def parse_version(value: object) -> int:
    if value is True or value != 1:
        raise FieldError(f"version {shown(value)} of the format is not known", "This release reads vcloud: 1.")
    return 1


def parse_parameter(value: object) -> str | int | bool:
    if not isinstance(value, str | int):
        raise FieldError(f"a parameter's default is text, a whole number, true or false, not {kind_of(value)}")
    return parse_content(value, PARAMETER_LENGTH) if isinstance(value, str) else value


def parse_publish(value: object) -> tuple[tuple[int, int], ...]:
    """Ranges of ports on the uplink; none stands for the service's own."""
    if value is True:
        return ()
    if value is False:
        raise FieldError("a flow from the internet is always published", "Remove the flow, or name the port.")
    if value == []:
        raise FieldError("this is empty, at least one entry is wanted")
    return tuple(types.parse_ports(item) for item in (value if isinstance(value, list) else [value]))


def parse_regex(value: object) -> str:
    """Loads the parser of patterns late: only files with a detector pay for it."""
    from vcloud.patterns.pattern import parse_pattern

    return parse_pattern(value)


_PORTS = {
    "anyOf": [{"type": "integer", "minimum": 1, "maximum": types.LAST_PORT}, {"type": "string", "pattern": f"^(?:{types.PORTS_PATTERN})$"}]
}
Publish = Annotated[
    tuple[tuple[int, int], ...],
    PlainValidator(parse_publish),
    WithJsonSchema({"anyOf": [{"const": True}, _PORTS, {"type": "array", "items": _PORTS, "minItems": 1}]}),
]
Regex = Annotated[str, PlainValidator(parse_regex), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": types.TEXT_LENGTH})]
Count = Annotated[int, Strict(), Field(ge=1, le=250)]
AtLeast = Annotated[int, Strict(), Field(ge=1, le=1000)]
Version = Annotated[int, PlainValidator(parse_version), WithJsonSchema({"const": 1})]
ParameterName = Annotated[str, PlainValidator(types.parse_parameter_name), _text(types.PARAMETER_PATTERN)]
ParameterValue = Annotated[
    str | int | bool,
    PlainValidator(parse_parameter),
    WithJsonSchema({"type": ["string", "integer", "boolean"], "maxLength": PARAMETER_LENGTH}),
]
