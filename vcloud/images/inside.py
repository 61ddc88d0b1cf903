"""The program that runs one command of a build, shut off from the machine.

`vcloud.images.jail` starts it. It imports only the standard library, and all of it before it leaves
the machine's file system. It makes new namespaces for users, mounts, processes, network, IPC and
the host name. The users and groups in there are mapped to numbers that belong to nobody on this
machine. So root in there is nobody here: it may read and write only what the build gives it.

The command sees one of two file systems:

- tools: /usr and /etc of this machine, which it cannot write, and the build's folder as /work.
- image: the tree in /work/root, and nothing else. Commands of recipes run here.

In both, /proc shows only the processes of the command, and /dev has no disk and no terminal.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

NEW_NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000
NEW_NETWORK = 0x40000000
"""Flags of unshare(2): mounts, cgroup, host name, IPC, users, processes; and the network."""
READ_ONLY, NO_SETUID, NO_DEVICES, NO_EXEC, REMOUNT = 1, 2, 4, 8, 32
BIND, MOVE, RECURSIVE, PRIVATE = 4096, 8192, 16384, 1 << 18
"""Flags of mount(2). The first four are also what statvfs(2) tells of a mount."""
DETACH = 2
PIVOT_ROOT, CAPSET, KEYCTL = 155, 126, 250
"""Numbers of system calls on amd64 that the C library does not offer."""
JOIN_SESSION_KEYRING = 1
DIE_WITH_PARENT, DROP_BOUND, NO_NEW_PRIVILEGES = 1, 24, 38
"""Options of prctl(2)."""
CAPABILITIES_3 = 0x20080522
KEPT = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 13, 18, 31)
"""What root may do in an image that is built: own, read and write files, change users, set file
capabilities and bits (8 and 31), signal, configure its network (12: `nft -c` asks for it), chroot.
It may not mount, trace, make device nodes, or load modules. See capabilities(7).
"""
DEVICES = ("null", "zero", "full", "random", "urandom")
LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
TREES = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc")
MOST_PROCESSES = 4096
"""Of each of its users. `vcloud.images.watch` looks at all of them."""
NICE, FIRST_TO_GO = 10, "1000"
"""Programs of the machine go before a build on a processor that is busy, and the kernel ends the
build first where memory is short (proc(5), oom_score_adj).
"""
INTERFACE_FLAGS, SET_INTERFACE_FLAGS, UP = 0x8913, 0x8914, 1
FAILED = 125
"""Exit code if the command could not be started. The message on the control socket says why."""

libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Task:
    """What `vcloud.images.jail` asks for."""

    view: str
    top: str
    """An empty folder, where the new root is mounted."""
    work: str
    command: list[str]
    environment: dict[str, str]
    network: bool
    """Whether it listens at the way out and hands the listening socket to the build."""
    port: int
    mounts: bool
    """Whether the command may mount: only mmdebstrap, before anything of a recipe runs."""
    largest: int
    """Bytes that one file may have."""


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    # Not as an argument: what runs in the build can read those.
    with os.fdopen(int(sys.argv[2]), "rb") as said:
        task = Task(**json.loads(said.read()))
    step = "start"
    try:
        _die_with_parent()
        os.nice(NICE)
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO)
        step = "unshare"
        _checked(libc.unshare(NEW_NAMESPACES | NEW_NETWORK))
        _ask(control, "unshared")
    except OSError as error:
        _give_up(control, step, error)
    first = os.fork()
    if first:
        control.close()
        _, status = os.waitpid(first, 0)
        code = os.waitstatus_to_exitcode(status)
        os._exit(code if code >= 0 else 128 - code)
    _first_process(task, control)


def _first_process(task: Task, control: socket.socket) -> NoReturn:
    """Process 1 of the command's own world. When it ends, the kernel ends all others there."""
    step = "users"
    try:
        sources = _open_sources(task)
        _enter_new_root(task)
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        _die_with_parent()
        os.umask(0o022)
        libc.syscall(KEYCTL, JOIN_SESSION_KEYRING, None)
        step = "network"
        socket.sethostname("vcloud")
        _start_loopback()
        listener = _listen(task.port) if task.network else None
        step = "mount"
        _make_tools_view(sources)
        if task.view == "image":
            step = "image"
            _make_image_view()
        step = "limits"
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
        _limit(task)
        _ask(control, "ready", listener)
    except OSError as error:
        _give_up(control, step, error)
    control.close()
    if listener:
        listener.close()
    _run(task)


def _run(task: Task) -> NoReturn:
    """Runs the command, collects the processes that it leaves, and ends with its exit code."""
    command = os.fork()
    if command == 0:
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them
            signal.signal(number, signal.SIG_DFL)
        try:
            os.execvpe(task.command[0], task.command, task.environment)  # noqa: S606
        except OSError as error:
            os.write(2, f"{task.command[0]}: {error.strerror}\n".encode())
            os._exit(127)
    while True:
        ended, status = os.wait()
        if ended == command:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _open_sources(task: Task) -> dict[str, int]:
    """Handles of what the command will see. They are opened while this process is still the user
    who builds: the user's folders may be closed to everybody else.
    """
    paths = {name: f"/{name}" for name in TREES} | {
        f"dev/{name}": f"/dev/{name}" for name in DEVICES
    }
    found = {name: path for name, path in paths.items() if Path(path).exists()}
    return {
        name: os.open(path, os.O_PATH | os.O_CLOEXEC)
        for name, path in (found | {"work": task.work}).items()
    }


def _enter_new_root(task: Task) -> None:
    """Mounts a small file system in memory, and goes there. Only this process sees the mount."""
    _mount(None, "/", None, RECURSIVE | PRIVATE)
    options = "mode=755,size=256m,uid=0,gid=0"
    _mount("tmpfs", task.top, "tmpfs", NO_SETUID | NO_DEVICES, options)
    os.chdir(task.top)


def _make_tools_view(sources: dict[str, int]) -> None:
    """Puts the sources into the new root, makes it the root, and lets go of all other mounts."""
    for name in TREES:
        if name in sources:
            Path(name).mkdir()
            _bind(sources[name], name, READ_ONLY | NO_SETUID | NO_DEVICES)
    Path("work").mkdir()
    _bind(sources["work"], "work", NO_SETUID | NO_DEVICES)
    for name, mode in {
        "tmp": 0o1777,
        "run": 0o755,
        "var": 0o755,
        "new": 0o755,
        "root": 0o700,
    }.items():
        Path(name).mkdir()
        Path(name).chmod(mode)
    Path("proc").mkdir()
    _mount("proc", "proc", "proc", NO_SETUID | NO_DEVICES | NO_EXEC)
    _make_devices(sources)
    _make_root(".")
    for handle in sources.values():
        os.close(handle)


def _make_devices(sources: dict[str, int]) -> None:
    Path("dev").mkdir()
    _mount("tmpfs", "dev", "tmpfs", NO_SETUID | NO_EXEC, "mode=755,size=64m")
    for name in DEVICES:
        Path(f"dev/{name}").touch()
        _bind(sources[f"dev/{name}"], f"dev/{name}", NO_SETUID | NO_EXEC)
    for name, target in LINKS.items():
        Path(f"dev/{name}").symlink_to(target)
    Path("dev/shm").mkdir()
    Path("dev/shm").chmod(0o1777)
    Path("dev/pts").mkdir()
    _mount(
        "devpts",
        "dev/pts",
        "devpts",
        NO_SETUID | NO_EXEC,
        "newinstance,ptmxmode=0666,mode=620,gid=5",
    )


def _make_image_view() -> None:
    """Makes the tree of the image the root. Whatever links the tree has, they cannot lead further
    than the file system of the tools, and nothing of that stays.
    """
    _mount("/work/root", "/new", None, BIND)
    _mount("/proc", "/new/proc", None, MOVE)
    _mount("/dev", "/new/dev", None, MOVE)
    _mount("tmpfs", "/new/run", "tmpfs", NO_SETUID | NO_DEVICES, "mode=755,size=256m")
    os.chdir("/new")
    _make_root(".")


def _make_root(path: str) -> None:
    _checked(libc.syscall(PIVOT_ROOT, path.encode(), path.encode()))
    _checked(libc.umount2(b".", DETACH))
    os.chdir("/")


def _limit(task: Task) -> None:
    """Gives up what a command does not need."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (MOST_PROCESSES, MOST_PROCESSES))
    if task.largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (task.largest, task.largest))
    _checked(libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    if task.mounts:
        return
    number = 0
    # The kernel refuses the first number that it has no capability for.
    while number in KEPT or libc.prctl(DROP_BOUND, number, 0, 0, 0) == 0:
        number += 1
    kept = sum(1 << number for number in KEPT)
    header = struct.pack("Ii", CAPABILITIES_3, 0)
    _checked(libc.syscall(CAPSET, header, struct.pack("6I", kept, kept, 0, 0, 0, 0)))


def _start_loopback() -> None:
    """The command's own network has only a loopback."""
    with socket.socket() as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(any_socket, INTERFACE_FLAGS, request))[1]
        fcntl.ioctl(any_socket, SET_INTERFACE_FLAGS, struct.pack("16sh14x", b"lo", flags | UP))


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", port))
    listener.listen(128)
    return listener


def _bind(handle: int, target: str, flags: int) -> None:
    source = f"/proc/self/fd/{handle}"
    _mount(source, target, None, BIND | RECURSIVE)
    # A user namespace may not take away the flags that a mount already has.
    has = os.statvfs(target).f_flag & (READ_ONLY | NO_SETUID | NO_DEVICES | NO_EXEC)
    _mount(None, target, None, BIND | REMOUNT | has | flags)


def _mount(
    source: str | None, target: str, kind: str | None, flags: int, options: str | None = None
) -> None:
    words = [word.encode() if word is not None else None for word in (source, target, kind)]
    _checked(
        libc.mount(*words, ctypes.c_ulong(flags), options.encode() if options else None),
        f"mount {target}",
    )


def _checked(result: int, what: str = "") -> None:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def _die_with_parent() -> None:
    _checked(libc.prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0))


def _ask(control: socket.socket, state: str, handle: socket.socket | None = None) -> None:
    """Tells the build what was done, and waits until it says to go on. If the build has ended,
    there is nothing to go on with.
    """
    socket.send_fds(
        control, [json.dumps({"state": state}).encode()], [handle.fileno()] if handle else []
    )
    if not control.recv(16):
        os._exit(FAILED)


def _give_up(control: socket.socket, step: str, error: OSError) -> NoReturn:
    said = {
        "state": "failed",
        "step": step,
        "errno": errno.errorcode.get(error.errno or 0, str(error.errno)),
        "what": str(error.filename or ""),
    }
    control.send(json.dumps(said).encode())
    os._exit(FAILED)


if __name__ == "__main__":
    main()
