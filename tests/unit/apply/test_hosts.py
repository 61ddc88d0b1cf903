"""`vcloud host add|remove`: what is refused before any host is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from vcloud.apply.hosts import look_at_new_host, removed_host
from vcloud.errors import Exit, RefusedError, UnreachableError, UsageError
from vcloud.hosts.connection import open_host
from vcloud.hosts.inventory import HostRef

TEXT = """\
hosts:
  h1: {uri: qemu+ssh://root@H1:22/system, labels: {site: eu}}
  away: {uri: qemu+unix:///system?socket=/nowhere/at/all}
"""


@pytest.fixture
def inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "hosts.yaml"
    path.write_text(TEXT)
    monkeypatch.setenv("VCLOUD_INVENTORY", str(path))
    return path


@pytest.mark.parametrize(
    ("name", "uri", "labels", "said"),
    [
        ("a b", "qemu+ssh://root@h9/system", [], "'a b' is not a valid host name"),
        ("h9", "nonsense", [], "'nonsense' is not a libvirt URI"),
        ("h9", "qemu+tcp://h9/system", [], "does not lead to a host over SSH"),
        ("h9", "qemu+ssh:///system", [], "does not lead to a host over SSH"),
        ("h9", "xen+ssh://root@h9/system", [], "does not lead to a host over SSH"),
        ("h9", "qemu+ssh://root@h9/session", [], "does not name the libvirt of the whole system"),
        ("h9", "qemu+ssh://root:secret@h9/system", [], "a URI with a password"),
        ("h9", "qemu+ssh://root@h9/system?no_verify=1", [], "nobody looks at the host's key"),
        ("h9", "qemu+ssh://root@h9/system", ["site"], "'site' is no label"),
        ("h9", "qemu+ssh://root@h9/system", ["site="], "'site=' is no label"),
        ("h9", "qemu+ssh://root@h9/system", ["ksm=off"], "vcloud reads 'ksm' from the host"),
        (
            "h9",
            "qemu+ssh://root@h9/system",
            ["S=1", "x"],
            "'S' is not a valid label name; 'x' is no",
        ),
        ("h9", "qemu+ssh://root@h9/system", ["a=1", "a=2"], "the label 'a' has two values"),
        ("h9", "qemu+ssh://ann@h1/system", [], "has this host already, as 'h1'"),
        ("h1", "qemu+ssh://root@h9/system", [], "its URI is qemu"),
        ("h1", "qemu+ssh://root@H1:22/system", ["site=us"], "its labels are site=eu, not site=us"),
    ],
)
def test_wrong_values_are_told_with_a_way_out(
    inventory: Path, name: str, uri: str, labels: list[str], said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        look_at_new_host(name, uri, labels, None, None)
    assert said in caught.value.what
    assert caught.value.hint
    assert caught.value.exit is Exit.INVALID
    assert inventory.read_text() == TEXT


def test_all_that_is_wrong_is_told_at_once(inventory: Path) -> None:
    with pytest.raises(UsageError) as caught:
        look_at_new_host("a b", "nonsense", ["site", "smt=on"], None, None)
    for said in ("'a b' is not", "'nonsense' is not", "'site' is no label", "reads 'smt'"):
        assert said in caught.value.what
    assert inventory.read_text() == TEXT


def test_a_password_is_not_repeated(inventory: Path) -> None:
    with pytest.raises(UsageError) as caught:
        look_at_new_host("h9", "qemu+ssh://root:secret@h9/system", [], None, None)
    assert "secret" not in str(caught.value)
    assert "secret" not in inventory.read_text()


def test_a_host_that_cannot_be_asked_stays_unless_it_is_forgotten(inventory: Path) -> None:
    with pytest.raises(UnreachableError) as caught:
        removed_host("away", forget=False)
    assert "vcloud host remove away --forget" in caught.value.hint
    assert caught.value.exit is Exit.REFUSED
    assert inventory.read_text() == TEXT
    removed_host("away", forget=True)
    assert "away" not in inventory.read_text()
    assert "h1" in inventory.read_text()


def test_a_host_with_a_vapp_stays(inventory: Path) -> None:
    """libvirt's test driver keeps the vApp's description like a real one."""
    text = TEXT + "  full: {uri: 'test:///default'}\n"
    inventory.write_text(text)
    with open_host(HostRef("full", "test:///default")) as host:
        host.connection.networkDefineXML("<network><name>vcloud-manifest-shop</name></network>")
        with pytest.raises(RefusedError) as caught:
            removed_host("full", forget=False)
        assert "vApps stand on full: shop" in str(caught.value)
        assert "vcloud down shop --connect full" in str(caught.value)
        assert inventory.read_text() == text
        host.connection.networkLookupByName("vcloud-manifest-shop").undefine()
        removed_host("full", forget=False)
    assert inventory.read_text() == TEXT


def test_a_host_that_is_not_there_is_said(inventory: Path) -> None:
    with pytest.raises(UsageError, match=f"no host 'h9' in {inventory}, which has h1, away"):
        removed_host("h9", forget=False)
