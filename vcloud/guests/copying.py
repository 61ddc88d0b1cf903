"""`vcloud cp`: copies a file or a folder into a VM or out of it, through the channel of `vcloud ssh`.

A copy is written beside its place and renamed when it is whole, so a copy that breaks off leaves
nothing under the name. What a VM sends is unpacked by `vcloud.guests.archive`.
"""

from __future__ import annotations

import io
import os
import posixpath
import shlex
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vcloud.errors import GuestError, UsageError, VcloudError
from vcloud.guests.access import login
from vcloud.guests.archive import CutShortError, Unpacked, unpack
from vcloud.reporter import Reporter

if TYPE_CHECKING:
    from typing_extensions import Buffer

STEP = 8 << 20
"""Bytes after which the progress is told again."""
PADDING = 1 << 20
"""Bytes that may follow an archive: tar fills its last record with zeros."""
SHOWN = 500
"""Bytes of an error of ssh or tar that are shown."""
NOTHING_HERE = "Nothing was written here. A file that changes meanwhile makes tar fail, too."
END = "end"
"""The last entry of an archive that goes into a VM. Without it, the archive was cut short."""
MISSING, STANDS = 66, 73
"""Exit codes of the programs below: there is nothing to copy; something is in the way."""
# $1: the path in the guest. A folder is sent as `.`, so that the guest does not choose a name.
SEND = f"""\
p=$(readlink -e -- "$1") || exit {MISSING}
if [ -d "$p" ]; then exec tar --format=gnu --hard-dereference -C "$p" -cf - .; fi
exec tar --format=gnu --hard-dereference -C "${{p%/*}}/" -cf - -- "${{p##*/}}"
"""
# $1: the path in the guest; $2: the name of the copy if $1 is a folder; $3: d for a folder.
RECEIVE = f"""\
d=$1
case $d in /*) ;; *) d=$PWD/$d ;; esac
if [ -d "$d" ]; then d=${{d%/}}/$2; fi
if [ -e "$d" ] && {{ [ "$3" = d ] || ! [ -f "$d" ]; }}; then echo "$d" >&2; exit {STANDS}; fi
[ -d "${{d%/*}}/" ] || exit {MISSING}
t=$(mktemp -d "${{d%/*}}/.vcloud-cp-XXXXXXXX") || exit
trap 'rm -rf -- "$t"' EXIT HUP INT TERM
tar --no-same-owner -C "$t" -xpf - || exit
[ -e "$t/{END}" ] || exit
mv -T -- "$t/copy" "$d" || exit
echo done
"""


@dataclass(frozen=True, slots=True)
class Place:
    """A path in a VM."""

    vapp: str
    vm: str
    path: str

    def __str__(self) -> str:
        return f"{self.vapp}/{self.vm}:{self.path}"


def copy_out(place: Place, target: Path, connect: str | None, reporter: Reporter) -> Unpacked:
    """Copies a file or a folder of a VM to `target`; into it, if it is a folder. Raises as `receive`
    does, and UsageError where the VM does not run.
    """
    with login(place.vapp, place.vm, "root", connect) as command:
        return receive(command, place.path, target, _progress(reporter, place, "received"))


def receive(
    command: Sequence[str], path: str, target: Path, told: Callable[[int], None]
) -> Unpacked:
    """Copies a file or a folder from where the `command` logs in.

    Raises:
        UsageError: there is no such file in the VM, or something is in the way here.
        GuestError: the copy broke off, or the VM sent what is not allowed. Nothing was written.
    """
    name = posixpath.basename(posixpath.normpath(path))
    if name in ("", ".", ".."):
        raise UsageError(f"'{path}' names no file", "Name a file or a folder, such as /etc/nginx.")
    final = target
    try:
        final = target / name if target.is_dir() else target
        _refuse_in_the_way(final)
        if not final.parent.is_dir():
            raise UsageError(f"there is no folder '{final.parent}'", "Make it first.")
        with tempfile.TemporaryDirectory(prefix=".vcloud-cp-", dir=final.parent) as made:
            opened = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
            try:
                found = _received(command, path, opened, told)
            finally:
                os.close(opened)
            _put(Path(made) / "copy", final, found)
    except OSError as error:
        raise UsageError(f"'{final}' cannot be written: {error.strerror}") from None
    return found


def _received(
    command: Sequence[str], path: str, folder: int, told: Callable[[int], None]
) -> Unpacked:
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [*command, _program(SEND, path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        ) as ssh,
    ):
        assert ssh.stdout is not None  # noqa: S101 - it is a pipe
        try:
            found = unpack(ssh.stdout, folder, "copy", told)
            if len(ssh.stdout.read(PADDING + 1)) > PADDING:
                raise GuestError("the VM does not stop sending", NOTHING_HERE)
        except CutShortError as error:
            if ssh.wait() == MISSING:
                raise UsageError(f"there is no '{path}' in the VM") from None
            raise GuestError(f"{error.what}: {_tail(errors)}", NOTHING_HERE) from None
        except BaseException:
            # ssh can miss a SIGTERM that comes just before it waits for data.
            ssh.kill()
            raise
        if ssh.wait() != 0:
            raise GuestError(f"'{path}' could not be read whole: {_tail(errors)}", NOTHING_HERE)
        return found


def _put(copy: Path, final: Path, found: Unpacked) -> None:
    if not os.path.lexists(copy):
        raise GuestError("the VM sent nothing that can be copied", "; ".join(found.left))
    _refuse_in_the_way(final, folder=found.is_folder)
    copy.rename(final)


def _refuse_in_the_way(final: Path, *, folder: bool = False) -> None:
    """Refuses to replace a folder, and a device or a pipe such as /dev/null: only a file is replaced."""
    stands = final.exists() and not final.is_file()
    if stands or (folder and os.path.lexists(final)):
        raise UsageError(
            f"'{final}' exists already", "Nothing was copied. Remove it, or name another place."
        )


def copy_in(source: Path, place: Place, connect: str | None, reporter: Reporter) -> int:
    """Copies a file or a folder of this machine into a VM; into the folder, if the path is one there.
    Returns the bytes of its files. Raises as `send` does, and UsageError where the VM does not run.
    """
    try:
        if not source.exists():
            raise UsageError(f"there is no '{source}' on this machine")
        if not (source.is_file() or source.is_dir()):
            raise UsageError(f"'{source}' is neither a file nor a folder")
        size = _size_of(source)
    except OSError as error:
        raise UsageError(f"'{source}' cannot be read: {error.strerror}") from None
    with login(place.vapp, place.vm, "root", connect) as command:
        send(command, source, place.path, _progress(reporter, place, "sent", size))
    return size


def send(command: Sequence[str], source: Path, path: str, told: Callable[[int], None]) -> None:
    """Copies a file or a folder to where the `command` logs in.

    Raises:
        UsageError: it cannot be read here, there is no such folder in the VM, or something is in the way
            there.
        GuestError: the copy broke off. Nothing stands under the name.
    """
    name = source.name if source.name not in ("", "..") else source.resolve().name
    if not name:
        raise UsageError("the whole file system cannot be copied")
    program = _program(RECEIVE, path, name, "d" if source.is_dir() else "f")
    with (
        tempfile.TemporaryFile() as answer,
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [*command, program], stdin=subprocess.PIPE, stdout=answer, stderr=errors
        ) as ssh,
    ):
        assert ssh.stdin is not None  # noqa: S101 - it is a pipe
        broken = False
        try:
            _send(source, ssh.stdin, told)
            ssh.stdin.close()
        except BrokenPipeError:
            broken = True  # ssh says why
        except BaseException as error:
            # Without the end of the archive, the guest removes what it has.
            ssh.kill()
            if isinstance(error, OSError):
                raise UsageError(f"'{source}' could not be read: {error}") from None
            raise
        code = ssh.wait()
        if code != 0 or broken or _tail(answer) != "done":
            raise _not_received(path, code, _tail(errors))


def _tail(file: IO[bytes]) -> str:
    """The end of what a program has written."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - SHOWN))
    return file.read(SHOWN).decode(errors="replace").strip()


def _not_received(path: str, code: int, said: str) -> VcloudError:
    if code == STANDS:
        return UsageError(
            f"in the VM, '{said}' exists already",
            "Nothing was copied. Remove it, or name another place.",
        )
    if code == MISSING:
        return UsageError(f"the VM has no folder for '{path}'", "Make it first, in the VM.")
    return GuestError(f"'{path}' was not written: {said or f'ssh ended with {code}'}")


def _send(source: Path, stream: IO[bytes], told: Callable[[int], None]) -> None:
    """Sends an archive with the entry `copy`. A symbolic link in a folder stays one; sockets, pipes
    and devices are left out.
    """
    with tarfile.TarFile(
        fileobj=_Counted(stream, told), mode="w", format=tarfile.GNU_FORMAT
    ) as archive:
        archive.add(os.path.realpath(source), "copy", filter=_plain)
        archive.addfile(tarfile.TarInfo(END))


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if not (entry.isreg() or entry.isdir() or entry.issym() or entry.islnk()):
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mode &= 0o777
    return entry


class _Counted(io.RawIOBase):
    """A stream that tells how many bytes went through it."""

    def __init__(self, stream: IO[bytes], told: Callable[[int], None]) -> None:
        self._stream, self._told, self._sent = stream, told, 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._sent

    def write(self, content: Buffer) -> int:
        size = self._stream.write(content)
        self._sent += size
        self._told(self._sent)
        return size


def _size_of(source: Path) -> int:
    if not source.is_dir():
        return source.stat().st_size
    return sum(
        path.lstat().st_size
        for folder, _, names in os.walk(source)
        for path in (Path(folder, name) for name in names)
        if path.is_file() and not path.is_symlink()
    )


def _progress(
    reporter: Reporter, place: Place, word: str, size: int | None = None
) -> Callable[[int], None]:
    reached = [-1]

    def told(done: int) -> None:
        if done // STEP > reached[0]:
            reached[0] = done // STEP
            whole = f" of {size >> 20}" if size is not None else ""
            reporter.report(f"{place.vapp}/{place.vm}", f"{word} {done >> 20}{whole} MiB")

    return told


def _program(script: str, *words: str) -> str:
    # sshd passes one text to the login shell of the user. So each word must be quoted.
    return shlex.join(["/bin/sh", "-c", script, "sh", *words])
