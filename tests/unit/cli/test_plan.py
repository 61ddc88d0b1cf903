"""What `vcloud plan` says of the host's side: what it would run there, what it cannot end, and that
it was not looked at.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import yaml

from vcloud.cli.lifecycle import _agreed, _not_agreed, show_plan
from vcloud.cli.options import Format
from vcloud.documents.parameter import Source
from vcloud.errors import Exit, UnreachableError
from vcloud.plan.given import ParameterChange
from vcloud.plan.host_difference import HostKind, HostSide
from vcloud.plan.steps import Plan, Step, Uncompared, Verb

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


def test_a_copy_that_may_be_older_starts_without_a_terminal_only_where_its_host_is_named() -> None:
    """Also with --yes, which may stand in the environment. The twin has asked all hosts."""
    plan = Plan("shop", "h1", (Step(Verb.START_VM, "web", "it is off"),))
    assert _agreed(plan, yes=False, data_too=False)
    seen = replace(plan, uncompared=(Uncompared("h2", "h2 does not answer ssh"),))
    for yes in (False, True):
        with pytest.raises(UnreachableError) as caught:
            _agreed(seen, yes=yes, data_too=True)
        assert caught.value.exit == Exit.REFUSED
        assert "h2 cannot be asked whether it has a newer copy of 'shop'" in caught.value.what
        assert "--connect h1" in caught.value.hint
        assert "--host-is-dead h2" in caught.value.hint


def test_a_plan_names_the_hosts_that_may_have_a_newer_copy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = Plan("shop", "h1", (Step(Verb.START_VM, "web", "it is off"),))
    show_plan(plan, Format.TABLE)
    assert "not compared" not in capsys.readouterr().out
    seen = replace(plan, uncompared=(Uncompared("h2", "no\nanswer"),))
    show_plan(seen, Format.TABLE)
    assert "not compared: h2 cannot be asked whether" in capsys.readouterr().out
    show_plan(seen, Format.JSON)
    document = json.loads(capsys.readouterr().out)
    assert [one["host"] for one in document["uncompared_hosts"]] == ["h2"]


GIVEN = ParameterChange("n", "2", Source.OPTION, "1", Source.DEFAULT)
REMOVAL = Step(Verb.REMOVE_VM, "shop.web-2", "no longer in the file", "h1")


def test_parameters_are_told_with_where_they_come_from(capsys: pytest.CaptureFixture[str]) -> None:
    found = Plan("shop", "h1", (REMOVAL,), parameters=(GIVEN,))
    show_plan(found, Format.TABLE)
    said = capsys.readouterr().out
    assert "parameter n: 2 (by -P) at the last `up`, now 1 (the default in the file)" in said
    expected = {"name": "n", "old": "2", "old_source": "-P", "new": "1", "new_source": "the file"}
    for output, read in ((Format.JSON, json.loads), (Format.YAML, yaml.safe_load)):
        show_plan(found, output)
        assert read(capsys.readouterr().out)["parameters"] == [expected]


def test_a_loss_by_a_forgotten_parameter_is_explained() -> None:
    said = str(_not_agreed(Plan("shop", "h1", (REMOVAL,), parameters=(GIVEN,))))
    assert (
        "the last `up` was given -P n=2, and this one is not; to keep it, add --keep-params" in said
    )
    assert "--keep-params" not in str(_not_agreed(Plan("shop", "h1", (REMOVAL,))))
