"""The JSON schema of the vApp file, for editors and other tools.

It says what the models say about single values. What compares parts of the file (names, circles, ports) is for `vcloud validate`.
"""

from __future__ import annotations

from typing import Any

from vcloud.spec.model import Vapp

DIALECT = "https://json-schema.org/draft/2020-12/schema"
PARAMETER = {"type": "string", "pattern": r"\$\{[a-z][a-z0-9_]*\}", "description": "A value with a parameter in it."}
_LITERAL = frozenset({"parameters"})
"""Top-level keys whose values take no parameters."""


def json_schema() -> dict[str, Any]:
    """A draft 2020-12 schema of the file as it is written, with its short forms and parameters."""
    made = Vapp.model_json_schema(by_alias=True)
    definitions = {name: _open_to_parameters(schema) for name, schema in made.pop("$defs").items()}
    properties = {key: value if key in _LITERAL else _open_to_parameters(value) for key, value in made.pop("properties").items()}
    return {
        "$schema": DIALECT,
        **made,
        "title": "vApp",
        "properties": properties,
        "patternProperties": {"^x-": {"description": "Ignored; for other tools and as a place for anchors."}},
        "$defs": definitions | {"Parameter": PARAMETER},
    }


def _open_to_parameters(schema: Any) -> Any:
    """The schema, with a parameter allowed wherever it asks for more than any text."""
    if isinstance(schema, list):
        return [_open_to_parameters(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if _is_narrow(schema):
        about = {key: schema[key] for key in ("description", "default") if key in schema}
        narrow = {key: value for key, value in schema.items() if key not in about and key != "title"}
        return {**about, "anyOf": [narrow, {"$ref": "#/$defs/Parameter"}]}
    return {key: _below(key, value) for key, value in schema.items() if key != "title"}


def _below(key: str, value: Any) -> Any:
    """Keys of mappings stay as they are, whatever they are called; patterns of keys take no parameters."""
    if key in ("properties", "patternProperties"):
        return {name: _open_to_parameters(item) for name, item in value.items()}
    return value if key in ("propertyNames", "default", "required") else _open_to_parameters(value)


def _is_narrow(schema: dict[str, Any]) -> bool:
    return (
        schema.get("type") in ("integer", "boolean")
        or "enum" in schema
        or "const" in schema
        or (schema.get("type") == "string" and "pattern" in schema)
    )
