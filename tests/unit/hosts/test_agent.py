"""What the guest agent answers is read as data of any form. libvirt's call to the agent is
replaced; tests/vm ask real agents.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import libvirt
import libvirt_qemu
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcloud.errors import GuestError
from vcloud.hosts.agent import Agent

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


def agent_that_answers(patch: pytest.MonkeyPatch, answers: Iterator[str]) -> Agent:
    patch.setattr(libvirt_qemu, "qemuAgentCommand", lambda *_: next(answers))
    return Agent(libvirt.open("test:///default").lookupByName("test"))


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


def test_a_file_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = (
        {"count": 2, "buf-b64": "aGk=", "eof": False},
        {"count": 0, "buf-b64": "", "eof": True},
    )
    assert agent_that_answers(monkeypatch, said(1000, *parts, {})).read_file("/x") == b"hi"


def test_a_file_that_never_ends_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = {"count": 1, "buf-b64": "", "eof": False}
    assert agent_that_answers(monkeypatch, said(1000, empty, {})).read_file("/x") == b""


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
