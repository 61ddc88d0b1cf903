"""Labs as a whole: starts and stops them, shows their state, and runs commands in them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vcloud.errors import HostError, UsageError
from vcloud.hosts.inventory import HostLabel, label_of, load_inventory
from vcloud.lab import host as hosts
from vcloud.lab import namespaces, outside, segments, texts
from vcloud.lab.layout import MAX_HOSTS, Host, Lab

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


def up(
    lab: Lab,
    count: int = 1,
    report: Callable[[str], None] = lambda _: None,
    labels: Sequence[str] = (),
) -> None:
    """Starts the lab with at least `count` hosts. Hosts that the lab has already stay, and what
    runs is not touched.

    Args:
        lab: see `layout.lab`.
        count: starts the hosts h1 to hN, at most 32.
        report: is called with one sentence for each part that runs.
        labels: labels of hosts, each written as h2=site:backup; h2=site: takes one away. A host
            keeps those that are not named.

    Raises:
        UsageError: the number of hosts is impossible, or a label is.
        SpecError: somebody has written something wrong into the inventory of the lab.
        HostError: this machine cannot run a lab, or a part of the lab did not start.
    """
    if not 1 <= count <= MAX_HOSTS:
        raise UsageError(f"A lab has 1 to {MAX_HOSTS} hosts, not {count}.")
    named = [label_of(text) for text in labels]
    check_machine()
    with _locked(lab):
        _check_owner(lab)
        changed = _with_labels(lab, count, named)
        for number in range(1, count + 1):
            lab.host(number).folder.mkdir(exist_ok=True)
        hosts.ensure_key(lab.key, f"lab {lab.name}")
        segments.ensure_switch(lab)
        outside.ensure_outside(lab)
        report("The simulated internet runs.")
        for host in lab.hosts():
            hosts.ensure_host(host)
            report(f"Host '{host.name}' runs.")
        # Last: an inventory in the folder tells other commands that the lab runs.
        _write_client_files(lab, changed)


def fail(lab: Lab, where: str, *, only_cut: bool = False) -> None:
    """Lets a host fail: it loses its power, with all that runs on it, or only its network.

    Raises:
        UsageError: the lab has no host of that name.
        HostError: the caller is not root, or something could not be ended.
    """
    check_root()
    with _changing(lab, where) as host:
        host.failed.touch()
        if only_cut:
            segments.cut(host)
        else:
            segments.remove_host(host)


def heal(lab: Lab, where: str) -> None:
    """Brings a host back: after a loss of power it starts anew, without VMs; after a cut its network is
    there again. Raises as `fail` does.
    """
    check_machine()
    with _changing(lab, where) as host:
        segments.ensure_switch(lab)
        hosts.ensure_host(host)


@contextlib.contextmanager
def _changing(lab: Lab, where: str) -> Iterator[Host]:
    """The host of that name, under the lab's lock. Afterwards the client's files say how to reach the
    hosts.
    """
    if not lab.folder.exists():
        raise UsageError(
            f"There is no lab called '{lab.name}'.", f"Start it: vcloud lab up --name {lab.name}"
        )
    with _locked(lab):
        _check_owner(lab)
        host = next((host for host in lab.hosts() if host.name == where), None)
        if host is None:
            names = ", ".join(host.name for host in lab.hosts())
            raise UsageError(f"Lab '{lab.name}' has no host '{where}'.", f"Its hosts are {names}.")
        labels = _with_labels(lab, 1, ())
        yield host
        _write_client_files(lab, labels)


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
        # The processes end first, because they write into the folder.
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
        parts.append(Part(host.name, "network", runs and not segments.is_cut(host)))
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
    """Raises HostError if a part of a lab of the same name in another folder exists, even if its
    hosts have ended. It is called before anything is changed.
    """
    for number in range(1, MAX_HOSTS + 1):
        hosts.check_owner(lab.host(number))
    for name in filter(namespaces.exists, _namespaces(lab)):
        if namespaces.owner(name) not in ("", str(lab.folder)):
            raise HostError(
                f"The network namespace '{name}' belongs to the lab in '{namespaces.owner(name)}', not in '{lab.folder}'.",
                "Choose another --name, or set VCLOUD_LAB_DIR to the value with which that lab was started.",
            )


def _with_labels(lab: Lab, count: int, named: Sequence[HostLabel]) -> dict[str, dict[str, str]]:
    """The labels of each host, with those that the user names now."""
    hosts = {
        *(host.name for host in lab.hosts()),
        *(lab.host(one + 1).name for one in range(count)),
    }
    known = load_inventory(lab.inventory) if lab.inventory.exists() else ()
    labels = {host.name: dict(host.labels) for host in known}
    for one in named:
        if one.host not in hosts:
            raise UsageError(
                f"There is no host '{one.host}' in lab '{lab.name}'.",
                f"Its hosts are {', '.join(sorted(hosts))}.",
            )
        mine = labels.setdefault(one.host, {})
        mine.pop(one.key, None)
        if one.value:
            mine[one.key] = one.value
    return labels


def _write_client_files(lab: Lab, labels: Mapping[str, Mapping[str, str]]) -> None:
    """Writes the files that a client needs to reach the hosts. The key pairs exist already."""
    found = lab.hosts()
    _write(lab.known_hosts, texts.known_hosts(found))
    _write(lab.ssh_config, texts.ssh_config(lab, found))
    _write(lab.ssh, texts.ssh_wrapper(lab), mode=0o755)
    _write(lab.inventory, texts.inventory(found, labels))


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
            handle = os.open(lab.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue  # a `down` has deleted the folder in between
        try:
            _check_folder(lab.folder, os.fstat(handle))
            # Also the folder of a lab that an earlier release has made.
            os.fchmod(handle, 0o700)
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_same_folder(handle, lab.folder):
                yield
                return
        finally:
            os.close(handle)


def _check_folder(folder: Path, found: os.stat_result) -> None:
    """Raises HostError if somebody else could change what is in the folder, or put another one in
    its place: root's daemons run with the files in it.
    """
    elsewhere = "set VCLOUD_LAB_DIR to a folder of your own, such as /var/lib/vcloud/labs"
    for path, about in ((folder, found), *((path, path.stat()) for path in folder.parents)):
        if about.st_uid not in (0, os.geteuid()):
            raise HostError(
                f"The lab's folder '{folder}' is not safe: '{path}' belongs to somebody else.",
                f"Give it to root (chown root: {path}), or {elsewhere}.",
            )
        # In a folder with this bit, such as /tmp, nobody can rename what belongs to others.
        is_shared = path != folder and about.st_mode & stat.S_ISVTX
        if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not is_shared:
            raise HostError(
                f"The lab's folder '{folder}' is not safe: others may write to '{path}'.",
                f"Take the permission away (chmod go-w {path}), or {elsewhere}.",
            )


def _is_same_folder(handle: int, path: Path) -> bool:
    """Whether the open folder is still the folder at that path. A `down` may have deleted it while
    this process waited for the lock.
    """
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
