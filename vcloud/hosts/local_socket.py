"""Why a user may not open the socket of the libvirt on this machine, and who can change it."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

SOCKETS = ("/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock")
"""Where libvirt listens if its URI does not say it. The first that exists counts."""
GROUP_MAY_CONNECT = stat.S_IWGRP


@dataclass(frozen=True, slots=True)
class ClosedSocket:
    """A socket that the user may not open."""

    path: str
    group: str
    open_to_group: bool
    user: str
    member: bool
    """Whether the user is in the group, by the records of the machine."""


def closed_socket(uri: str) -> ClosedSocket | None:
    """The socket of a local libvirt if this user may not open it. None: it is open, or there is
    none, or the URI leads to another machine.
    """
    parts = urlsplit(uri)
    if parts.hostname or parts.scheme.partition("+")[2] not in ("", "unix"):
        return None
    asked = dict(parse_qsl(parts.query)).get("socket")
    path = next((name for name in ([asked] if asked else SOCKETS) if Path(name).exists()), None)
    if path is None or os.access(path, os.W_OK):
        return None
    found = Path(path).stat()
    group, user = _group_name(found.st_gid), _user_name(os.geteuid())
    return ClosedSocket(
        path, group, bool(found.st_mode & GROUP_MAY_CONNECT), user, _is_member(user, found.st_gid)
    )


def way_out(closed: ClosedSocket) -> str:
    """What the user, or an administrator, does about it."""
    if not closed.open_to_group:
        return f'{closed.path} is open to its owner only. An administrator sets unix_sock_group = "libvirt" and unix_sock_rw_perms = "0770" in /etc/libvirt/libvirtd.conf, and restarts libvirtd.'
    if closed.member:
        return f"You are in the group {closed.group}, but your session began before that. Log in again, or run: newgrp {closed.group}"
    return f"{closed.path} is open to root and to the group {closed.group}, and you ({closed.user}) are not in it. An administrator runs: usermod -aG {closed.group} {closed.user}. Then log in again."


def _is_member(user: str, group: int) -> bool:
    try:
        return group in os.getgrouplist(user, pwd.getpwnam(user).pw_gid)
    except KeyError:
        return False


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
