"""YAML as every reader understands it, and nothing else."""

from __future__ import annotations

import time
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vcloud.documents.document import Document
from vcloud.documents.reader import DEEPEST, LARGEST, read_document
from vcloud.errors import SpecError


def read(text: str | bytes) -> Document:
    return read_document(text if isinstance(text, bytes) else text.encode(), "f", example="a: 1")


def value_of(text: str) -> Any:
    document = read(f"key: {text}\n")
    assert not document.problems
    return document.tree["key"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("true", True),
        ("False", False),
        ("12", 12),
        ("-3", -3),
        ("0", 0),
        ("1.5", 1.5),
        ("web", "web"),
        ("'no'", "no"),
        ('"0644"', "0644"),
        ("8080:80", "8080:80"),
        ("2026-01-01", "2026-01-01"),
        ("1.2.3", "1.2.3"),
        ("tcp/80", "tcp/80"),
        ("y", "y"),
    ],
)
def test_plain_values(text: str, value: object) -> None:
    assert value_of(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "no",
        "Yes",
        "ON",
        "off",
        "22:22",
        "1:30:00",
        "0644",
        "-07",
        "0x1F",
        "0o17",
        "0b1",
        "1_000",
        ".inf",
        "-.INF",
        ".nan",
        "1" * 19,
    ],
)
def test_values_that_readers_disagree_about_are_refused(text: str) -> None:
    (problem,) = read(f"a: 1\nkey: {text}\n").problems
    assert (problem.line, problem.field) == (2, "key")
    assert "quotes" in problem.what + problem.hint
    assert value_of(f"'{text}'") == text


@given(st.text(alphabet="0123456789+-._:eExobtrufalsynoONull~", max_size=8))
def test_what_is_taken_is_what_the_common_reader_takes(text: str) -> None:
    """PyYAML reads YAML 1.1: where nothing is refused, it sees the same, but for dates and numbers
    with an exponent.
    """
    try:
        common = yaml.safe_load(f"key: {text}\n")
        document = read(f"key: {text}\n")
    except (yaml.YAMLError, SpecError, ValueError):
        return
    value = document.tree["key"]
    if (
        not document.problems
        and not isinstance(value, float)
        and isinstance(common["key"], str | int | bool | None)
    ):
        assert value == common["key"]


def test_lines_and_paths() -> None:
    document = read("# a comment\na:\n  b: 1\n  c:\n    - x\n    - d: 2\n/etc/motd: {m: 1}\n")
    assert document.lines == {
        "a": 2,
        "a.b": 3,
        "a.c": 4,
        "a.c[0]": 5,
        "a.c[1]": 6,
        "a.c[1].d": 6,
        '["/etc/motd"]': 7,
        '["/etc/motd"].m': 7,
    }
    assert document.tree["a"]["c"][1].position == ("a.c[1]", 6)


def test_aliases_and_merges() -> None:
    document = read("x: &x {a: 1, b: 2}\ny:\n  <<: *x\n  b: 3\nz: *x\nl: {<<: [{a: 5}, *x]}\n")
    assert document.tree["y"] == {"a": 1, "b": 3}
    assert document.tree["z"].position == ("z", 5)
    assert document.tree["l"] == {"a": 5, "b": 2}


def test_an_alias_to_what_contains_it_is_refused() -> None:
    assert "has no anchor &a before it" in read("a: &a [*a]\n").problems[0].what


@pytest.mark.parametrize(
    "text",
    [
        "!!str 5",
        "!mine {a: 1}",
        "! x",
        "!!binary aGk=",
        "!!python/name:os.system x",
        "!<tag:x> [1]",
    ],
)
def test_tags_are_refused(text: str) -> None:
    assert "tag" in read(f"key: {text}\n").problems[0].what


@pytest.mark.parametrize(
    "text", ["? [a]\n: 1\n", "? {a: 1}\n: 1\n", "1: a\n", "no: a\n", "~: a\n", "a: 1\n*b : 2\n"]
)
def test_keys_are_plain_text(text: str) -> None:
    assert read(f"ok: 1\n{text}").problems


@pytest.mark.parametrize("unit", ["[", "- ", "? ", "{a: ", "{", "a: [", "&a [", "'"])
@pytest.mark.parametrize("times", [DEEPEST + 2, 200_000])
def test_deep_nesting_ends_in_an_error_and_not_in_a_crash(unit: str, times: int) -> None:
    """libyaml's composer would recurse until the stack ends."""
    with pytest.raises(SpecError):
        read(unit * times)


@pytest.mark.parametrize("width", [2, 10, 50])
def test_aliases_cannot_explode(width: int) -> None:
    rows = [f"a0: &a0 [{', '.join('x' * width)}]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, 60)]
    started = time.monotonic()
    with pytest.raises(SpecError, match="aliases repeat"):
        read("\n".join(rows))
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    "data",
    [
        b"a: \x00",
        b"a: \x1b",
        b"a: \xc2\x85",
        "a: \u2028b".encode(),
        b"\xff\xfea\x00",
        b"a: \xed\xa0\x80",
        b"a\rb: \x7f",
        "a: \ufeffb".encode(),
    ],
)
def test_control_characters_and_other_encodings_are_refused(data: bytes) -> None:
    with pytest.raises(SpecError):
        read(data)


def test_a_byte_order_mark_and_windows_line_ends_are_taken() -> None:
    assert read(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n").lines == {"a": 1, "b": 2}


def test_a_huge_file_is_refused() -> None:
    with pytest.raises(SpecError, match="larger than 8 MiB"):
        read(b"a: 1\n" * (LARGEST // 5 + 1))


@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(alphabet="ab:-[]{},&*!|>'\"%@`#?\n\t 01<~$", max_size=80).map(str.encode),
    )
)
def test_any_bytes_are_a_document_or_a_spec_error(data: bytes) -> None:
    try:
        tree = read_document(data, "f", example="a: 1").tree
    except SpecError:
        return
    assert isinstance(tree, dict)
