"""Chooses the uids and gids on this machine that the users and groups of a build are mapped to.

A build has 65,536 users and groups of its own. On this machine they have other ids, which no real
user has: those that /etc/subuid and /etc/subgid give to the user who builds. Root may map any id, so
root needs no entry there, and takes ids that no entry gives to anybody.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vcloud.errors import ImageError

COUNT = 65536
"""How many users and groups a build has. Debian uses numbers up to 65534 (nobody)."""
USERS, GROUPS = Path("/etc/subuid"), Path("/etc/subgid")
FIRST_OFFERED = 100_000
"""The first number that useradd gives away (SUB_UID_MIN in login.defs)."""
LAST_FOR_ROOT = 0x6FFF0000
"""The last block that systemd reserves for containers (its page "Users, Groups, UIDs and GIDs"), so
no user has these ids.
"""
INSTALL_UIDMAP = "apt-get install uidmap"


@dataclass(frozen=True, slots=True)
class Ids:
    """The uid and the gid on this machine of a build's user 0 and group 0. Each begins a block of
    `COUNT` ids.
    """

    users: int
    groups: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of /etc/subuid or /etc/subgid."""

    owner: str
    start: int
    count: int


def parse_entries(text: str) -> Iterator[Entry]:
    """The lines that have the form of subuid(5). Other lines are ignored, as by newuidmap."""
    for line in text.splitlines():
        owner, _, numbers = line.strip().partition(":")
        start, _, count = numbers.partition(":")
        if owner and start.isdecimal() and count.isdecimal():
            yield Entry(owner, int(start), int(count))


def own_start(entries: tuple[Entry, ...], name: str, number: int) -> int | None:
    """The first number of the first block that is large enough and belongs to the user."""
    for entry in entries:
        if entry.owner in (name, str(number)) and entry.count >= COUNT:
            return entry.start
    return None


def free_start(entries: tuple[Entry, ...], wanted: int, step: int) -> int:
    """The first id of a block that no entry overlaps: `wanted`, or a number of whole steps from
    there.
    """
    start = wanted
    while any(
        entry.start < start + COUNT and start < entry.start + entry.count for entry in entries
    ):
        start += step
    return start


def own_ids() -> Ids:
    """The ids for a build by this user. Raises ImageError, which says what an administrator must
    do.
    """
    number = os.geteuid()
    name = _name(number)
    users, groups = (tuple(parse_entries(_text(path))) for path in (USERS, GROUPS))
    starts = [own_start(entries, name, number) for entries in (users, groups)]
    if number == 0:
        for position, entries in enumerate((users, groups)):
            if starts[position] is None:
                starts[position] = free_start(entries, LAST_FOR_ROOT, -COUNT)
    first, second = starts
    if first is None or second is None:
        raise ImageError(
            f"a build needs {COUNT} subordinate uids and gids, which {USERS} and {GROUPS} do not give to the user {name}",
            f"An administrator runs: {_giving(name, first, second, users, groups)}",
        )
    return Ids(first, second)


def _giving(
    name: str,
    has_users: int | None,
    has_groups: int | None,
    users: tuple[Entry, ...],
    groups: tuple[Entry, ...],
) -> str:
    """The command that gives a user the missing ids."""
    start = free_start((*users, *groups), FIRST_OFFERED, COUNT)
    block = f"{start}-{start + COUNT - 1}"
    options = [
        option
        for option, has in (
            (f"--add-subuids {block}", has_users),
            (f"--add-subgids {block}", has_groups),
        )
        if has is None
    ]
    return f"usermod {' '.join(options)} {name}"


def map_ids(pid: int, ids: Ids, search: str) -> None:
    """Maps the ids of a process's new user namespace. Root does this itself; for others, newuidmap
    and newgidmap do it, which are looked up in `search` (in the form of PATH).

    Raises ImageError.
    """
    if os.geteuid() == 0:
        _map_as_root(pid, ids)
        return
    for program, start in (("newuidmap", ids.users), ("newgidmap", ids.groups)):
        found = shutil.which(program, path=search)
        if found is None:
            raise ImageError(
                f"building an image needs {program}, which is not installed",
                f"An administrator runs: {INSTALL_UIDMAP}",
            )
        done = subprocess.run(
            [found, str(pid), "0", str(start), str(COUNT)], capture_output=True, text=True
        )
        if done.returncode:
            raise ImageError(
                f"{program} refuses the ids {start}-{start + COUNT - 1}: {done.stderr.strip()}",
                f"An administrator checks {USERS} and {GROUPS}, and that {found} belongs to root and has its setuid bit or file capabilities: apt-get install --reinstall uidmap",
            )


def _map_as_root(pid: int, ids: Ids) -> None:
    try:
        Path(f"/proc/{pid}/uid_map").write_text(f"0 {ids.users} {COUNT}\n")
        Path(f"/proc/{pid}/gid_map").write_text(f"0 {ids.groups} {COUNT}\n")
    except OSError as error:
        raise ImageError(
            f"root on this machine may not use the ids {ids.users}-{ids.users + COUNT - 1}: {error.strerror}",
            f"This machine is probably a container. Give root {COUNT} of its ids: a line such as root:100000:{COUNT} in {USERS} and in {GROUPS}.",
        ) from error


def _name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
