"""Network namespaces: creates and deletes them, runs programs in them, and finds their processes
and listening sockets.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from vcloud.errors import HostError

FOLDER = Path("/run/netns")
"""iproute2 keeps network namespaces with a name here."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8"}
"""The environment of every program that the lab starts. The caller's own settings (proxies, locale,
libvirt variables) must not reach the hosts.
"""

TIMEOUT = 120.0
"""Seconds that any one program may take. The slowest is the first answer of libvirtd, which first
tries every QEMU program.
"""


def run(argv: Sequence[str], text: str = "") -> str:
    """Runs a program with `text` as its standard input, waits for its end, and returns its standard
    output.

    Raises:
        HostError: the program failed (the message quotes its error), or it did not end in time.
    """
    try:
        done = subprocess.run(
            argv,
            input=text,
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
            cwd="/",
            check=False,
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise HostError(f"'{' '.join(argv)}' did not end within {TIMEOUT:g} seconds.") from None
    if done.returncode:
        output = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
        raise HostError(f"'{' '.join(argv)}' failed: {output}")
    return done.stdout


def program(name: str) -> str | None:
    """The full path of a program. It also finds programs in the sbin folders, which the caller's
    PATH may lack.
    """
    return shutil.which(name, path=PATH)


def wait_for(what: str, happened: Callable[[], bool], seconds: float) -> None:
    """Waits until `happened` returns True. Raises HostError if that takes more than `seconds`."""
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            raise HostError(
                f"{what} took more than {seconds:g} seconds.", "See the logs in the lab's folder."
            )
        time.sleep(0.02)


def exists(name: str) -> bool:
    """Whether there is a network namespace of that name. A killed `ip netns add` may leave a plain
    file, which does not count.
    """
    try:
        # All namespaces are files of one file system of the kernel (nsfs).
        return (FOLDER / name).stat().st_dev == Path("/proc/self/ns/net").stat().st_dev
    except FileNotFoundError:
        return False


def ensure(name: str, sysctls: Mapping[str, int]) -> None:
    """Creates the network namespace if it does not exist, and sets its sysctls.

    This must come before any interface is created, because an interface copies the default settings
    when it is created.
    """
    if not exists(name):
        # A killed `ip netns add` may have left a plain file, for which the next one would fail.
        (FOLDER / name).unlink(missing_ok=True)
        run(["ip", "netns", "add", name])
    run(
        [
            *enter(name),
            "sysctl",
            "-q",
            # No error for a setting that this kernel does not have.
            "-e",
            "-w",
            *(f"{key}={value}" for key, value in sysctls.items()),
        ]
    )


def delete(name: str) -> None:
    """Ends all processes in the namespace and deletes it."""
    if exists(name):
        kill_all(name)
    run(["ip", "netns", "delete", name])


def names() -> list[str]:
    return sorted(path.name for path in FOLDER.iterdir()) if FOLDER.is_dir() else []


def enter(name: str) -> list[str]:
    """The command words to put before a command so that it runs in this network namespace. It still
    sees the machine's file system.
    """
    return ["nsenter", f"--net={FOLDER / name}"]


def links(name: str) -> set[str]:
    """The names of the network interfaces in the namespace."""
    return {link["ifname"] for link in json.loads(run(["ip", "-n", name, "-j", "link", "show"]))}


def owned_by(folder: Path) -> str:
    """The words of an `ip link set lo` command that note in a namespace whose it is. The note lasts
    as long as the namespace, whatever ends in it.
    """
    return f"alias {folder}"


def owner(name: str) -> str:
    """The folder that `owned_by` noted in the namespace. Empty if nothing is noted there."""
    (loopback,) = json.loads(run(["ip", "-n", name, "-j", "link", "show", "lo"]))
    return str(loopback.get("ifalias", ""))


def configure(name: str, commands: Iterable[str]) -> None:
    """Runs `ip` commands in the namespace, in one process. Each command is one line without the
    word `ip`.
    """
    run(["ip", "-n", name, "-batch", "-"], "".join(f"{command}\n" for command in commands))


def listening(name: str) -> set[str]:
    """The local addresses of all listening TCP and Unix sockets, such as `198.19.0.11:22` or
    `/run/libvirt/libvirt-sock`.
    """
    # ss prints type, state, two queue lengths, and then the local address.
    return {line.split()[4] for line in run([*enter(name), "ss", "-Hlntx"]).splitlines()}


def processes(name: str) -> Iterator[int]:
    """The process numbers of all processes in this network namespace. None if the namespace does
    not exist.
    """
    if not exists(name):
        return
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and _is_in(int(path.name), name):
            yield int(path.name)


def kill_all(name: str) -> None:
    """Kills all processes in the namespace. Raises HostError if one survives SIGKILL for ten
    seconds.
    """

    def gone() -> bool:
        # Looked up each time, because a process may start others before it is killed.
        found = list(processes(name))
        for pid in found:
            _kill(pid, name)
        return not found

    wait_for(f"The end of all processes in '{name}'", gone, 10)


def _kill(pid: int, name: str) -> None:
    """Kills a process if it is in the namespace.

    The kernel may give the number of an ended process to a new one. So the function first opens a
    pidfd, which always means the same process, and then checks that this process is in the
    namespace.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if _is_in(pid, name):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)


def _is_in(pid: int, name: str) -> bool:
    try:
        return Path(f"/proc/{pid}/ns/net").samefile(FOLDER / name)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
