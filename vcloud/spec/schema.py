"""The JSON schema of the vApp file, for editors and other tools.

The schema holds what the model says about single values. Only `vcloud validate` compares parts of
the file with each other (names, circles, ports).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from vcloud.spec.model import Vapp

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
PARAMETER: Final = {
    "type": "string",
    "pattern": r"\$\{[a-z][a-z0-9_]*\}",
    "description": "A value that contains a parameter.",
}

_NAMED: Final = frozenset({"properties", "patternProperties", "$defs"})
"""Keywords whose values are mappings from names to schemas."""
_NOISE: Final = frozenset({"title", "default"})
"""Titles only repeat names. Defaults are parsed values (bytes, permission bits), which a file
writes in another way.
"""


def json_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of the file as users write it, with short forms and parameters."""
    made = Vapp.model_json_schema(by_alias=True)
    # The parameters keep their own schema, because a default cannot refer to another parameter.
    parameters = _plain(made["properties"]["parameters"])
    made = _open(_plain(made))
    made["properties"]["parameters"] = parameters
    made["patternProperties"] = {
        "^x-": {
            "description": "vcloud ignores these keys. Use them for other tools and for anchors."
        }
    }
    made["$defs"]["Parameter"] = PARAMETER
    return {"$schema": DIALECT, "title": "vApp", **made}


def _plain(schema: Any) -> Any:
    """The schema without noise. A mapping with a pattern for its names allows no other names."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {
        key: _each(_plain, value) if key in _NAMED else _plain(value)
        for key, value in schema.items()
        if key not in _NOISE
    }
    return made | {"additionalProperties": False} if "patternProperties" in made else made


def _open(schema: Any) -> Any:
    """The schema with a parameter allowed in place of each value. Where any text is valid, a
    parameter already is.
    """
    if isinstance(schema, list):
        return [_open(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if _is_narrow(schema):
        about = {"description": schema["description"]} if "description" in schema else {}
        return {
            **about,
            "anyOf": [
                {key: schema[key] for key in schema if key not in about},
                {"$ref": "#/$defs/Parameter"},
            ],
        }
    return {
        key: _each(_open, value) if key in _NAMED else _open(value) for key, value in schema.items()
    }


def _each(change: Callable[[Any], Any], schemas: dict[str, Any]) -> dict[str, Any]:
    return {name: change(schema) for name, schema in schemas.items()}


def _is_narrow(schema: dict[str, Any]) -> bool:
    kind = schema.get("type")
    return (
        kind in ("integer", "boolean")
        or "enum" in schema
        or "const" in schema
        or (kind == "string" and "pattern" in schema)
    )
