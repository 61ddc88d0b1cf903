"""Network namespaces by name, what runs and listens in them, and how to run programs there."""

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
"""Where iproute2 keeps named network namespaces."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8"}
"""For everything the lab starts: the caller's own settings (proxies, locale, libvirt variables) stay out of the hosts."""

LONGEST = 120.0
"""Seconds any one program may take. libvirtd's first answer, after it has tried out every QEMU program, is the slowest."""


def run(argv: Sequence[str], text: str = "") -> str:
    """Run a program to its end with `text` on its standard input; its standard output.

    Raises:
        HostError: it failed, in its own words, or did not end.
    """
    try:
        done = subprocess.run(argv, input=text, capture_output=True, text=True, env=ENVIRONMENT, cwd="/", check=False, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        raise HostError(f"'{' '.join(argv)}' did not end within {LONGEST:g} seconds.") from None
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
        raise HostError(f"'{' '.join(argv)}' failed: {said}")
    return done.stdout


def program(name: str) -> str | None:
    """The full path of a program, also where the caller's PATH lacks the folders of system programs."""
    return shutil.which(name, path=PATH)


def wait_for(what: str, happened: Callable[[], bool], seconds: float) -> None:
    """Raises HostError if it has not happened in time."""
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            raise HostError(f"{what} did not happen within {seconds:g} seconds.", "The logs are in the lab's folder.")
        time.sleep(0.02)


def exists(name: str) -> bool:
    """Whether it is a namespace; a file that a killed `ip netns add` left behind is none."""
    try:
        return (FOLDER / name).stat().st_dev == Path("/proc/self/ns/net").stat().st_dev
    except FileNotFoundError:
        return False


def ensure(name: str, sysctls: Mapping[str, int]) -> None:
    """Make it if need be. Settings come before any interface, because interfaces copy the defaults when they appear."""
    if not exists(name):
        (FOLDER / name).unlink(missing_ok=True)
        run(["ip", "netns", "add", name])
    run([*enter(name), "sysctl", "-q", "-e", "-w", *(f"{key}={value}" for key, value in sysctls.items())])


def delete(name: str) -> None:
    """Kill everything in it and forget its name."""
    if exists(name):
        kill_all(name)
    run(["ip", "netns", "delete", name])


def names() -> list[str]:
    return sorted(path.name for path in FOLDER.iterdir()) if FOLDER.is_dir() else []


def enter(name: str) -> list[str]:
    """The words before a command that run it in this network, with the machine's file system."""
    return ["nsenter", f"--net={FOLDER / name}"]


def links(name: str) -> set[str]:
    return {link["ifname"] for link in json.loads(run(["ip", "-n", name, "-j", "link", "show"]))}


def configure(name: str, commands: Iterable[str]) -> None:
    """Run `ip` commands, one a line, in one process."""
    run(["ip", "-n", name, "-batch", "-"], "".join(f"{command}\n" for command in commands))


def listening(name: str) -> set[str]:
    """Local addresses of all listening TCP and Unix sockets: `198.19.0.11:22`, `/run/libvirt/libvirt-sock`."""
    return {line.split()[4] for line in run([*enter(name), "ss", "-Hlntx"]).splitlines()}


def processes(name: str) -> Iterator[int]:
    """The processes that live in this network; none where there is no such namespace."""
    if not exists(name):
        return
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and _lives_in(int(path.name), name):
            yield int(path.name)


def kill_all(name: str) -> None:
    """Raises HostError if something survives SIGKILL for ten seconds."""

    def gone() -> bool:
        found = list(processes(name))
        for pid in found:
            _kill(pid, name)
        return not found

    wait_for(f"The end of everything in '{name}'", gone, 10)


def _kill(pid: int, name: str) -> None:
    """The handle is taken before the second look, so a number that was given to a new process meanwhile is harmless."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if _lives_in(pid, name):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)


def _lives_in(pid: int, name: str) -> bool:
    try:
        return Path(f"/proc/{pid}/ns/net").samefile(FOLDER / name)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
