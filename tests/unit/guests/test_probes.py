"""What the probe program prints, and how its Python form travels."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcloud.errors import HostError
from vcloud.guests import remote
from vcloud.guests.probes import (
    Listening,
    Prober,
    Run,
    checked,
    parse_answers,
    parse_held,
    parse_listening,
    probe_line,
    python_program,
    python_words,
)
from vcloud.hosts.executed import Executed
from vcloud.proof.checks import Connection, Listener, Probe
from vcloud.proof.frames import End
from vcloud.proof.observed import RESULTS, UNREADABLE, Answer

SSHD = Listener("db", "tcp", "10.0.0.2", 22)
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
    assert parse_listening(output, [SSHD]) is None
    said = b'{"pid": 44, "bound": []}'
    assert parse_listening(said, [SSHD]) == Listening(44, frozenset())


@pytest.mark.parametrize(
    ("busy", "found"),
    [
        (["tcp 10.0.0.2 22"], {SSHD}),
        (["udp 10.0.0.2 22", "tcp 10.0.0.2 2", "tcp 10.0.0.3 22"], set()),
        ([], set()),
    ],
)
def test_a_port_that_a_service_has_is_known_as_busy(busy: list[str], found: set[Listener]) -> None:
    said = json.dumps({"pid": 44, "busy": busy}).encode()
    assert parse_listening(said, [SSHD]) == Listening(44, frozenset(found))


@pytest.mark.parametrize("busy", [7, [7], [None], {"a": 1}])
def test_ports_that_make_no_sense_are_no_answer(busy: object) -> None:
    assert parse_listening(json.dumps({"pid": 44, "busy": busy}).encode(), [SSHD]) is None


@pytest.mark.parametrize(
    ("ms", "known"),
    [(1.5, 2), (0, 0), (-3, 0), (10**9, 0), ("7", 0), (None, 0), (True, 1)],
)
def test_a_round_trip_that_makes_no_sense_counts_as_none(ms: object, known: int) -> None:
    (answer,) = parse_answers(line(ms=ms), 1)
    assert (answer.result, answer.ms) == ("open", known)


def test_a_card_is_named_only_where_the_probe_needs_one() -> None:
    probe = Probe("tcp", "-", ip_address("10.0.0.2"), 22)
    assert probe_line("0", probe) == "0 tcp - 10.0.0.2 22 2500 -\n"
    assert probe_line("0", replace(probe, card="br0")) == "0 tcp - 10.0.0.2 22 2500 - br0\n"


@given(st.binary(max_size=200))
def test_no_bytes_at_all_break_the_reading_of_answers(output: bytes) -> None:
    assert {answer.result for answer in parse_answers(output, 2)} <= RESULTS | {UNREADABLE}
    assert parse_listening(output, [SSHD]) is None


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
    parse_listening(output, [SSHD])


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

    assert Prober(run, shipped=True).listen([SSHD], 60) == Listening(7, frozenset())
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


@pytest.mark.parametrize(
    ("said", "held"),
    [
        (b"10.0.0.2 4000\n-\npid 77\n", (77, (End(ip_address("10.0.0.2"), 4000), None))),
        (
            b"fd00::2 4000\n10.0.0.2 1\npid 77",
            (77, (End(ip_address("fd00::2"), 4000), End(ip_address("10.0.0.2"), 1))),
        ),
        (b"10.0.0.2 4000\npid 77\n", (0, (None, None))),
        (b"10.0.0.2 4000\n-\n", (0, (None, None))),
        (b"10.0.0.2 70000\nx y z\npid 77\n", (77, (None, None))),
        (b"-\n-\npid 0\n", (0, (None, None))),
        (b"-\n-\npid -1\n", (0, (None, None))),
        (b"", (0, (None, None))),
        (b"\xff\x00", (0, (None, None))),
    ],
)
def test_what_keeps_connections_is_believed_only_if_it_is_all_there(
    said: bytes, held: tuple[int, tuple[End | None, ...]]
) -> None:
    assert parse_held(said, 2) == held


def test_a_vm_does_not_choose_whom_others_forge_packets_to() -> None:
    """It says that its connection comes from an address that it was not given."""
    connection = Connection("web", "db", "10.0.0.2", ip_address("10.0.16.2"), 80, None, None)

    def run(said: str) -> Run:
        return lambda *_: Executed(0, said.encode(), b"")

    for address, found in (("10.0.0.2", 1), ("10.0.16.9", 0), ("fd00::1", 0)):
        held = Prober(run(f"{address} 4000\npid 77\n"), shipped=True).hold([connection], 5)
        assert sum(end is not None for end in held.ends) == found
    outside = replace(connection, source="-")
    held = Prober(run("198.51.100.7 4000\npid 77\n"), shipped=False).hold([outside], 5)
    assert held.ends == (End(ip_address("198.51.100.7"), 4000),)
