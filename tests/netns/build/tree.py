"""A jail with a small tree in the place of an image: busybox, and the program of attacks."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from pathlib import Path

from vcloud.images.ids import Ids, own_ids
from vcloud.images.jail import IMAGE, FailedCommandError, Jail
from vcloud.images.way_out import Policy

SOURCE = Path(__file__).with_name("attack.c")
BUSYBOX = Path("/bin/busybox")
COMMANDS = "sh cat ls ln chroot mknod mkfifo mount id env sleep setsid nohup kill yes head dd wc nc ps mkdir chmod touch tr stat readlink wget true false hostname find umount rm cp grep seq printf"
FOLDERS = ("bin", "dev", "etc", "proc", "run", "tmp", "sys")


def compiled(folder: Path) -> Path:
    """The program of attacks."""
    program = folder / "attack"
    subprocess.run(["musl-gcc", "-static", "-O1", "-o", str(program), str(SOURCE)], check=True)
    return program


def make(folder: Path, attack: Path, ids: Ids | None = None) -> Jail:
    """A jail in a new folder, with a tree of its own."""
    jail = Jail.make(folder, ids or own_ids())
    with tempfile.TemporaryFile() as packed:
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for name in FOLDERS:
                member = tarfile.TarInfo(f"root/{name}")
                member.type, member.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
                archive.addfile(member)
            add(archive, "root/bin/busybox", BUSYBOX.read_bytes(), 0o755)
            add(archive, "root/bin/attack", attack.read_bytes(), 0o755)
            add(archive, "root/etc/own", b"its own\n", 0o644)
            for name in COMMANDS.split():
                member = tarfile.TarInfo(f"root/bin/{name}")
                member.type, member.linkname = tarfile.SYMTYPE, "busybox"
                archive.addfile(member)
        packed.seek(0)
        jail.run(["tar", "-C", "/work", "-xpf", "-"], data=packed)
    return jail


def add(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), mode
    archive.addfile(member, io.BytesIO(content))


def said(jail: Jail, script: str, *, way_out: Policy | None = None, largest: int = 0) -> str:
    """What a command of a recipe prints, whether it fails or not."""
    variables = way_out.variables if way_out else {}
    try:
        lines = jail.run(
            ["/bin/sh", "-c", f"rm -rf /tmp/*; {script}"],
            view=IMAGE,
            way_out=way_out,
            variables=variables,
            largest=largest,
        )
    except FailedCommandError as error:
        lines = list(error.lines)
    return "\n".join(lines)
