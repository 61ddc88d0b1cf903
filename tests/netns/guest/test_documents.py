"""Identity documents one after the other, and after a boot."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.netns.guest.machines import (
    FIREWALL_MAC,
    NIC,
    RECVMSG,
    WORKLOAD,
    Machine,
    encode,
    plug,
    until,
)

pytestmark = pytest.mark.netns


def network(machine: Machine) -> list[Any]:
    """All that identity sets in the network, without what changes by itself: lifetimes, and the
    kernel's own routes.
    """
    keys = ("local", "prefixlen", "scope")
    addresses = [
        [{key: at[key] for key in keys} for at in card["addr_info"]]
        for card in machine.ip("addr", "show")
    ]
    routes = [
        route
        for family in ("-4", "-6")
        for route in machine.ip(family, "route", "show", "table", "all")
    ]
    rules = [machine.ip(family, "rule") for family in ("-4", "-6")]
    return [addresses, [route for route in routes if route["protocol"] != "kernel"], rules]


def monitor_waits(pid: int) -> bool:
    return Path(f"/proc/{pid}/comm").read_text() == "ip\n" and Path(
        f"/proc/{pid}/syscall"
    ).read_text().split()[0] == str(RECVMSG)


@pytest.mark.usefixtures("lan")
def test_the_same_document_again_changes_nothing(guest: Machine) -> None:
    before, carrier = network(guest), guest.file("/sys/class/net/eth0/carrier_changes").read_text()
    with subprocess.Popen(
        ["nsenter", "-t", str(guest.pid), "-n", "ip", "monitor", "address"],
        stdout=subprocess.PIPE,
        text=True,
    ) as monitor:
        until("the monitor listens", lambda: monitor_waits(monitor.pid))
        assert guest.identity(*WORKLOAD) == "ok"
        guest.enter("ip", "address", "add", "127.0.0.9/32", "dev", "lo")
        assert monitor.stdout is not None
        assert "127.0.0.9" in monitor.stdout.readline(), (
            "the first change is the one that was made after the document"
        )
        monitor.terminate()
    guest.enter("ip", "address", "del", "127.0.0.9/32", "dev", "lo")
    assert network(guest) == before
    assert guest.file("/sys/class/net/eth0/carrier_changes").read_text() == carrier


def test_a_file_that_is_no_longer_named_is_gone_and_host_keys_stay(guest: Machine) -> None:
    first, second, key = ("/etc/a/one", "/etc/a/two", "/etc/ssh/ssh_host_ed25519_key")
    assert (
        guest.identity(*(f"file {path} 0644 root:root aGk=" for path in (first, second, key)))
        == "ok"
    )
    assert guest.identity(f"file {first} 0644 root:root aGk=") == "ok"
    assert guest.file(first).read_text() == "hi"
    assert not guest.file(second).exists()
    assert guest.file(key).exists()
    assert guest.guest("boot").stdout == "ok\n"
    assert guest.file(first).exists()
    assert guest.identity("hostname free") == "ok"
    assert not guest.file(first).exists()


@pytest.mark.usefixtures("cable")
def test_the_second_document_replaces_the_first(guest: Machine) -> None:
    more = (
        "addr eth0 10.8.0.3/32",
        "addr eth0 fd00:8::3/128",
        "route eth0 10.9.0.0/24",
        "route eth0 fd00:9::/64 table 7",
    )
    rules = (
        "rule 10.8.0.3 table 7",
        "rule fd00:8::3 table 7",
        f"neigh eth0 10.8.0.9 {FIREWALL_MAC}",
    )
    assert guest.identity(*WORKLOAD) == "ok"
    alone = network(guest)
    assert guest.identity(*WORKLOAD, *more, *rules) == "ok"
    assert network(guest) != alone
    assert guest.identity(*WORKLOAD) == "ok"
    assert network(guest) == alone
    assert {entry["dst"] for entry in guest.ip("neigh", "show", "nud", "permanent")} == {
        "10.8.0.1",
        "fd00:8::1",
    }


@pytest.mark.usefixtures("cable")
def test_gateways_sources_and_neighbours_can_change_in_place(guest: Machine) -> None:
    assert guest.identity(*WORKLOAD) == "ok"
    other = [
        line.replace("8.0.1", "8.0.7")
        .replace("8::1", "8::7")
        .replace(FIREWALL_MAC, "52:54:00:00:00:07")
        for line in WORKLOAD
    ]
    assert guest.identity(*other) == "ok"
    assert {route.get("gateway") for route in guest.routes("-4")} == {"10.8.0.7", None}
    assert {route.get("gateway") for route in guest.routes("-6")} == {"fd00:8::7", None}
    assert {(at["dst"], at["lladdr"]) for at in guest.ip("neigh", "show", "nud", "permanent")} == {
        ("10.8.0.7", "52:54:00:00:00:07"),
        ("fd00:8::7", "52:54:00:00:00:07"),
    }


@pytest.mark.usefixtures("cable")
def test_a_younger_address_survives_the_elder_of_its_subnet(guest: Machine) -> None:
    assert guest.identity(NIC, "addr eth0 10.8.0.2/24", "addr eth0 10.8.0.3/24") == "ok"
    assert guest.identity(NIC, "addr eth0 10.8.0.3/24") == "ok"
    assert guest.addresses() == {"10.8.0.3/24"}


@pytest.mark.usefixtures("cable")
def test_the_length_of_a_prefix_can_change(guest: Machine) -> None:
    assert guest.identity(NIC, "addr eth0 10.8.0.2/24", "addr eth0 fd00:8::2/64") == "ok"
    assert guest.identity(NIC, "addr eth0 10.8.0.2/32", "addr eth0 fd00:8::2/128") == "ok"
    assert guest.addresses() == {"10.8.0.2/32", "fd00:8::2/128"}


def test_foreign_settings_go_from_named_cards_and_stay_on_others(
    guest: Machine, firewall: Machine
) -> None:
    plug(guest, firewall)
    plug(guest, firewall, name="other", mac="52:54:00:00:00:99", peer_mac="52:54:00:00:00:98")
    for card, net in (("g0", "7"), ("other", "6")):
        guest.enter("ip", "link", "set", card, "up")
        guest.enter("ip", "addr", "add", f"192.168.{net}.2/24", "dev", card)
        guest.enter("ip", "route", "add", f"172.16.{net}.0/24", "via", f"192.168.{net}.1")
        guest.enter("ip", "-6", "route", "add", f"fd00:{net}::/64", "dev", card)
    guest.enter("ip", "rule", "add", "from", "192.168.6.2", "table", "6")
    guest.enter("ip", "route", "add", "blackhole", "172.16.99.0/24")
    assert guest.identity(*WORKLOAD) == "ok"
    assert guest.addresses("eth0") == {"10.8.0.2/32", "fd00:8::2/128"}
    assert guest.addresses("other") == {"192.168.6.2/24"}
    destinations = {route["dst"] for family in ("-4", "-6") for route in guest.routes(family)}
    assert destinations == {
        "default",
        "10.8.0.1",
        "fd00:8::1",
        "172.16.6.0/24",
        "fd00:6::/64",
        "172.16.99.0/24",
    }
    assert "192.168.6.2" in {rule["src"] for rule in guest.ip("rule")}


def test_a_card_that_the_next_document_leaves_out_loses_its_settings(
    guest: Machine, firewall: Machine
) -> None:
    plug(guest, firewall)
    plug(guest, firewall, name="g1", mac="52:54:00:00:00:12", peer_mac="52:54:00:00:00:11")
    assert (
        guest.identity(
            *WORKLOAD,
            "nic 52:54:00:00:00:12 eth1",
            "addr eth1 10.9.0.2/24",
            "route eth1 10.10.0.0/24 via 10.9.0.1",
        )
        == "ok"
    )
    assert guest.addresses("eth1") == {"10.9.0.2/24"}
    assert guest.identity(*WORKLOAD) == "ok"
    assert guest.addresses("eth1") == set()
    assert guest.routes("-4", "dev", "eth1") == []


@pytest.mark.usefixtures("cable")
def test_boot_applies_again_what_was_kept_and_keeps_no_secret(
    guest: Machine, firewall: Machine
) -> None:
    extra = ("hostname web-1", "sysctl net/ipv4/ip_forward 1", "rule 10.8.0.2 table 9")
    once = (
        f"seed {encode(b'secret seed 0123')}",
        f"file /etc/key 0600 root:root {encode('secret key')}",
        "machine-id " + "0" * 32,
    )
    assert guest.guest("boot").stdout == "ok\n"  # nothing is kept yet
    assert guest.identity(*WORKLOAD, *extra, *once) == "ok"
    before = network(guest)
    kept = guest.file("/etc/vcloud/identity")
    assert kept.read_text().splitlines() == [*WORKLOAD, *extra, "had /etc/key"]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    guest.enter("ip", "link", "del", "eth0")  # as after a power cycle
    guest.enter("ip", "rule", "del", "from", "10.8.0.2")
    guest.enter("hostname", "localhost")
    plug(guest, firewall)
    assert guest.guest("boot").stdout == "ok\n"
    assert guest.enter("hostname").stdout == "web-1\n"
    assert [[rule["table"] for rule in guest.ip("rule") if rule["src"] == "10.8.0.2"]] == [["9"]]
    assert guest.addresses() == {"10.8.0.2/32", "fd00:8::2/128"}
    assert network(guest)[1] == before[1]


@pytest.mark.usefixtures("cable")
def test_boot_needs_no_writable_root(guest: Machine) -> None:
    """It runs before the root is remounted."""
    assert guest.identity("hostname web-1", *WORKLOAD) == "ok"
    guest.enter("ip", "addr", "flush", "dev", "eth0")
    guest.enter("mount", "-o", "remount,ro", str(guest.root))
    assert guest.identity("hostname web-2").startswith(
        "error 1 hostname: /etc/hostname: Read-only"
    )  # a read-only root it is
    assert guest.guest("boot").stdout == "ok\n"
    assert guest.addresses() == {"10.8.0.2/32", "fd00:8::2/128"}
