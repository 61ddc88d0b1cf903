"""Which user QEMU runs as in a lab."""

from __future__ import annotations

import pwd

import pytest

from vcloud.lab.account import RESERVED, Account, qemu_account


@pytest.mark.parametrize(
    ("users", "expected"),
    [
        ({"libvirt-qemu": (64055, 107)}, Account(64055, 107)),
        ({"qemu": (107, 36)}, Account(107, 36)),
        ({"libvirt-qemu": (0, 0), "qemu": (107, 36)}, Account(107, 36)),
        ({"libvirt-qemu": (64055, 0)}, Account(RESERVED, RESERVED)),
        ({}, Account(RESERVED, RESERVED)),
    ],
)
def test_it_is_the_packages_user_or_nobody_and_never_root(
    users: dict[str, tuple[int, int]], expected: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(name: str) -> pwd.struct_passwd:
        uid, gid = users[name]
        return pwd.struct_passwd((name, "x", uid, gid, "", "/", "/bin/false"))

    monkeypatch.setattr(pwd, "getpwnam", found)
    assert qemu_account() == expected
