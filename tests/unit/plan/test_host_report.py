"""Reports of a host's side as anybody may write them. tests/netns/host has real ones."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcloud.enforce import host_report as program
from vcloud.plan.host_report import FORMAT, MOST_BYTES, MOST_CHARACTERS, parse_host_report
from vcloud.untrusted import UnreadableError

REPORT: dict[str, Any] = {
    "format": FORMAT,
    "program": "",
    "devices": [
        {
            "name": "vb1",
            "kind": "bridge",
            "address": "02:00:00:00:00:01",
            "up": True,
            "master": "",
            "lower": "",
            "port": {},
            "bridge": {"vlan_filtering": "0"},
            "addresses": [],
            "xdp": False,
            "queues": ["noqueue 0:"],
            "programs": [],
        }
    ],
    "static": [],
    "routes": [{"device": "vb1", "to": "10.0.0.1"}],
    "rules": {
        "chains": [{"table": "nat", "name": "PREROUTING", "hook": "prerouting", "policy": ""}],
        "rules": [{"table": "nat", "chain": "PREROUTING", "parts": [{"drop": None}]}],
    },
    "hooks": [],
    "redirects": [{"device": "vb1", "by": "action mirred 1 of tc"}],
    "processes": [
        {
            "pid": 7,
            "program": "qemu",
            "name": "",
            "here": True,
            "taps": ["vc1"],
            "disks": [{"path": "/a/b", "file": "1:2", "writes": True, "here": True}],
        }
    ],
    "machines": {"a.b": 7},
    "sockets": [{"device": "vb1", "pid": 0, "program": ""}],
    "unseen": {"rules": "nft is not installed"},
    "guests": [
        {
            "pid": 7,
            "threads": [{"name": "CPU 0/KVM", "cpus": "2-3,8"}],
            "locked": 4096,
            "merges": False,
            "label": "libvirt-1 (enforce)",
        }
    ],
    "kernel": {"ksm": "0", "ksm_pages": "0", "smt": "", "selinux": ""},
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def places(value: object, *path: Any) -> list[tuple[Any, ...]]:
    """The path of every value in a document."""
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path, *(found for key, item in inner for found in places(item, *path, key))]


def changed(path: tuple[Any, ...], value: object) -> bytes:
    """The report with another value at a path."""
    if not path:
        return json.dumps(value).encode()
    document = copy.deepcopy(REPORT)
    holder: Any = document
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return json.dumps(document).encode()


def test_a_report_is_read() -> None:
    report = parse_host_report(json.dumps(REPORT).encode())
    assert report.devices["vb1"].kind == "bridge"
    assert report.routes == (("vb1", "10.0.0.1"),)
    assert report.rules[0].verdict == "drop"
    assert report.rules[0].whole
    assert report.processes[0].disks[0].name == "b"
    assert report.unseen == (("rules", "nft is not installed"),)
    assert report.guests[0].threads[0].processors == {2, 3, 8}
    assert report.kernel.ksm == "0"
    assert report.redirects == (("vb1", "action mirred 1 of tc"),)


def test_the_reporter_and_its_reader_speak_the_same_format() -> None:
    assert program.FORMAT == FORMAT
    assert program.MOST_PRINTED == MOST_BYTES


@pytest.mark.parametrize("form", [0, FORMAT + 1])
def test_another_format_is_refused_by_its_number(form: int) -> None:
    with pytest.raises(UnreadableError, match=f"its format is {form}"):
        parse_host_report(changed(("format",), form))


@given(st.sampled_from(places(REPORT)), JSON)
def test_whatever_stands_anywhere_it_is_read_or_refused(
    path: tuple[Any, ...], value: object
) -> None:
    try:
        parse_host_report(changed(path, value))
    except UnreadableError:
        return


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in places(REPORT)
        if path
        and isinstance(path[-1], str)
        and "parts" not in path
        and path[:-1] not in ((), ("unseen",), ("machines",), ("devices", 0, "bridge"))
    ],
)
def test_a_report_without_a_part_is_refused(path: tuple[Any, ...]) -> None:
    document: Any = copy.deepcopy(REPORT)
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    del holder[path[-1]]
    with pytest.raises(UnreadableError):
        parse_host_report(json.dumps(document).encode())


def test_too_long_reports_and_texts_are_refused() -> None:
    parse_host_report(changed(("devices", 0, "kind"), "x" * MOST_CHARACTERS))
    with pytest.raises(UnreadableError, match="characters"):
        parse_host_report(changed(("devices", 0, "kind"), "x" * (MOST_CHARACTERS + 1)))
    with pytest.raises(UnreadableError, match="bytes"):
        parse_host_report(b" " * (MOST_BYTES + 1))


@pytest.mark.parametrize(
    "parts",
    [
        [
            {"match": {"op": "!=", "left": {"meta": {"key": "iifname"}}, "right": "vc1"}},
            {"drop": None},
        ],
        [{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": {"set": ["vc1"]}}}],
        [{"xt": None}, {"return": None}],
        [{"return": None}, {"drop": None}],
        [{"jump": {"target": "a"}}, {"jump": {"target": "b"}}],
    ],
)
def test_a_rule_with_more_than_is_understood_is_not_whole(parts: list[Any]) -> None:
    report = parse_host_report(changed(("rules", "rules", 0, "parts"), parts))
    assert not report.rules[0].whole
