"""Labs as a whole: starts and stops them, shows their state, and runs commands in them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vcloud.errors import HostError, UsageError
from vcloud.lab import host as hosts
from vcloud.lab import namespaces, outside, segments, texts
from vcloud.lab.layout import MAX_HOSTS, Lab

PACKAGES = {
    "ip": "iproute2",
    "libvirtd": "libvirt-daemon-system",
    "nc": "netcat-openbsd",
    "nft": "nftables",
    "nsenter": "util-linux",
    "qemu-system-x86_64": "qemu-system-x86",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
    "sysctl": "procps",
    "virsh": "libvirt-clients",
}
"""The programs that a lab needs -> the Debian package of each."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a lab."""

    where: str
    """The host, or `switch` or `outside`."""
    what: str
    """`host`, `network`, `responder` or the name of a daemon."""
    runs: bool


def up(lab: Lab, count: int = 1, report: Callable[[str], None] = lambda _: None) -> None:
    """Starts the lab with at least `count` hosts. Hosts that the lab has already stay, and what
    runs is not touched.

    Args:
        lab: see `layout.lab`.
        count: starts the hosts h1 to hN, at most 32.
        report: is called with one sentence for each part that runs.

    Raises:
        UsageError: the number of hosts is impossible.
        HostError: this machine cannot run a lab, or a part of the lab did not start.
    """
    if not 1 <= count <= MAX_HOSTS:
        raise UsageError(f"A lab has 1 to {MAX_HOSTS} hosts, not {count}.")
    check_machine()
    with _locked(lab):
        _check_owner(lab)
        for number in range(1, count + 1):
            lab.host(number).folder.mkdir(exist_ok=True)
        hosts.ensure_key(lab.key, f"lab {lab.name}")
        segments.ensure_switch(lab)
        outside.ensure_outside(lab)
        report("The simulated internet runs.")
        for host in lab.hosts():
            hosts.ensure_host(host)
            report(f"Host '{host.name}' runs.")
        _write_client_files(lab)


def down(lab: Lab) -> bool:
    """Ends all processes of the lab and deletes its folder. Returns False if there was no lab.

    Raises:
        HostError: the caller is not root, or a process could not be ended.
    """
    check_root()
    if not lab.folder.exists() and not _namespaces(lab):
        return False
    with _locked(lab):
        _check_owner(lab)
        for name in _namespaces(lab):
            namespaces.delete(name)
        shutil.rmtree(lab.folder)
    return True


def status(lab: Lab) -> list[Part]:
    """All parts of the lab, running or not. Empty if there is no such lab."""
    check_root()
    if not lab.folder.exists():
        return []
    parts = [
        Part("switch", "network", namespaces.exists(lab.switch)),
        Part("outside", "network", namespaces.exists(lab.outside)),
    ]
    parts.append(
        Part("outside", "responder", namespaces.exists(lab.outside) and outside.responder_runs(lab))
    )
    for host in lab.hosts():
        runs = namespaces.exists(host.namespace) and hosts.is_complete(host)
        parts.append(Part(host.name, "host", runs))
        listening = hosts.daemons(host) if runs else dict.fromkeys(hosts.DAEMONS, False)
        parts.extend(Part(host.name, daemon, alive) for daemon, alive in listening.items())
    return parts


def enter(lab: Lab, where: str) -> list[str]:
    """The command words to put before a command so that it runs on a host ('h1') or on the
    simulated internet ('outside' or 'customer').

    Raises:
        UsageError: the lab has no host of that name.
        HostError: the caller is not root, or the host does not run.
    """
    check_root()
    if where in ("outside", "customer") and namespaces.exists(lab.outside):
        return namespaces.enter(lab.outside)
    host = next((host for host in lab.hosts() if host.name == where), None)
    if host is None:
        names = (
            ["outside", *(host.name for host in lab.hosts())]
            if namespaces.exists(lab.outside)
            else []
        )
        hint = (
            f"This lab has: {', '.join(names)}."
            if names
            else f"Start the lab: vcloud lab up --name {lab.name}"
        )
        raise UsageError(f"Lab '{lab.name}' has no host or network called '{where}'.", hint)
    return hosts.enter(host)


def inventory(lab: Lab) -> str:
    """The inventory file of the lab.

    Raises:
        HostError: there is no such lab.
    """
    try:
        return lab.inventory.read_text()
    except OSError as error:
        raise HostError(
            f"The inventory of lab '{lab.name}' cannot be read: {error.strerror}.",
            f"Start the lab: vcloud lab up --name {lab.name}",
        ) from None


def check_root() -> None:
    """Raises HostError if the caller is not root."""
    if os.geteuid() != 0:
        raise HostError(
            "A lab consists of namespaces and system daemons, which only root can start.",
            "Run the same command with sudo.",
        )


def check_machine() -> None:
    """Raises HostError if this machine cannot run a lab."""
    check_root()
    missing = {
        name: package for name, package in PACKAGES.items() if namespaces.program(name) is None
    }
    if missing:
        packages = " ".join(sorted(set(missing.values())))
        raise HostError(
            f"A lab needs programs that are not installed: {', '.join(missing)}.",
            f"Run: apt-get install -y {packages}",
        )


def _namespaces(lab: Lab) -> list[str]:
    """The names of the lab's network namespaces."""
    return [name for name in namespaces.names() if lab.owns(name)]


def _check_owner(lab: Lab) -> None:
    """Raises HostError if a lab of the same name runs from another folder. It is called before
    anything is changed.
    """
    for number in range(1, MAX_HOSTS + 1):
        hosts.check_owner(lab.host(number))


def _write_client_files(lab: Lab) -> None:
    """Writes the files that a client needs to reach the hosts. The key pairs exist already."""
    found = lab.hosts()
    _write(lab.known_hosts, texts.known_hosts(found))
    _write(lab.ssh_config, texts.ssh_config(lab, found))
    _write(lab.ssh, texts.ssh_wrapper(lab), mode=0o755)
    _write(lab.inventory, texts.inventory(found))


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    """Replaces a file in one step, because a client may read it at this moment."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    new.chmod(mode)
    new.replace(path)


@contextlib.contextmanager
def _locked(lab: Lab) -> Iterator[None]:
    """Holds the lock of a lab: only one `up` or `down` at a time.

    The lock is on the lab's folder itself, so that `down` leaves no lock file behind.
    """
    while True:
        lab.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            handle = os.open(lab.folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # a `down` has deleted the folder in between
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_same_folder(handle, lab.folder):
                yield
                return
        finally:
            os.close(handle)


def _is_same_folder(handle: int, path: Path) -> bool:
    """Whether the open folder is still the folder at that path. A `down` may have deleted it while
    this process waited for the lock.
    """
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
