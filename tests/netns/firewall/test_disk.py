"""A firewall whose disk is full or only readable: nobody is told that it has refused its rules, and
each answer says which rules are in force.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.design_builder import UPLINK, with_flows
from tests.netns.fabric import Fabric
from tests.netns.firewall.traffic import DESIGN, WITHOUT_STORE
from vcloud.compile.firewall.ruleset import render_firewall

pytestmark = pytest.mark.timeout(900)

NEW = render_firewall(with_flows(DESIGN, WITHOUT_STORE), UPLINK)


def stored(net: Fabric) -> str:
    """What the firewall loads at its next boot."""
    return (net.etc / "vcloud/firewall.nft").read_text()


@contextmanager
def small_disk(net: Fabric, option: str) -> Iterator[None]:
    """/etc is on a file system of its own, which is full or mounted with this option."""

    def run(*argv: str) -> None:
        subprocess.run(argv, check=True)

    etc, kept = str(net.etc), str(net.folder / "kept")
    run("cp", "-a", etc, kept)
    run("mount", "-t", "tmpfs", "-o", "size=2M", "tmpfs", etc)
    try:
        run("cp", "-a", f"{kept}/.", etc)
        subprocess.run(["sh", "-c", 'cat /dev/zero > "$0/filler"', etc], stderr=subprocess.DEVNULL)
        run("mount", "-o", f"remount,{option}", etc)
        yield
    finally:
        run("umount", etc)
        run("rm", "-r", kept)


@pytest.mark.parametrize("option", ["size=2M", "ro"])
def test_a_ruleset_that_cannot_be_written_changes_nothing(net: Fabric, option: str) -> None:
    digest, before = net.report().digest, stored(net)
    with small_disk(net, option):
        done = net.load_text(NEW)
        assert (done.returncode, done.stdout) == (73, "")
        assert done.stderr != ""
        assert (net.report().digest, stored(net)) == (digest, before)
    assert net.load_text(NEW).returncode == 0
    assert net.report().digest != digest


def test_a_ruleset_that_cannot_be_stored_is_in_force_all_the_same(net: Fabric) -> None:
    """Nothing can take the place of a file that is immutable."""
    digest, before = net.report().digest, stored(net)
    rules = str(net.etc / "vcloud/firewall.nft")
    subprocess.run(["chattr", "+i", rules], check=True)
    try:
        done = net.load_text(NEW)
    finally:
        subprocess.run(["chattr", "-i", rules], check=True)
    assert (done.returncode, done.stdout) == (74, "")
    assert done.stderr != ""
    assert net.report().digest != digest
    assert stored(net) == before
    assert list(net.etc.glob("vcloud/*.new*")) == []


def test_a_ruleset_that_nft_refuses_is_told_as_such(net: Fabric) -> None:
    digest, before = net.report().digest, stored(net)
    done = net.load_text("table inet vcloud { nonsense }\n")
    assert (done.returncode, done.stdout) == (65, "")
    assert "nonsense" in done.stderr
    assert (net.report().digest, stored(net)) == (digest, before)
