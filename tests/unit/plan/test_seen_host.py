"""What programs of a host print, which may be anything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcloud.plan.preparation import Release, SeenFile
from vcloud.plan.seen_host import (
    files_in,
    hidden_in,
    logins_in,
    packages_in,
    release_in,
    uid_in,
)

BOOKWORM = b"""\
PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
NAME="Debian GNU/Linux"
VERSION_ID="12"
ID=debian
"""


@pytest.mark.parametrize(
    ("content", "release"),
    [
        (BOOKWORM, Release("debian", "12", "Debian GNU/Linux 12 (bookworm)")),
        (b"ID='debian'\nVERSION_ID=13\n", Release("debian", "13", "debian 13")),
        (b"ID=debian\n", Release("debian", "", "debian")),
        (b"# ID=debian\n", None),
        (b"", None),
        (b"ID=$(reboot)\n", None),
        (b"ID=debian 12\n", None),
        (b"ID='debian\n", None),
        (b"ID=debian\nVERSION_ID=$(id)\n", Release("debian", "", "debian")),
        (
            b"ID=debian\nVERSION_ID=12\nPRETTY_NAME='a\x1b[2Jb'\n",
            Release("debian", "12", "a\\x1b[2Jb"),
        ),
    ],
)
def test_a_distribution_is_read_and_never_run(content: bytes, release: Release | None) -> None:
    assert release_in(content) == release


def test_a_listing_of_files_tells_of_no_others() -> None:
    listed = (
        b"0 755 directory:/etc\n0 440 regular empty file:/a\n0 777 directory:/elsewhere\nnonsense\n"
    )
    digests = b"e3b0c442" + b"0" * 56 + b"  /a\n" + b"1" * 64 + b"  /elsewhere\n"
    assert files_in(listed, digests, ("/etc", "/a", "/b")) == {
        "/etc": SeenFile("directory", 0, 0o755),
        "/a": SeenFile("regular file", 0, 0o440, "e3b0c442" + "0" * 56),
    }


def test_what_may_not_be_looked_at_is_no_absent_file() -> None:
    said = b"stat: cannot statx '/a': Permission denied\nstat: cannot statx '/b': No such file or directory\n"
    assert hidden_in(said, ("/a", "/b")) == {"/a"}
    assert hidden_in(said, ("/b",)) == set()


def test_states_of_packages_are_read() -> None:
    assert packages_in(b"qemu-utils ii \nlibvirt-clients rc \nxz-utils iUR\n$(id) ii\n") == {
        "qemu-utils": "ii",
        "libvirt-clients": "rc",
        "xz-utils": "iU",
    }


@pytest.mark.parametrize(
    ("content", "logins"),
    [
        (b"port 22\nmaxsessions 10\nmaxstartups 10:30:100\n", (10, 10)),
        (b"maxsessions 100\nmaxstartups 100\n", (100, 100)),
        (b"maxsessions 100\n", None),
        (b"maxsessions many\nmaxstartups 10:30:100\n", None),
    ],
)
def test_limits_of_sshd_are_read(content: bytes, logins: tuple[int, int] | None) -> None:
    assert logins_in(content) == logins


@pytest.mark.parametrize(
    ("content", "uid"),
    [(b"0\n", 0), (b"1000\n", 1000), (b"", -1), (b"-1", -1), (b"root", -1), (b"9" * 5000, -1)],
)
def test_only_a_number_is_the_number_of_a_user(content: bytes, uid: int) -> None:
    assert uid_in(content) == uid


@given(st.binary(max_size=300))
def test_any_bytes_are_read(content: bytes) -> None:
    release_in(content)
    files_in(content, content, ("/a",))
    hidden_in(content, ("/a",))
    packages_in(content)
    logins_in(content)
