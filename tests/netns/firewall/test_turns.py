"""Loads of several runs of vcloud in one firewall: what a killed run has left waits, or comes late,
and never wins.
"""

from __future__ import annotations

import hashlib
import subprocess

import pytest

from tests.design_builder import UPLINK, with_flows
from tests.netns.fabric import Fabric
from tests.netns.firewall.traffic import DESIGN, WITHOUT_STORE, settled
from vcloud.compile.firewall.ruleset import render_firewall

pytestmark = pytest.mark.timeout(900)

OLD, NEW = (
    render_firewall(DESIGN, UPLINK),
    render_firewall(with_flows(DESIGN, WITHOUT_STORE), UPLINK),
)


def ended(load: subprocess.Popen[str], ruleset: str) -> tuple[int | None, str, str]:
    """How a load ends that gets its ruleset now."""
    out, err = load.communicate(ruleset, timeout=300)
    return load.returncode, out, err


def stored(net: Fabric) -> str:
    """What the firewall loads at its next boot."""
    return (net.etc / "vcloud/firewall.nft").read_text().removeprefix("flush ruleset\n")


def test_the_answer_names_what_is_in_force_and_what_was_sent(net: Fabric) -> None:
    in_force, sent = net.load_text(NEW, check=True).stdout.split()
    assert in_force == net.report().digest
    assert sent == hashlib.sha256(NEW.encode()).hexdigest()
    assert stored(net) == NEW


def test_the_next_run_waits_for_the_load_of_a_killed_one(net: Fabric) -> None:
    """The load of the killed run has begun. It ends, and the other begins only then."""
    killed = net.begin_load(next(net.generations))
    assert settled(net.is_locked)
    following = net.begin_load(next(net.generations))
    assert following.stdin is not None
    following.stdin.write(NEW)
    following.stdin.flush()
    assert settled(net.is_awaited)
    assert ended(killed, OLD)[0] == 0
    code, out, err = ended(following, "")
    assert (code, err) == (0, "")
    assert out.split()[0] == net.report().digest
    assert stored(net) == NEW


def test_a_load_of_a_run_before_comes_late_and_changes_nothing(net: Fabric) -> None:
    before, after = next(net.generations), next(net.generations)
    assert net.load_text(NEW, after).returncode == 0
    digest = net.report().digest
    late = net.load_text(OLD, before)
    assert (late.returncode, late.stdout) == (76, "")
    assert late.stderr == f"run {after} has loaded before this load of run {before}\n"
    assert (net.report().digest, stored(net)) == (digest, NEW)
    assert net.load_text(OLD, after).returncode == 0, "the same run may load again"
    assert stored(net) == OLD


def test_what_a_killed_load_has_left_is_removed(net: Fabric) -> None:
    load = net.begin_load(next(net.generations))
    assert settled(lambda: list(net.etc.glob("vcloud/*.new*")) != [])
    load.kill()
    load.communicate(timeout=300)
    net.load(DESIGN)
    assert list(net.etc.glob("vcloud/*.new*")) == []


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_load_that_never_ends_is_told_after_two_minutes(net: Fabric) -> None:
    digest = net.report().digest
    hanging = net.begin_load(next(net.generations))
    assert settled(net.is_locked)
    done = net.load_text(NEW)
    assert done.returncode == 75
    assert done.stderr.startswith("another load, or the start of Suricata, has not ended")
    assert net.report().digest == digest
    assert ended(hanging, OLD)[0] == 0
