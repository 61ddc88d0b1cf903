"""Typed getters: what has the promised type is returned as it is, and everything else is
unreadable.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcloud import untrusted
from vcloud.untrusted import UnreadableError, parse_json

GOOD: list[tuple[Callable[..., object], object, object]] = [
    (untrusted.mapping, {"a": 1}, {"a": 1}),
    (untrusted.items, [1, "x"], [1, "x"]),
    (untrusted.text, "h\u00e9", "h\u00e9"),
    (untrusted.text, "", ""),
    (untrusted.number, 0, 0),
    (untrusted.number, (1 << 63) - 1, (1 << 63) - 1),
    (untrusted.port, 65535, 65535),
    (untrusted.flag, False, False),
    (untrusted.encoded, "aGk=", b"hi"),
]
BAD: list[tuple[Callable[..., object], object]] = [
    (untrusted.mapping, []),
    (untrusted.items, {}),
    (untrusted.items, "text"),
    (untrusted.text, 5),
    (untrusted.text, "\ud800"),
    (untrusted.number, "5"),
    (untrusted.number, 5.0),
    (untrusted.number, True),
    (untrusted.number, -1),
    (untrusted.number, 1 << 63),
    (untrusted.port, 65536),
    (untrusted.flag, 1),
    (untrusted.encoded, "a"),
    (untrusted.encoded, "aGk=\n"),
    (untrusted.encoded, "\u00e9"),
]


@pytest.mark.parametrize(("get", "value", "expected"), GOOD)
def test_a_value_of_the_promised_type_is_returned(
    get: Callable[..., object], value: object, expected: object
) -> None:
    assert get({"key": value}, "key") == expected


@pytest.mark.parametrize(("get", "value"), BAD)
def test_any_other_value_is_unreadable_and_is_not_quoted(
    get: Callable[..., object], value: object
) -> None:
    with pytest.raises(UnreadableError, match="'key'") as error:
        get({"key": value}, "key")
    assert str(error.value).isascii()


@pytest.mark.parametrize(
    "get", [untrusted.text, untrusted.number, untrusted.port, untrusted.flag, untrusted.encoded]
)
def test_what_is_absent_has_its_default_or_is_unreadable_and_null_is_not_absent(
    get: Callable[..., object],
) -> None:
    default = {untrusted.flag: True, untrusted.text: "x", untrusted.encoded: ""}.get(get, 7)
    assert get({}, "key", default) == (b"" if get is untrusted.encoded else default)
    with pytest.raises(UnreadableError, match="'key' is missing"):
        get({}, "key")
    with pytest.raises(UnreadableError, match="'key' is not"):
        get({"key": None}, "key", default)


@pytest.mark.parametrize("holder", [None, [], "key", 5])
def test_what_is_no_object_has_no_keys(holder: object) -> None:
    with pytest.raises(UnreadableError, match="not an object"):
        untrusted.text(holder, "key", "default")


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"{", b"[" * 100_000, b"9" * 5000, b"NaN", b"[-Infinity]", "\x00"]
)
def test_what_is_not_json_is_unreadable(content: bytes | str) -> None:
    with pytest.raises(UnreadableError, match="not valid JSON"):
        parse_json(content)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_every_json_document_is_read(document: object) -> None:
    assert parse_json(json.dumps(document)) == document
