"""What `vcloud plan` says of the host's side: what it would run there, what it cannot end, and that
it was not looked at.
"""

from __future__ import annotations

import json

import pytest

from vcloud.cli.lifecycle import show_plan
from vcloud.cli.options import Format
from vcloud.plan.host_difference import HostKind, HostSide
from vcloud.plan.steps import Plan, Step, Verb

UNSEEN = HostSide(unseen=dict.fromkeys(HostKind, "no reporter"), hint="Install one.")
COMMANDS = (("ip", "link", "set", "dev", "x\x1b[0m", "nomaster"),)
STEP = Step(Verb.MEND_HOST, "h1", "a foreign port", "h1", commands=COMMANDS)


def test_nothing_to_do_is_said_with_what_was_not_looked_at(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_plan(Plan("shop", "h1", (), host_side=HostSide()), Format.TABLE)
    assert capsys.readouterr() == ("shop on h1: nothing to do\n", "")
    show_plan(Plan("shop", "h1", (), host_side=UNSEEN), Format.TABLE)
    said = capsys.readouterr()
    assert said.out == (
        "shop on h1: nothing to do as far as libvirt tells; the host's side was not looked at\n"
    )
    assert said.err == "note: no reporter\n  Install one.\n"


def test_what_no_step_ends_is_not_called_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    show_plan(Plan("shop", "h1", (), unmended=("a rule; remove it",)), Format.TABLE)
    said = capsys.readouterr().out
    assert said == "not protected, and not for `vcloud up` to end: a rule; remove it\n"


def test_commands_are_shown_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    show_plan(Plan("shop", "h1", (STEP,)), Format.TABLE)
    said = capsys.readouterr().out
    assert "runs on h1 as root: ip link set dev 'x?[0m' nomaster" in said
    assert "\x1b" not in said


def test_data_has_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    show_plan(Plan("shop", "h1", (STEP,), host_side=UNSEEN, unmended=("a rule",)), Format.JSON)
    data = json.loads(capsys.readouterr().out)
    assert data["steps"][0]["commands"] == [list(words) for words in COMMANDS]
    assert data["unmended"] == ["a rule"]
    assert data["host_side"] == {"looked_at": False, "reason": "no reporter"}
