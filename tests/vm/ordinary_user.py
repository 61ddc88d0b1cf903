"""An ordinary user at a desk of a lab's host: in the group of libvirt's socket, and not root."""

from __future__ import annotations

import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.vm.driver import LABS, ROOT, Done, Operator
from vcloud.images.cache import Image
from vcloud.lab.host import holder
from vcloud.lab.layout import Lab
from vcloud.lab.texts import mounts

NOBODY = 65534
"""A user whom libvirtd finds in the machine's /etc/passwd. The group has the same number."""
FIRST_ID = 300_000
"""Of the users of a build of this user."""
GROUP = 2000
"""Of libvirt's socket, where the machine has no group libvirt."""
SOCKET = "/run/libvirt/libvirt-sock"
READABLE = {
    "source": str(ROOT),
    "packages": sysconfig.get_path("purelib"),
    "python": sys.base_prefix,
}
"""What the commands run from: folders of the machine that may lie where only root may go."""
DESK = f"""\
mount -t tmpfs -o mode=755 desk /mnt
mkdir /mnt/etc /mnt/home {" ".join(f"/mnt/{name}" for name in READABLE)}
mount --bind {{home}} /mnt/home
{"".join(f"mount --bind {shlex.quote(path)} /mnt/{name}{chr(10)}" for name, path in READABLE.items())}
cp -a /etc/. /mnt/etc
mount --bind /mnt/etc /etc
mount -t tmpfs -o mode=755 local /usr/local
mount -t proc proc /proc
echo nobody:{FIRST_ID}:65536 | tee /etc/subuid >/etc/subgid
getent group libvirt >/dev/null || echo 'libvirt:x:{GROUP}:' >>/etc/group
sed -i 's/^libvirt:.*:$/&nobody/' /etc/group
"""
"""Folders of its own: no file of the machine changes."""
PYTHON = "/mnt/python/bin/python{}.{}".format(*sys.version_info)
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
CACHE = "/mnt/home/.cache/vcloud/images"
OPEN = f"chgrp libvirt {SOCKET} && chmod 770 {SOCKET}"


@dataclass(frozen=True, slots=True)
class Desk:
    """`pid` holds its namespaces: those of the host, but for the mounts."""

    pid: int

    def as_root(self, *argv: str) -> Done:
        """A vcloud command by root on the host."""
        return self._run(*argv)

    def as_user(self, *argv: str, path: str = SYSTEM_PATH) -> Done:
        """A vcloud command by the ordinary user."""
        become = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--init-groups")
        return self._run(*argv, become=become, path=path)

    def _run(self, *argv: str, become: tuple[str, ...] = (), path: str = SYSTEM_PATH) -> Done:
        done = subprocess.run(
            [
                *("nsenter", f"--target={self.pid}", "--mount", "--uts", "--net", "--pid", *become),
                *("env", "-i", "-C", "/mnt/home", "HOME=/mnt/home", "NO_COLOR=1"),
                *("VCLOUD_INVENTORY=/mnt/home/hosts.yaml", "VCLOUD_CONNECT=qemu:///system"),
                "VCLOUD_BOOT_TIMEOUT=3000",
                *(f"PATH={path}", "PYTHONPATH=/mnt/source:/mnt/packages"),
                *(
                    "LD_LIBRARY_PATH=/mnt/python/lib",
                    "PYTHONDONTWRITEBYTECODE=1",
                    PYTHON,
                    "-m",
                    "vcloud",
                ),
                *argv,
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2400,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)


@contextmanager
def desk(
    operator: Operator, file: Path, folder: Path, images: Sequence[Image] = ()
) -> Iterator[Desk]:
    """A desk at the lab's host, with the vApp's file at /mnt/home/FILENAME, and with the images in
    the user's cache. Its inventory, which is also written to `folder`, says that this machine is the
    host.
    """
    operator.with_host(
        folder, lambda host: host.update(uri="qemu:///system", operator_key="/mnt/home/key")
    )
    lab = operator.env["VCLOUD_LAB"]
    host = Lab(lab, LABS / lab).host(1)
    key = shlex.quote(str(host.lab.key))
    folders = "".join(
        f"mount --bind {shlex.quote(str(source))} {shlex.quote(str(target))}\n"
        for source, target in mounts(host)
    )
    files = shlex.join([str(file), str(folder / "hosts.yaml")])
    copy = f"install -m 644 {files} /mnt/home/\ninstall -m 600 {key} /mnt/home/key\n"
    home = folder / "desk"
    home.mkdir(exist_ok=True)
    stock = shlex.join([*(str(image.folder) for image in images), CACHE])
    copy += f"mkdir -p {CACHE}\n" + (f"cp -R {stock}\n" if images else "")
    copy += f"chown -R {NOBODY}:{NOBODY} /mnt/home\n"
    at_home = DESK.format(home=shlex.quote(str(home)))
    script = f"{at_home}{copy}{folders}{OPEN}\necho ready\nexec cat >/dev/null"
    with subprocess.Popen(
        [
            *("nsenter", f"--target={holder(host)}", "--uts", "--net", "--pid"),
            *("unshare", "--mount", "sh", "-ec", script),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        yield Desk(int(children))
        process.stdin.close()
