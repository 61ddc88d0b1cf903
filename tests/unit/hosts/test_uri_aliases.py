"""Names that libvirt's client configuration gives to URIs."""

from __future__ import annotations

from pathlib import Path

import pytest

from vcloud.errors import UsageError
from vcloud.hosts.uri_aliases import aliases, uri_named

TEXT = """\
# uri_aliases = ["no=qemu:///no"]
uri_default = 'qemu:///system'
keepalive_interval = -1
uri_aliases = [  # ours
  "hail=qemu+ssh://root@hail/system",
  'sleet=qemu+ssh://root@sleet/system?a=b#1',
  "hail=qemu:///second",
]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "libvirt.conf"


def test_aliases_are_read(path: Path) -> None:
    path.write_text(TEXT)
    assert aliases(path) == {
        "hail": "qemu+ssh://root@hail/system",
        "sleet": "qemu+ssh://root@sleet/system?a=b#1",
    }


@pytest.mark.parametrize("text", ["", 'uri_default = "qemu:///system"\n', "uri_aliases = []\n"])
def test_a_file_without_aliases_has_none(path: Path, text: str) -> None:
    path.write_text(text)
    assert aliases(path) == {}


def test_a_file_that_is_not_there_has_none(path: Path) -> None:
    assert aliases(path) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("uri_aliases = 'a=b:c'\n", "no list of texts"),
        ("uri_aliases = [1]\n", "no list of texts"),
        ("uri_aliases = ['a=qemu:///x'\n", "no list of texts"),
        ("uri_aliases = ['qemu:///x']\n", "which is none"),
        ("uri_aliases = ['a b=qemu:///x']\n", "which is none"),
        ("uri_aliases = ['a=x']\n", "which is none"),
        ("x = 1\n?\n", ":2: libvirt's configuration cannot be understood"),
    ],
)
def test_what_is_wrong_is_said(path: Path, text: str, said: str) -> None:
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        aliases(path)


def test_a_uri_is_itself() -> None:
    assert uri_named("qemu:///system") == "qemu:///system"
    assert uri_named("no-such-alias-of-anybody") == "no-such-alias-of-anybody"
