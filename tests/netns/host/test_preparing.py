"""The steps that prepare a host, done for real in a machine of namespaces: with its own /etc, /usr/local
and storage, and without systemd and package sources.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.netns.host.test_install import ANN, START, Box
from tests.netns.namespaces import held
from vcloud.enforce.install import HOOK, PROGRAM, SUDOERS, wanted_on
from vcloud.errors import HostError
from vcloud.hosts.executed import Executed
from vcloud.hosts.operator_key import load_operator
from vcloud.hosts.preparing import do_steps, look_at
from vcloud.hosts.shell import Shell
from vcloud.plan.preparation import (
    OPERATORS,
    POOL_FOLDER,
    QEMU_CONF,
    Command,
    SeenHost,
    Step,
    Wanted,
    left_of,
    steps_of,
)

OURS = ("pool folder", "hook", "reporter", "operator")
"""The steps that need neither packages nor systemd."""
STORAGE = """\
mount -t tmpfs -o mode=711 images /var/lib/libvirt/images
rm -rf /etc/libvirt/hooks /etc/libvirt/vcloud /etc/sudoers.d/vcloud*
"""


@dataclass(frozen=True, slots=True)
class Inside:
    """A shell of the machine, for root or for a user."""

    box: Box
    user: int = 0

    def run(self, argv: Sequence[str], stdin: bytes = b"", timeout: float = 60) -> Executed:
        del timeout
        as_user = self.box.run_as(self.user, *argv, stdin=stdin) if self.user else None
        done: subprocess.CompletedProcess[bytes] = as_user or self.box.run(*argv, stdin=stdin)
        return Executed(done.returncode, done.stdout, done.stderr)

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def box() -> Iterator[Box]:
    with held(script=START + STORAGE) as pid:
        yield Box(pid)


@pytest.fixture
def wanted(tmp_path: Path) -> Wanted:
    """With a key that the host shall trust."""
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    operator = load_operator(key)
    return wanted_on(operator.line, operator.fingerprint)


def steps(shell: Shell, wanted: Wanted) -> list[Step]:
    """Those that can be done here."""
    return [step for step in steps_of(look_at(shell, wanted), wanted) if step.name in OURS]


def names(found: Sequence[Step]) -> list[str]:
    return [step.name for step in left_of(found)]


def test_steps_are_done_once_and_what_they_write_is_root_s(box: Box, wanted: Wanted) -> None:
    root, told = Inside(box), list[str]()
    assert names(steps(root, wanted)) == [*OURS]
    do_steps(root, "box", steps(root, wanted), told.append)
    assert names(steps(root, wanted)) == []
    assert any(f"box: mv -f -T {HOOK.parents[1]}/vcloud.new {HOOK}" in line for line in told)
    places = [
        (HOOK, "755"),
        (PROGRAM, "755"),
        (SUDOERS, "440"),
        (OPERATORS, "644"),
        (POOL_FOLDER, "711"),
    ]
    for path, mode in places:
        state = box.run("stat", "--format=%a %u %g", str(path)).stdout.decode().split()
        assert state == [mode, "0", "0"], path
    assert box.run("find", "/etc", "/usr/local", "-name", "*.new").stdout == b""
    assert box.run("ls", str(HOOK.parent)).stdout.decode().split() == [HOOK.name]
    told.clear()
    do_steps(root, "box", steps(root, wanted), told.append)
    assert told == []


def test_a_key_of_others_is_kept(box: Box, wanted: Wanted) -> None:
    box.run("mkdir", "/etc/libvirt/vcloud")
    box.run("tee", OPERATORS, stdin=b"# ours\nvcloud ssh-ed25519 OTHER")
    root = Inside(box)
    do_steps(root, "box", steps(root, wanted), lambda _: None)
    lines = box.run("cat", OPERATORS).stdout.decode().splitlines()
    assert lines[:2] == ["# ours", "vcloud ssh-ed25519 OTHER"]
    assert lines[2] == wanted.operator.strip()


def test_what_breaks_off_says_what_was_done_and_the_next_run_goes_on(
    box: Box, wanted: Wanted
) -> None:
    root = Inside(box)
    box.run("mkdir", "-p", "/usr/local/libexec")
    box.run("mount", "-t", "tmpfs", "-o", "size=4k,mode=755", "full", "/usr/local/libexec")
    with pytest.raises(HostError) as caught:
        do_steps(root, "box", steps(root, wanted), lambda _: None)
    assert "the step 'reporter' failed on box" in caught.value.what
    assert "No space left" in caught.value.what
    assert caught.value.hint == "Done before: pool folder, hook."
    assert box.run("test", "-e", str(SUDOERS)).returncode != 0
    assert names(steps(root, wanted)) == ["reporter", "operator"]
    box.run("umount", "/usr/local/libexec")
    do_steps(root, "box", steps(root, wanted), lambda _: None)
    assert names(steps(root, wanted)) == []


def test_a_rule_that_sudo_refuses_is_never_in_force(box: Box, wanted: Wanted) -> None:
    broken = replace(wanted, rule=replace(wanted.rule, content=b"%libvirt ALL=(root NOPASSWD\n"))
    root = Inside(box)
    with pytest.raises(HostError, match="the step 'reporter' failed on box: `visudo"):
        do_steps(root, "box", steps(root, broken), lambda _: None)
    assert box.run("test", "-e", str(SUDOERS)).returncode != 0
    assert box.run("visudo", "--check").returncode == 0


def test_what_somebody_changed_is_put_right(box: Box, wanted: Wanted) -> None:
    root = Inside(box)
    do_steps(root, "box", steps(root, wanted), lambda _: None)
    for change in (
        ["chmod", "g+w", str(HOOK)],
        ["chown", f"{ANN}", str(HOOK)],
        ["tee", "-a", str(HOOK)],
        ["rm", str(HOOK)],
    ):
        assert box.run(*change, stdin=b"#").returncode == 0
        assert names(steps(root, wanted)) == ["hook"], change
        do_steps(root, "box", steps(root, wanted), lambda _: None)
        assert names(steps(root, wanted)) == []


def test_an_ordinary_user_sees_what_stands_and_changes_nothing(box: Box, wanted: Wanted) -> None:
    root, ann = Inside(box), Inside(box, ANN)
    assert names(steps(ann, wanted)) == [*OURS]
    do_steps(root, "box", steps(root, wanted), lambda _: None)
    assert names(steps(ann, wanted)) == []
    seen: SeenHost = look_at(ann, wanted)
    assert (seen.user, seen.uid, seen.may_be_root) == ("ann", ANN, False)
    assert "libvirt" in seen.groups
    step = Step("hook", "", done=False, commands=(Command(("touch", str(HOOK))),))
    with pytest.raises(HostError, match="Permission denied"):
        do_steps(ann, "box", [step], lambda _: None)


def test_a_pool_on_a_file_system_of_several_hosts_gets_locks(box: Box, wanted: Wanted) -> None:
    """Which one it is stands in the host's own words; here it is said in their place."""
    root = Inside(box)
    box.run("tee", QEMU_CONF, stdin=b'# lock_manager = "sanlock"\nuser = "x"\n')
    seen = replace(look_at(root, wanted), filesystem="nfs", has_lock_manager=False)
    (step,) = (one for one in steps_of(seen, wanted) if one.name == "virtlockd")
    do_steps(root, "box", [replace(step, commands=step.commands[:1])], lambda _: None)
    text = box.run("cat", QEMU_CONF).stdout.decode()
    assert text == '# lock_manager = "sanlock"\nuser = "x"\nlock_manager = "lockd"\n'
