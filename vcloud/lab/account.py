"""The user that QEMU runs as on the hosts of a lab: never root."""

from __future__ import annotations

import pwd
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

NAMES: Final = ("libvirt-qemu", "qemu")
"""Users that packages of libvirt make for QEMU: Debian's and Ubuntu's, Fedora's."""
RESERVED: Final = 64055
"""The number that Debian keeps for libvirt-qemu on every machine, so nobody else has it."""


@dataclass(frozen=True, slots=True)
class Account:
    """The numbers of a user and of their group."""

    uid: int
    gid: int


def qemu_account() -> Account:
    """The user that this machine's packages made for QEMU. On a machine without one: a number that
    belongs to nobody.
    """
    for name in NAMES:
        with suppress(KeyError):
            found = pwd.getpwnam(name)
            # Somebody may have given the name to root.
            if found.pw_uid and found.pw_gid:
                return Account(found.pw_uid, found.pw_gid)
    return Account(RESERVED, RESERVED)
