"""The golden vApp file that uses every key: what is read of it, and that no key is missing in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from vcloud.files import Folder
from vcloud.spec.base import Spec
from vcloud.spec.load import parse_vapp
from vcloud.spec.model import Vapp

FOLDER = Path(__file__).parents[2] / "golden" / "files" / "whole"


def read(text: str) -> Vapp:
    return parse_vapp(text.encode(), Folder(FOLDER), secrets=False)


@pytest.fixture(scope="module")
def whole() -> Vapp:
    return read((FOLDER / "vapp.yaml").read_text())


def mappings(value: object) -> Iterator[Spec]:
    """A mapping of the file and all mappings inside it."""
    if isinstance(value, Spec):
        yield value
        for name in type(value).model_fields:
            yield from mappings(getattr(value, name))
    elif isinstance(value, dict | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from mappings(item)


def written(vapp: Vapp) -> set[tuple[str, str]]:
    """The class and the key of everything that a file writes."""
    return {
        (type(part).__name__, name) for part in mappings(vapp) for name in part.model_fields_set
    }


def test_what_is_read_is_what_was_reviewed(whole: Vapp, request: pytest.FixtureRequest) -> None:
    said = json.dumps(whole.model_dump(mode="json", warnings=False), indent=1) + "\n"
    expected = FOLDER / "expected.json"
    if request.config.getoption("--update-golden"):
        expected.write_text(said)
    assert said == expected.read_text()


def test_every_key_of_the_vapp_file_is_in_the_golden(whole: Vapp) -> None:
    """Whoever adds a key writes it into the golden file, and sees in expected.json what vcloud
    reads.
    """
    known = {(kind.__name__, name) for kind in Spec.__subclasses__() for name in kind.model_fields}
    assert known - written(whole) == set()


def test_a_key_that_is_not_in_the_golden_would_be_found(whole: Vapp) -> None:
    less = (
        (FOLDER / "vapp.yaml")
        .read_text()
        .replace("    why: customers\n", "")
        .replace("    cpus: 2\n", "")
    )
    assert written(whole) - written(read(less)) == {
        ("Flow", "why"),
        ("Vm", "cpus"),
    }
