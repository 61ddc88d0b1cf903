"""The choice of hosts: who wins over whom, and what is said about what is wrong."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Network
from pathlib import Path

import pytest

from vcloud.errors import UsageError
from vcloud.hosts.inventory import HostRef, choose_host, choose_hosts, load_inventory

TWO = """
hosts:
  h1:
    uri: qemu+ssh://root@h1/system
    ssh_config: ssh_config
    uplink: {network: uplink, prefix4: 198.18.0.0/16, gateway4: 198.18.0.1, prefix6: "2001:db8:198:18::/64", gateway6: "2001:db8:198:18::1"}
  h2: {uri: qemu+ssh://root@h2/system, templates: 512M}
"""
ONE = "hosts: {alone: {uri: qemu+ssh://root@alone/system}}"


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    path = tmp_path / "hosts.yaml"
    path.write_text(TWO)
    return path


@pytest.fixture
def nowhere(tmp_path: Path) -> dict[str, str]:
    """An environment that names nothing, on a machine without labs."""
    return {"VCLOUD_LAB_DIR": str(tmp_path / "labs"), "HOME": str(tmp_path / "home")}


def lab(environment: dict[str, str], name: str, text: str = ONE) -> Path:
    path = Path(environment["VCLOUD_LAB_DIR"], name, "hosts.yaml")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def test_an_inventory_is_read_whole(inventory: Path) -> None:
    first, second = load_inventory(inventory)
    assert (first.name, first.uri) == ("h1", "qemu+ssh://root@h1/system")
    assert first.ssh_config == inventory.parent / "ssh_config"
    assert first.uplink is not None
    assert first.uplink.gateway4 == IPv4Address("198.18.0.1")
    assert first.uplink.prefix6 == IPv6Network("2001:db8:198:18::/64")
    assert second == HostRef("h2", "qemu+ssh://root@h2/system", templates=512 << 20)
    assert first.templates == 4 << 30


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("hosts: {h1: {url: qemu:///system}}", "hosts.h1.url: unknown key; did you mean 'uri'?"),
        ("hosts: {h1: {url: qemu:///system}}", "hosts.h1.uri: is missing"),
        ("host: {h1: {uri: qemu:///system}}", "host: unknown key; did you mean 'hosts'?"),
        ("hosts: {}", "hosts: "),
        ("hosts: {h1: {uri: nonsense}}", "'nonsense' is no libvirt URI"),
        ("hosts: {h1: {uri: 'qemu:///system x'}}", "is no libvirt URI"),
        ("hosts: {'a b': {uri: qemu:///system}}", "hosts.a b: "),
        ("hosts: [1]", "hosts: "),
        ("- h1", "is no inventory"),
        (
            "hosts: {h1: {uri: qemu:///system, uplink: {network: a, prefx4: 10.0.0.0/8}}}",
            "hosts.h1.uplink.prefx4: unknown key; did you mean 'prefix4'?",
        ),
        ("hosts: {h1: {uri: qemu:///system, uplink: {prefix4: 10.0.0.0/8, gateway4: 10.0.0.1}}}", "name a network or a bridge"),
        ("hosts: {h1: {uri: qemu:///system, uplink: {bridge: b, network: n, prefix4: 10.0.0.0/8, gateway4: 10.0.0.1}}}", "and not both"),
        (
            "hosts: {h1: {uri: qemu:///system, uplink: {bridge: b, prefix4: 10.0.0.0/8, gateway4: 11.0.0.1}}}",
            "gateway4 11.0.0.1 is not in prefix4",
        ),
        (
            "hosts: {h1: {uri: qemu:///system, uplink: {bridge: b, prefix4: 10.0.0.0/8, gateway4: 10.0.0.1, gateway6: fe80::1}}}",
            "go together",
        ),
        (
            "hosts: {h1: {uri: qemu:///system, uplink: {bridge: a-name-of-more-than-15, prefix4: 10.0.0.0/8, gateway4: 10.0.0.1}}}",
            "uplink.bridge: ",
        ),
        ("hosts: {h1: {uri: qemu:///system, uplink: {bridge: b, prefix4: 10.0.0.0/30, gateway4: 10.0.0.1}}}", "too small"),
        ("hosts: {h1: {uri: qemu:///system, templates: lots}}", "hosts.h1.templates: 'lots' is not a size"),
        ("hosts: {h1: {uri: qemu:///system, templates: 0}}", "hosts.h1.templates: '0' is not between 1M and"),
        ("hosts: {h1: {uri: [", "is not YAML"),
        ("", "is no inventory"),
    ],
)
def test_what_is_wrong_with_an_inventory_is_said(inventory: Path, text: str, complaint: str) -> None:
    inventory.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_inventory(inventory)
    assert complaint in caught.value.what
    assert caught.value.hint


def test_all_faults_come_at_once(inventory: Path) -> None:
    inventory.write_text("hosts: {h1: {url: a}, h2: {uri: b}}")
    with pytest.raises(UsageError) as caught:
        load_inventory(inventory)
    assert len(caught.value.what.splitlines()) == 3


def test_a_missing_inventory_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load_inventory(tmp_path / "none.yaml")


def test_without_a_word_it_is_this_machine(nowhere: dict[str, str]) -> None:
    assert choose_host(None, nowhere) == HostRef("localhost", "qemu:///system")


def test_each_source_wins_over_those_after_it(nowhere: dict[str, str], inventory: Path) -> None:
    """A user's file < the lab that is up < VCLOUD_INVENTORY < LIBVIRT_DEFAULT_URI < VCLOUD_CONNECT < the flag."""
    own = Path(nowhere["HOME"], ".config", "vcloud", "hosts.yaml")
    own.parent.mkdir(parents=True)
    own.write_text("hosts: {mine: {uri: qemu+ssh://me@mine/system}}")
    assert [host.name for host in choose_hosts(None, nowhere)] == ["mine"]
    lab(nowhere, "first")
    assert [host.name for host in choose_hosts(None, nowhere)] == ["alone"]
    environment = nowhere | {"VCLOUD_INVENTORY": str(inventory)}
    assert [host.name for host in choose_hosts(None, environment)] == ["h1", "h2"]
    environment |= {"LIBVIRT_DEFAULT_URI": "qemu+ssh://root@there/system"}
    assert [host.name for host in choose_hosts(None, environment)] == ["there"]
    environment |= {"VCLOUD_CONNECT": "h2"}
    assert [host.name for host in choose_hosts(None, environment)] == ["h2"]
    assert [host.name for host in choose_hosts("h1", environment)] == ["h1"]


def test_a_uri_of_the_inventory_brings_its_uplink(nowhere: dict[str, str], inventory: Path) -> None:
    environment = nowhere | {"VCLOUD_INVENTORY": str(inventory)}
    assert choose_host("qemu+ssh://root@h1/system", environment).uplink is not None
    assert choose_host("qemu+ssh://root@h3/system", environment) == HostRef("h3", "qemu+ssh://root@h3/system")


def test_several_hosts_need_a_name(nowhere: dict[str, str], inventory: Path) -> None:
    environment = nowhere | {"VCLOUD_INVENTORY": str(inventory)}
    with pytest.raises(UsageError, match="2 hosts") as caught:
        choose_host(None, environment)
    assert "h1|h2" in caught.value.hint


def test_several_labs_need_a_name(nowhere: dict[str, str]) -> None:
    lab(nowhere, "first")
    lab(nowhere, "second")
    with pytest.raises(UsageError, match="several labs are up: first, second"):
        choose_host(None, nowhere)
    assert choose_host("qemu:///system", nowhere) == HostRef("localhost", "qemu:///system")


@pytest.mark.parametrize("name", ["h3", "with space", ""])
def test_an_unknown_name_is_said_with_those_there_are(nowhere: dict[str, str], inventory: Path, name: str) -> None:
    environment = nowhere | {"VCLOUD_INVENTORY": str(inventory)}
    with pytest.raises(UsageError) as caught:
        choose_host(name, environment)
    assert "h1" in str(caught.value)
    assert "h2" in str(caught.value)


def test_a_text_with_a_colon_that_is_no_uri_is_said(nowhere: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="no libvirt URI"):
        choose_host(":nonsense", nowhere)
