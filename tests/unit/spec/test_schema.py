"""The JSON schema says what the loader does, as far as single values go."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest

from vcloud.data import templates_dir
from vcloud.documents.document import Node
from vcloud.documents.reader import read_document
from vcloud.errors import SpecError
from vcloud.spec.schema import json_schema

GOLDEN = Path(__file__).parents[2] / "golden" / "errors"
EXAMPLES = [
    *sorted((templates_dir() / "vapps").glob("*.yaml")),
    GOLDEN.parent / "files" / "whole" / "vapp.yaml",
]
NOT_STRUCTURAL = {
    "after-circle",
    "after-unknown",
    "alias-bomb",
    "placement",
    "tenancy",
    "tenancy-dedicated",
    "authorized-keys",
    "clashing-names",
    "clashing-zones",
    "detector-ids",
    "dlp-patterns",
    "files-in-files",
    "flow-ambiguous-end",
    "parameter-types",
    "published-twice",
    "sources",
    "unknown-image",
    "unknown-zone",
    "zone-twice",
}
"""Cases whose every value could be right in another file, so that no schema can reject them."""


@pytest.fixture(scope="module")
def validator() -> jsonschema.protocols.Validator:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def tree_of(path: Path) -> Node | None:
    """What an editor sees, or None where it is no YAML that all readers agree about."""
    try:
        document = read_document(path.read_bytes(), path.name, example="vcloud: 1")
    except SpecError:
        return None
    return None if document.problems else document.tree


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.parent.name + "/" + path.stem)
def test_every_example_satisfies_the_schema(
    example: Path, validator: jsonschema.protocols.Validator
) -> None:
    assert [error.message for error in validator.iter_errors(tree_of(example))] == []


@pytest.mark.parametrize("case", sorted(GOLDEN.iterdir()), ids=lambda path: path.name)
def test_the_schema_rejects_every_file_that_is_wrong_in_its_structure(
    case: Path, validator: jsonschema.protocols.Validator
) -> None:
    tree = tree_of(case / "vapp.yaml")
    if tree is not None:
        assert validator.is_valid(tree) == (case.name in NOT_STRUCTURAL)


@pytest.mark.parametrize(
    "vm",
    [
        {"image": "nginx", "zone": "dmz", "count": "${n}"},
        {"image": {"file": "a.qcow2"}, "zone": ["dmz"], "memory": 512, "disks": {"data": "1G"}},
        {
            "image": "./images/api",
            "zone": "dmz",
            "files": {"/etc/a": "text", "/etc/b": {"source": "b", "mode": "0600"}},
        },
    ],
)
def test_short_forms_and_parameters_satisfy_the_schema(
    vm: object, validator: jsonschema.protocols.Validator
) -> None:
    validator.validate(
        {"vcloud": 1, "name": "shop", "x-mine": [1], "zones": {"dmz": {}}, "vms": {"web": vm}}
    )


def test_a_zone_may_be_written_as_nothing_and_a_vm_may_not(
    validator: jsonschema.protocols.Validator,
) -> None:
    vapp = {
        "vcloud": 1,
        "name": "shop",
        "zones": {"dmz": None},
        "vms": {"web": {"image": "nginx", "zone": "dmz"}},
    }
    assert validator.is_valid(vapp)
    assert not validator.is_valid(vapp | {"vms": {"web": None}})
