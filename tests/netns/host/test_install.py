"""The installed reporter: a user of group libvirt runs it by a real sudo, and nothing else."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.netns.namespaces import held
from vcloud.enforce.host_report import INSTALLED
from vcloud.enforce.install import (
    HOOK,
    PROGRAM,
    SUDOERS,
    hook_digest,
    installed_digest,
    installed_text,
)
from vcloud.hosts.host_side import program
from vcloud.plan.host_report import parse_host_report

ROOT = Path(__file__).resolve().parents[3]
ANN, BOB = 2001, 2002
"""Ann is in group libvirt, and Bob is not."""
START = f"""\
mount -t tmpfs -o mode=755 etc /mnt
cp -a /etc/. /mnt/
mount --move /mnt /etc
mount -t tmpfs -o mode=755 local /usr/local
mount -t tmpfs run /run
mkdir -p /run/libvirt/qemu
getent group libvirt >/dev/null || echo 'libvirt:x:2000:' >>/etc/group
sed -i 's/^libvirt:.*:$/&ann/' /etc/group
echo 'ann:x:{ANN}:{ANN}::/:/bin/sh' >>/etc/passwd
echo 'bob:x:{BOB}:{BOB}::/:/bin/sh' >>/etc/passwd
echo 'ann:*:20000::::::' >>/etc/shadow
echo 'bob:*:20000::::::' >>/etc/shadow
"""


@dataclass(frozen=True, slots=True)
class Box:
    """A machine with an /etc, a /usr/local and a /run of its own."""

    pid: int

    def run(self, *argv: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid"]
        return subprocess.run([*enter, *argv], input=stdin, capture_output=True, timeout=300)

    def run_as(
        self, user: int, *argv: str, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        me = ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups")
        return self.run(*me, "env", "-i", "PATH=/usr/bin:/bin", *argv, stdin=stdin)

    def fix(self) -> subprocess.CompletedProcess[bytes]:
        """`vcloud doctor --fix`. No libvirt runs there, which the findings after it say."""
        vcloud = (sys.executable, "-m", "vcloud", "doctor", "--fix", "-c", "qemu:///system")
        return self.run("env", f"PYTHONPATH={ROOT}", f"HOME={os.environ.get('HOME', '/')}", *vcloud)

    def look(self, user: int) -> subprocess.CompletedProcess[bytes]:
        """As vcloud asks: the program through stdin, which runs the installed one."""
        return self.run_as(user, "/usr/bin/python3", "-I", "-", stdin=program())


@pytest.fixture
def box() -> Iterator[Box]:
    with held(script=START) as pid:
        yield Box(pid)


def test_a_user_of_group_libvirt_looks_and_does_nothing_else(box: Box) -> None:
    before = box.look(ANN)
    assert before.returncode != 0
    fixed = box.fix()
    assert f"wrote {PROGRAM}" in fixed.stderr.decode()
    assert f"wrote {SUDOERS}" in fixed.stderr.decode()

    looked = box.look(ANN)
    assert looked.returncode == 0, looked.stderr
    report = parse_host_report(looked.stdout)
    assert report.program == installed_digest()
    assert box.look(BOB).returncode != 0

    for refused in ([INSTALLED, "--all"], [INSTALLED, ""], ["/bin/cat", INSTALLED], ["/bin/sh"]):
        assert box.run_as(ANN, "sudo", "-n", *refused).returncode != 0, refused
    assert box.run_as(ANN, "sudo", "-n", INSTALLED).returncode == 0
    assert box.run_as(ANN, INSTALLED).returncode != 0


def test_what_is_installed_is_root_s_and_passes_visudo(box: Box) -> None:
    box.fix()
    for path, mode in ((PROGRAM, "755"), (SUDOERS, "440"), (HOOK, "755")):
        state = box.run("stat", "--format=%a %u %g", str(path)).stdout.decode().split()
        assert state == [mode, "0", "0"]
    assert box.run("visudo", "--check").returncode == 0
    assert box.run("ls", str(SUDOERS.parent)).stdout.decode().split() == ["README", SUDOERS.name]
    assert box.run("sha256sum", str(PROGRAM)).stdout.split()[0].decode() == installed_digest()
    assert box.run("sha256sum", str(HOOK)).stdout.split()[0].decode() == hook_digest()
    assert hashlib.sha256(installed_text()).hexdigest() == installed_digest()


def test_another_reporter_is_replaced_and_told_before(box: Box) -> None:
    """The digest that a report has is that of the installed file."""
    box.fix()
    box.run("sh", "-c", f"echo '# changed' >>{shlex.quote(INSTALLED)}")
    changed = parse_host_report(box.look(ANN).stdout)
    assert changed.program not in ("", installed_digest())
    box.fix()
    assert parse_host_report(box.look(ANN).stdout).program == installed_digest()


def test_nothing_is_installed_where_others_may_write(box: Box) -> None:
    box.run("mkdir", "-p", str(PROGRAM.parent))
    box.run("chmod", "g+w", str(PROGRAM.parent.parent))
    refused = box.fix()
    assert refused.returncode == 1
    assert f"others than root may write to '{PROGRAM.parent.parent}'" in refused.stderr.decode()
    assert box.run("test", "-e", str(PROGRAM)).returncode != 0
    assert box.run("test", "-e", str(SUDOERS)).returncode != 0


def test_an_ordinary_user_cannot_install(box: Box) -> None:
    program = "from vcloud.hosts.preparing import install_here; install_here()"
    done = box.run(
        sys.executable,
        "-c",
        f"import sys, os; sys.path.insert(0, {str(ROOT)!r})\nimport vcloud.hosts.preparing\nos.setuid({ANN})\n{program}",
    )
    assert "can be installed by root only" in done.stderr.decode()
    assert box.run("test", "-e", str(PROGRAM)).returncode != 0
