"""A machine with two ordinary users, in namespaces: /etc, /home, /run and /mnt are its own, and all
else is that of this machine.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.netns.namespaces import held

ROOT = Path(__file__).resolve().parents[3]
ANN, BOB = 2001, 2002
"""Ann has numbers for builds and is in group libvirt. Bob has neither."""
ANN_IDS = 300_000
READABLE = {
    "source": str(ROOT),
    "packages": sysconfig.get_path("purelib"),
    "python": sys.base_prefix,
}
"""What vcloud runs from: folders of this machine that may lie where only root may go."""
PYTHON = "/mnt/python/bin/python{}.{}".format(*sys.version_info)
START = f"""\
mount -t tmpfs -o mode=755 desk /mnt
mkdir /mnt/etc /mnt/home {" ".join(f"/mnt/{name}" for name in READABLE)}
mount --bind "$HOMES" /mnt/home
mkdir /mnt/home/ann /mnt/home/bob
{"".join(f"mount --bind {shlex.quote(path)} /mnt/{name}{chr(10)}" for name, path in READABLE.items())}
cp -a /etc/. /mnt/etc
mount --bind /mnt/etc /etc
mount -t tmpfs -o mode=755 run /run
mkdir /run/libvirt
sed -i '/^libvirt:/d' /etc/group
printf '%s\\n' libvirt:x:2000:ann ann:x:{ANN}: bob:x:{BOB}: >>/etc/group
echo 'ann:x:{ANN}:{ANN}::/mnt/home/ann:/bin/sh' >>/etc/passwd
echo 'bob:x:{BOB}:{BOB}::/mnt/home/bob:/bin/sh' >>/etc/passwd
echo 'ann:{ANN_IDS}:65536' >/etc/subuid
echo 'ann:{ANN_IDS}:65536' >/etc/subgid
chown {ANN}:{ANN} /mnt/home/ann
chown {BOB}:{BOB} /mnt/home/bob
"""


@dataclass(frozen=True, slots=True)
class Box:
    """The machine. `pid` holds its namespaces."""

    pid: int

    def run(self, *argv: str, code: int | None = 0) -> str:
        """A command by root."""
        done = subprocess.run(self.enter(*argv), capture_output=True, text=True, timeout=600)
        assert code in (None, done.returncode), done.stdout + done.stderr
        return done.stdout

    def enter(self, *argv: str) -> list[str]:
        return ["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", *argv]

    def vcloud(self, user: str, *argv: str, groups: str = "--init-groups") -> tuple[int, str, str]:
        """A vcloud command: exit code, output, errors. PATH lacks the folders of the system."""
        done = subprocess.run(
            self.command(user, *argv, groups=groups),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=1200,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr

    def command(self, user: str, *argv: str, groups: str = "--init-groups") -> list[str]:
        home = f"/mnt/home/{user}" if user != "root" else "/mnt/home"
        become = ("setpriv", f"--reuid={user}", f"--regid={user}", groups) if user != "root" else ()
        return self.enter(
            *become,
            *("env", "-i", "-C", home, f"HOME={home}", "NO_COLOR=1", "PATH=/usr/bin:/bin"),
            *("PYTHONPATH=/mnt/source:/mnt/packages", "PYTHONDONTWRITEBYTECODE=1"),
            # Where only root may read the folder that Python's own library was installed to.
            "LD_LIBRARY_PATH=/mnt/python/lib",
            *(PYTHON, "-m", "vcloud", *argv),
        )


@contextmanager
def box(homes: Path) -> Iterator[Box]:
    """The homes of its users are in the folder `homes` of this machine."""
    homes.mkdir()
    homes.chmod(0o755)
    with held(script=f"HOMES={shlex.quote(str(homes))}\n{START}") as pid:
        yield Box(pid)
