"""Runs the commands of a build without privilege: see `vcloud.images.inside`, which runs as a
program of its own.

The build itself stays outside. It maps the users, hands in and takes out data through pipes, and
never opens a file of the tree that commands of a recipe have written. What such a command leaves
could be a symbolic link to anything.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from vcloud.errors import ImageError, VcloudError
from vcloud.images import inside
from vcloud.images.ids import Ids, map_ids, own_ids
from vcloud.images.watch import Limits, watched
from vcloud.images.way_out import PORT, Policy, WayOut
from vcloud.programs import SYSTEM_FOLDERS, find_program, search_path

ENVIRONMENT: Final = {
    "PATH": ":".join((*SYSTEM_FOLDERS, "/usr/local/bin", "/usr/bin", "/bin")),
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}
"""All variables that a command of a build has. Those of the user who builds may hold secrets."""
PYTHON_NEEDS = frozenset({"LD_LIBRARY_PATH"})
KEPT_LINES, KEPT_BYTES = 200, 1 << 17
"""How much of the output of a command is kept. It may print without end."""
BUILD = "build"
"""The folder of a jail in the folder of an image that is being made."""
TOOLS, IMAGE = "tools", "image"
"""What a command sees, see `vcloud.images.inside`."""
USER_NAMESPACES: Final = {
    "/proc/sys/kernel/unprivileged_userns_clone": (
        "0",
        "sysctl kernel.unprivileged_userns_clone=1",
    ),
    "/proc/sys/user/max_user_namespaces": ("0", "sysctl user.max_user_namespaces=10000"),
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": (
        "1",
        "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
}
"""Settings by which a kernel refuses user namespaces: file -> the value, and the command that
allows them.
"""


ENDED_TOO_EARLY = (
    "the namespaces of a build were ended before its command began",
    "Run the command again.",
)


class FailedCommandError(Exception):
    """A command of a build has ended with another exit code than 0. `lines` are its last ones."""

    def __init__(self, program: str, lines: Sequence[str]) -> None:
        super().__init__(program)
        self.program = program
        self.lines = tuple(lines)


@dataclass(frozen=True, slots=True)
class Jail:
    """The folder of a build, and who its users are on this machine.

    Commands find `work` as /work. Everybody may write to it, so that the users of the build can.
    Only the user who builds can reach it, because the folder around it is closed.
    """

    folder: Path
    ids: Ids
    limits: Limits = field(default_factory=Limits)

    @classmethod
    def make(cls, folder: Path, ids: Ids) -> Jail:
        """A new folder for a build. `folder` must not exist yet."""
        folder.mkdir(mode=0o700)
        (folder / "top").mkdir()
        work = folder / "work"
        work.mkdir()
        work.chmod(0o777)
        return cls(folder, ids)

    @property
    def work(self) -> Path:
        return self.folder / "work"

    def run(
        self,
        command: Sequence[str],
        *,
        name: str = "",
        view: str = TOOLS,
        data: IO[bytes] | None = None,
        output: IO[bytes] | None = None,
        way_out: Policy | None = None,
        variables: Mapping[str, str] | None = None,
        mounts: bool = False,
        largest: int = 0,
    ) -> list[str]:
        """Runs a command, and returns the last lines that it printed.

        Args:
            command: a program and its arguments.
            name: what an error calls it. Empty: its program.
            view: what the command sees, `TOOLS` or `IMAGE`.
            data: a file that it reads as its standard input.
            output: a file that gets its standard output, which is then not among the lines.
            way_out: what it may reach through the build. None: it has no network.
            variables: environment variables beside `ENVIRONMENT`.
            mounts: whether it may mount, in its own namespace.
            largest: bytes that one file may get. 0: any number.

        Raises:
            ImageError: this machine does not let the user build, or the command took more of the
                machine than `limits` allow. The hint says what to do.
            FailedCommandError: the command failed.
        """
        task = inside.Task(
            view=view,
            top=str(self.folder / "top"),
            work=str(self.work),
            command=list(command),
            environment={**ENVIRONMENT, **(variables or {})},
            network=way_out is not None,
            port=PORT,
            mounts=mounts,
            largest=largest,
        )
        with (
            _started(task, data, output) as (process, control),
            watched(process, self.folder, self.ids, self.limits),
            contextlib.ExitStack() as stack,
        ):
            self._let_go(process.pid, control, way_out, stack)
            said = process.stderr if output else process.stdout
            lines = _last_lines(said) if said else []
            code = process.wait()
        if code:
            raise FailedCommandError(name or command[0], lines)
        return lines

    def _let_go(
        self, pid: int, control: socket.socket, way_out: Policy | None, stack: contextlib.ExitStack
    ) -> None:
        """Gives the new namespaces what only this side can give, step by step."""
        _expect(control)
        map_ids(pid, self.ids, search_path())
        _go_on(control)
        handles = _expect(control)
        if way_out is not None:
            stack.enter_context(WayOut(socket.socket(fileno=handles[0]), way_out))
        _go_on(control)

    def open_file(self, name: str) -> IO[bytes]:
        """A regular file in `work` that a program of this machine has made. Never a link."""
        handle = os.open(
            self.work / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        )
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise ImageError(f"{self.work / name} is not a file", "Run the command again.")
        return os.fdopen(handle, "rb")

    def remove(self) -> None:
        """Removes the folder and all that is in it. Files of the build's users can be removed by
        them only. Raises ImageError.
        """
        if self.work.is_dir() and os.geteuid() != 0:
            sweep = ["find", "/work", "-xdev", "-mindepth", "1", "-delete"]
            try:
                self.run(sweep)
            except FailedCommandError as error:
                raise ImageError(
                    f"the folder of a build cannot be removed: {self.folder}: {' '.join(error.lines[-1:])}",
                    "Remove it as root.",
                ) from None
        _delete(self.folder)


@contextlib.contextmanager
def _started(
    task: inside.Task, data: IO[bytes] | None, output: IO[bytes] | None
) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """Starts `vcloud.images.inside`. Whatever happens here ends it and all that it has started."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs, tempfile.TemporaryFile() as asked:
            asked.write(json.dumps(_as_data(task)).encode())
            asked.seek(0)
            handles = (theirs.fileno(), asked.fileno())
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", inside.__file__, *map(str, handles)],
                stdin=data or subprocess.DEVNULL,
                stdout=output or subprocess.PIPE,
                stderr=subprocess.PIPE if output else subprocess.STDOUT,
                # A Python in a folder of the user's may need the path of its own library.
                env=ENVIRONMENT | {name: os.environ[name] for name in PYTHON_NEEDS & {*os.environ}},
                cwd="/",
                pass_fds=handles,
                start_new_session=True,  # without the terminal of the user who builds
            )
        with process:
            try:
                yield process, ours
            except BaseException:
                # Also after Ctrl-C. The kernel then ends what runs inside.
                process.kill()
                raise


def _as_data(task: inside.Task) -> dict[str, object]:
    return {name: getattr(task, name) for name in task.__dataclass_fields__}


def _expect(control: socket.socket) -> list[int]:
    """Waits for the next state, and returns the handles that came with it. Raises ImageError if a
    step failed.
    """
    try:
        message, handles, _, _ = socket.recv_fds(control, 4096, 1)
    except ConnectionResetError:
        message = b""
    if not message:
        raise ImageError(*ENDED_TOO_EARLY)
    said = json.loads(message)
    if said["state"] == "failed":
        raise _refused(said["step"], said["errno"], said["what"])
    return handles


def _go_on(control: socket.socket) -> None:
    try:
        control.send(b"go on")
    except (BrokenPipeError, ConnectionResetError):
        raise ImageError(*ENDED_TOO_EARLY) from None


def _refused(step: str, number: str, what: str) -> ImageError:
    if step == "image":
        return ImageError(
            f"the image has no place for {what.removeprefix('mount /new') or 'its own /proc and /dev'} ({number})",
            "Its base must have the folders /proc, /dev and /run.",
        )
    where = f"{step}: {number}" + (f" at {what}" if what else "")
    return ImageError(
        f"this machine does not let a build have namespaces of its own ({where})", refusal_hint()
    )


def refusal_hint() -> str:
    """What an administrator does where the kernel refuses user namespaces."""
    commands = [
        command for path, (closed, command) in USER_NAMESPACES.items() if _read(path) == closed
    ]
    if commands:
        return f"An administrator allows them: {' && '.join(commands)}"
    return "An administrator checks that user namespaces are allowed, and that /proc is not covered as in many containers: unshare --user --map-root-user --mount --pid --fork mount -t proc proc /proc"


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _last_lines(said: IO[bytes]) -> list[str]:
    """The last lines of an output that may have any length, safe to be shown at a terminal."""
    end = bytearray()
    while block := os.read(said.fileno(), 1 << 16):
        end += block
        if len(end) > 8 * KEPT_BYTES:
            del end[:-KEPT_BYTES]
    lines = end.decode(errors="replace").splitlines()[-KEPT_LINES:]
    return ["".join(char if char.isprintable() else " " for char in line) for line in lines]


def remove_leftovers(folder: Path) -> None:
    """Removes a folder in which a build was made, also one that was killed."""
    left = folder / BUILD
    if os.geteuid() != 0 and left.is_dir():
        # If this fails, the folder stays, and whoever needs its place says so.
        with contextlib.suppress(VcloudError):
            Jail(left, own_ids()).remove()
    _delete(folder)


def _delete(folder: Path) -> None:
    """Deletes as much of a folder as can be deleted. Python's own `rmtree` fails in folders that are
    nested deeper than its stack.
    """
    if rm := find_program("rm"):
        subprocess.run(
            [rm, "-rf", "--one-file-system", "--", str(folder)],
            check=False,
            stderr=subprocess.DEVNULL,
        )
    else:
        shutil.rmtree(folder, ignore_errors=True)
