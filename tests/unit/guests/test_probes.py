"""What the probe program prints, and how its Python form travels."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcloud.errors import HostError
from vcloud.guests import remote
from vcloud.guests.probes import (
    Prober,
    checked,
    parse_answers,
    parse_pid,
    python_program,
    python_words,
)
from vcloud.hosts.executed import Executed
from vcloud.proof.checks import Listener, Probe
from vcloud.proof.judge import RESULTS, UNREADABLE, Answer

REMOTE = Path(remote.__file__).parent


def line(**fields: object) -> bytes:
    return json.dumps({"id": "0", "result": "open", "port": 5} | fields).encode()


DEEP = b"[" * 100_000
HOSTILE = [
    b"",
    b"\xff\x00",
    b"null",
    b"7",
    b"[]",
    b"{}",
    DEEP,
    b'{"id": "0", "result": "open", "port": ' + b"9" * 5000 + b"}",
    b'{"id": "0", "result": "open", "port": Infinity}',
    line(result="pass"),
    line(result="open\x1b[2J"),
    line(result=["open"]),
    line(port="5"),
    line(port=-1),
    line(port=1 << 70),
    line(port=None),
    line(answer=7),
    line(answer="a"),
    line(id="1"),
    line(id={"0": "0"}),
]


@pytest.mark.parametrize("output", HOSTILE, ids=lambda output: repr(output[:40]))
def test_an_answer_that_makes_no_sense_costs_that_probe_and_no_other(output: bytes) -> None:
    good = line(id="2", answer="aGVsbG8=")
    assert parse_answers(output + b"\n" + good, 3)[0] == Answer(UNREADABLE)
    assert parse_answers(output + b"\n" + good, 3)[2] == Answer("open", 5, b"hello")


def test_answers_are_those_that_were_asked_for() -> None:
    assert parse_answers(
        line() + b"\n" + line(id="1", result="timeout") + b"\n" + line(id="77"), 2
    ) == (
        Answer("open", 5),
        Answer("timeout", 5),
    )


@pytest.mark.parametrize(
    "output", [b"", b"[]", b"{}", b'{"pid": "x"}', b'{"pid": [1]}', b'{"pid": Infinity}', DEEP]
)
def test_a_listener_that_does_not_say_its_number_has_none(output: bytes) -> None:
    assert parse_pid(output) is None
    assert parse_pid(b'{"pid": 44, "bound": []}') == 44


@given(st.binary(max_size=200))
def test_no_bytes_at_all_break_the_reading_of_answers(output: bytes) -> None:
    assert {answer.result for answer in parse_answers(output, 2)} <= RESULTS | {UNREADABLE}
    assert parse_pid(output) is None or parse_pid(output) >= 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "result", "port", "answer", "pid", "x"]), inner)
    ),
    max_leaves=8,
)


@given(st.lists(JSON, max_size=3))
def test_no_json_at_all_breaks_the_reading_of_answers(items: list[object]) -> None:
    output = "\n".join(json.dumps(item) for item in items).encode()
    assert len(parse_answers(output, 2)) == 2
    parse_pid(output)


def run_here(argv: object, stdin: bytes) -> Executed:
    done = subprocess.run(list(argv), input=stdin, capture_output=True, check=False, timeout=60)
    return Executed(done.returncode, done.stdout, done.stderr)


def test_the_python_program_runs_from_stdin_and_asks_its_questions() -> None:
    """tests/netns/guest/test_probe.py holds what it answers; this is how it gets there."""
    prober = Prober(run_here, shipped=False)
    prober.try_out("here")
    (answer,) = prober.probe([Probe("tcp", "-", ip_address("127.0.0.1"), 1, timeout_ms=2000)])
    assert answer.result == "refused"


def test_a_shipped_image_gets_its_own_program_and_nothing_else() -> None:
    calls: list[tuple[list[str], bytes]] = []

    def run(argv: object, stdin: bytes) -> Executed:
        calls.append((list(argv), stdin))
        return Executed(0, b'{"pid": 7}', b"")

    assert Prober(run, shipped=True).listen([Listener("db", "tcp", "10.0.0.2", 22)], 60) == 7
    assert calls == [(["/usr/lib/vcloud/guest", "listen", "60"], b"tcp 10.0.0.2 22\n")]


@pytest.mark.parametrize(
    ("done", "reason"),
    [
        (Executed(127, b"", b"sh: python3: not found"), "it has no python3"),
        (
            Executed(1, b"", b"Traceback\nRuntimeError: python3 is older than 3.9"),
            "python3 is older than 3.9",
        ),
        (Executed(2, b"", b""), "python3 ended with 2"),
    ],
)
def test_a_host_that_cannot_run_the_program_says_why(done: Executed, reason: str) -> None:
    with pytest.raises(HostError, match=reason):
        checked(done, "h1")
    assert checked(Executed(0, b"", b""), "h1").code == 0


@pytest.mark.parametrize("path", sorted(REMOTE.glob("*.py")), ids=lambda path: path.stem)
def test_the_program_runs_on_python_3_9_and_imports_only_the_standard_library_and_itself(
    path: Path,
) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 9))
    imported = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    ]
    imported += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    foreign = {name for name in imported if name.partition(".")[0] not in sys.stdlib_module_names}
    assert all(name.startswith("vcloud.guests.remote.") for name in foreign)


def test_the_program_fits_into_one_message_of_a_guest_agent() -> None:
    """More would go through a file in the guest."""
    assert len(python_program()) < 60 << 10
    assert sum(map(len, python_words())) < 2000
