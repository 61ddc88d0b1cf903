"""What the guest agent answers is read as data of any form. libvirt's call to the agent is
replaced; tests/vm ask real agents.
"""

from __future__ import annotations

import base64
import itertools
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import libvirt
import libvirt_qemu
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcloud.errors import GuestError
from vcloud.hosts.agent import FIRST_PAUSE, Agent, AgentSilentError, NotSentError, next_pause

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["return", "pid", "exited", "exitcode", "out-data", "count", "buf-b64", "eof"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


def domain() -> libvirt.virDomain:
    """A running domain of a libvirt of its own. That of test:///default is one for all tests of a
    process, which would find there what others have left.
    """
    connection = libvirt.open(f"test://{Path(__file__).with_name('node.xml')}")
    return connection.lookupByName("test")


def agent_that_answers(patch: pytest.MonkeyPatch, answers: Iterator[str]) -> Agent:
    patch.setattr(libvirt_qemu, "qemuAgentCommand", lambda *_: next(answers))
    return Agent(domain())


def said(*answers: object) -> Iterator[str]:
    return iter([json.dumps({"return": answer}) for answer in answers])


def test_a_program_ends_with_what_the_agent_says(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = {
        "exited": True,
        "exitcode": 3,
        "out-data": base64.b64encode(b"out").decode(),
        "err-truncated": True,
    }
    done = agent_that_answers(monkeypatch, said({"pid": 7}, {"exited": False}, ended)).execute(
        ["true"]
    )
    assert (done.code, done.stdout, done.stderr, done.truncated) == (3, b"out", b"", True)


def test_a_program_that_a_signal_ends_has_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = agent_that_answers(monkeypatch, said({"pid": 7}, {"exited": True, "signal": 9}))
    assert agent.execute(["true"]).code == 137


@pytest.mark.parametrize(
    ("seconds", "questions", "late"), [(0.01, 1, 0.02), (2, 20, 0.15), (60, 120, 2), (900, 550, 2)]
)
def test_the_longer_a_program_takes_the_less_often_its_end_is_asked_for(
    seconds: float, questions: int, late: float
) -> None:
    """Many agents log each question in the guest."""
    taken, pause, asked = 0.0, FIRST_PAUSE, 0
    while taken < seconds:
        taken, asked = taken + pause, asked + 1
        pause = next_pause(pause, taken)
    assert asked <= questions
    assert taken - seconds <= late


def test_a_file_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = (
        {"count": 2, "buf-b64": "aGk=", "eof": False},
        {"count": 0, "buf-b64": "", "eof": True},
    )
    assert agent_that_answers(monkeypatch, said(1000, *parts, {})).read_file("/x") == b"hi"


def test_a_file_that_never_ends_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = {"count": 1, "buf-b64": "", "eof": False}
    assert agent_that_answers(monkeypatch, said(1000, empty, {})).read_file("/x") == b""


def endless(part: object, pause: float = 0) -> Iterator[str]:
    """A handle, then the same part for ever."""
    yield from said(1000)
    while True:
        time.sleep(pause)
        yield from said(part)


def test_a_file_in_parts_of_a_byte_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    drip = {"count": 1, "buf-b64": "eA==", "eof": False}
    with pytest.raises(GuestError, match="in too many parts"):
        agent_that_answers(monkeypatch, endless(drip)).read_file("/x")
    whole = [drip] * 20 + [drip | {"eof": True}]
    assert agent_that_answers(monkeypatch, said(1000, *whole, {})).read_file("/x") == b"x" * 21


def test_an_agent_that_always_answers_in_the_last_moment_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drip = {"count": 1, "buf-b64": "eA==", "eof": False}
    with pytest.raises(GuestError, match=r"'/x' did not arrive within 0\.2 s"):
        agent_that_answers(monkeypatch, endless(drip, 0.05)).read_file("/x", timeout=0.2)


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_what_libvirt_could_not_send_is_sent_again_and_nothing_else_is(
    monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """A busy guest does not answer libvirt's own question in time, before it gets the command."""
    parts = (
        {"count": 2, "buf-b64": "aGk=", "eof": False},
        {"count": 0, "buf-b64": "", "eof": True},
    )
    answers: list[object] = [1000, *parts, {}]
    answers[place:place] = [NOT_SENT]
    assert agent_that(monkeypatch, answers).read_file("/x") == b"hi"
    assert agent_that(monkeypatch, [NOT_SENT, {"pid": 7}]).start(["true"]) == 7
    answers[place] = SILENT
    with pytest.raises(AgentSilentError):
        agent_that(monkeypatch, answers).read_file("/x")


def test_what_cannot_be_sent_in_time_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = agent_that(monkeypatch, itertools.repeat(NOT_SENT))
    with pytest.raises(NotSentError):
        agent.read_file("/x", timeout=0.2)


NOT_SENT = libvirt.VIR_ERR_AGENT_UNRESPONSIVE, "Guest agent is not available for now"
SILENT = libvirt.VIR_ERR_AGENT_UNRESPONSIVE, "Guest agent did not answer"
"""Code and message of errors of libvirt."""


def agent_that(patch: pytest.MonkeyPatch, answers: Iterable[object]) -> Agent:
    """Answers, or raises errors of libvirt."""
    left = iter(answers)

    def answer(*_: object) -> str:
        said = next(left)
        if said not in (NOT_SENT, SILENT):
            return json.dumps({"return": said})
        code, message = said
        error = libvirt.libvirtError(message)
        error.err = (code, libvirt.VIR_FROM_QEMU, message, 2, None, None, None, 0, 0)
        raise error

    patch.setattr(libvirt_qemu, "qemuAgentCommand", answer)
    return Agent(domain())


def test_a_file_larger_than_the_limit_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    part = {"count": 1, "buf-b64": base64.b64encode(bytes(1 << 20)).decode(), "eof": False}
    with pytest.raises(GuestError, match="more than 32 MiB"):
        agent_that_answers(monkeypatch, endless(part)).read_file("/x")


def test_a_program_that_never_ends_is_given_up_and_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(_domain: object, command: str, *_: object) -> str:
        asked.append(json.loads(command)["execute"])
        return json.dumps({"return": {"pid": 7, "exited": False}})

    monkeypatch.setattr(libvirt_qemu, "qemuAgentCommand", answer)
    agent = Agent(domain())
    with pytest.raises(GuestError, match=r"did not end within 0\.2 s"):
        agent.execute(["sleep"], timeout=0.2)
    assert asked[0] == asked[-1] == "guest-exec"
    assert set(asked[1:-1]) == {"guest-exec-status"}


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "{}",
        "[]",
        "null",
        "[" * 100_000,
        '{"return": null}',
        '{"return": 5}',
        '{"return": {"pid": "7"}}',
        '{"return": {"pid": NaN}}',
    ],
    ids=lambda answer: answer[:30],
)
def test_an_answer_that_no_agent_gives_is_a_guests_error(
    monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    with pytest.raises(GuestError, match="cannot be read"):
        agent_that_answers(monkeypatch, iter([answer])).execute(["true"])


@given(st.lists(JSON | st.fixed_dictionaries({"return": JSON}), min_size=1, max_size=3))
def test_no_answers_at_all_are_anything_but_a_result_or_a_guests_error(
    answers: list[object],
) -> None:
    endless = (json.dumps(answers[min(turn, len(answers) - 1)]) for turn in range(10_000))
    with pytest.MonkeyPatch.context() as patch:
        agent = agent_that_answers(patch, endless)
        for ask in (
            lambda: agent.execute(["true"], timeout=0),
            lambda: agent.read_file("/x"),
            lambda: agent.start(["true"]),
        ):
            try:
                ask()
            except GuestError:
                continue
