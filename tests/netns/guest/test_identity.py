"""One identity document: each directive does what it says."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from pathlib import Path

import pytest

from tests.netns.guest.machines import (
    FIREWALL_MAC,
    FLOCK,
    GUEST_MAC,
    NIC,
    POLL,
    WORKLOAD,
    Machine,
    encode,
    plug,
    run,
    until,
)
from vcloud.compile.guest.identity import MEMORY_IMAGE_MAC

pytestmark = pytest.mark.netns


def test_the_program_is_static_and_small(program: Path) -> None:
    assert "statically linked" in run("file", str(program)).stdout
    assert program.stat().st_size < 200_000


def test_hostname_and_machine_id_are_set(guest: Machine) -> None:
    assert (
        guest.identity("hostname web-1.shop", "machine-id 0123456789abcdef0123456789abcdef") == "ok"
    )
    assert guest.enter("hostname").stdout == "web-1.shop\n"
    assert guest.file("/etc/hostname").read_text() == "web-1.shop\n"
    assert guest.file("/etc/machine-id").read_text() == "0123456789abcdef0123456789abcdef\n"


def test_seed_is_taken_and_clock_needs_the_right_to_set_it(guest: Machine) -> None:
    assert guest.identity(f"seed {encode(os.urandom(64))}") == "ok"
    assert (
        guest.identity("", "clock 1700000000.000000001") == "error 2 clock: Operation not permitted"
    )


def test_a_card_is_found_by_its_mac_named_and_brought_up(guest: Machine, firewall: Machine) -> None:
    plug(guest, firewall, name="other", mac="52:54:00:00:00:99", peer_mac="52:54:00:00:00:98")
    plug(guest, firewall)
    assert guest.identity(NIC) == "ok"
    (card,) = guest.ip("link", "show", "eth0")
    assert card["address"] == GUEST_MAC
    assert "UP" in card["flags"]
    assert "UP" not in guest.ip("link", "show", "other")[0]["flags"]
    assert guest.setting("ipv6/conf/eth0/accept_ra") == "0"


def test_cards_that_have_each_others_names_are_swapped(guest: Machine, firewall: Machine) -> None:
    for name, last in (("eth0", "a"), ("eth1", "b")):
        plug(
            guest,
            firewall,
            name=name,
            mac=f"52:54:00:00:01:0{last}",
            peer_mac=f"52:54:00:00:02:0{last}",
        )
        guest.enter("ip", "link", "set", name, "up")
    assert guest.identity("nic 52:54:00:00:01:0b eth0", "nic 52:54:00:00:01:0a eth1") == "ok"
    assert {
        card["ifname"]: card["address"][-1] for card in guest.ip("link") if card["ifname"] != "lo"
    } == {"eth0": "b", "eth1": "a"}


def test_a_templates_card_takes_the_address_of_the_vms_own(
    guest: Machine, firewall: Machine
) -> None:
    plug(guest, firewall, name="enp1s0", mac=MEMORY_IMAGE_MAC)
    assert guest.identity(f"mac {MEMORY_IMAGE_MAC} {GUEST_MAC}", NIC) == "ok"
    assert guest.ip("link", "show", "eth0")[0]["address"] == GUEST_MAC
    assert "mac " not in guest.file("/etc/vcloud/identity").read_text()


def test_a_card_that_is_no_templates_keeps_its_address(guest: Machine, firewall: Machine) -> None:
    plug(guest, firewall)
    assert guest.identity(f"mac {MEMORY_IMAGE_MAC} 52:54:00:00:00:77", NIC) == "ok"
    assert guest.ip("link", "show", "eth0")[0]["address"] == GUEST_MAC


def test_a_card_that_comes_late_is_waited_for(guest: Machine, firewall: Machine) -> None:
    with subprocess.Popen(
        guest.argv("identity"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as waiting:
        assert waiting.stdin is not None
        waiting.stdin.write(f"{NIC}\naddr eth0 10.8.0.2/32\n")
        waiting.stdin.close()
        until("the program waits", lambda: guest.sleeps_in("guest", POLL))
        plug(guest, firewall)
        assert waiting.stdout is not None
        assert waiting.stdout.read() == "ok\n"
    assert guest.addresses() == {"10.8.0.2/32"}


def test_a_document_of_a_run_before_comes_late_and_is_not_applied(guest: Machine) -> None:
    """A killed run has left it in the guest. The later run is done when its turn comes."""

    def give(run: str, name: str) -> tuple[int, str]:
        done = guest.guest("identity", run, stdin=f"hostname {name}\n")
        return done.returncode, done.stdout

    assert give("7", "seven") == (0, "ok\n")
    late = "error 0 run 7 has given an identity before this one of run 6\n"
    assert give("6", "six") == (76, late)
    assert guest.file("/etc/hostname").read_text() == "seven\n"
    assert give("7", "again") == (0, "ok\n"), "the same run may give another one"
    assert give("8", "eight") == (0, "ok\n")
    assert guest.file("/etc/hostname").read_text() == "eight\n"
    assert give("7", "seven")[0] == 76
    assert give("", "none")[1].startswith("error 0 '' is not a number")


def test_a_document_waits_for_the_one_of_a_killed_run(guest: Machine, firewall: Machine) -> None:
    """The first has begun: it waits for its card."""
    with subprocess.Popen(
        guest.argv("identity", "1"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as killed:
        assert killed.stdin is not None
        killed.stdin.write(f"hostname one\n{NIC}\n")
        killed.stdin.close()
        until("the first waits for its card", lambda: guest.sleeps_in("guest", POLL))
        with subprocess.Popen(
            guest.argv("identity", "2"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as following:
            assert following.stdin is not None
            following.stdin.write("hostname two\n")
            following.stdin.close()
            until("the second waits for the first", lambda: guest.sleeps_in("guest", FLOCK))
            plug(guest, firewall)
            assert killed.stdout is not None
            assert killed.stdout.read() == "ok\n"
            assert following.stdout is not None
            assert following.stdout.read() == "ok\n"
    assert guest.file("/etc/hostname").read_text() == "two\n"


def test_a_card_that_never_comes_is_an_error_after_ten_seconds(guest: Machine) -> None:
    began = time.monotonic()
    assert guest.identity("hostname a", NIC) == f"error 2 nic: no NIC with MAC address {GUEST_MAC}"
    assert 9.5 < time.monotonic() - began < 60


@pytest.mark.usefixtures("cable")
def test_the_network_is_as_the_document_says(guest: Machine) -> None:
    assert guest.identity(*WORKLOAD, "sysctl net/ipv4/ip_local_port_range 20000 30000") == "ok"
    assert guest.addresses() == {"10.8.0.2/32", "fd00:8::2/128"}
    assert guest.routes("-4") == [
        {"dst": "default", "gateway": "10.8.0.1", "dev": "eth0", "prefsrc": "10.8.0.2"},
        {"dst": "10.8.0.1", "dev": "eth0"},
    ]
    assert guest.routes("-6") == [
        {"dst": "fd00:8::1", "dev": "eth0"},
        {"dst": "default", "gateway": "fd00:8::1", "dev": "eth0", "prefsrc": "fd00:8::2"},
    ]
    neighbours = {
        (entry["dst"], entry["lladdr"], *entry["state"])
        for entry in guest.ip("neigh", "show", "nud", "permanent")
    }
    assert neighbours == {
        ("10.8.0.1", FIREWALL_MAC, "PERMANENT"),
        ("fd00:8::1", FIREWALL_MAC, "PERMANENT"),
    }
    assert guest.setting("ipv4/ip_local_port_range").split() == ["20000", "30000"]


@pytest.mark.usefixtures("cable")
def test_ipv6_addresses_are_usable_at_once(guest: Machine) -> None:
    """Without duplicate address detection: a source that is still tentative would make the first
    second's packets fail.
    """
    assert guest.identity(*WORKLOAD) == "ok"
    (address,) = [
        at for at in guest.ip("addr", "show", "eth0")[0]["addr_info"] if at["local"] == "fd00:8::2"
    ]
    assert address["nodad"]
    assert "tentative" not in address


@pytest.mark.usefixtures("cable")
def test_rules_lead_to_tables(guest: Machine) -> None:
    tables = (
        "route eth0 0.0.0.0/0 via 10.8.0.1 table 100",
        "route eth0 ::/0 via fd00:8::1 table 70000",
    )
    rules = ("rule 10.8.0.2 table 100", "rule fd00:8::2 table 70000")
    assert guest.identity(*WORKLOAD, *tables, *rules) == "ok"
    assert guest.routes("-4", "table", "100") == [
        {"dst": "default", "gateway": "10.8.0.1", "dev": "eth0"}
    ]
    assert guest.routes("-6", "table", "70000") == [
        {"dst": "default", "gateway": "fd00:8::1", "dev": "eth0"}
    ]
    assert [rule["table"] for rule in guest.ip("-4", "rule") if rule["src"] == "10.8.0.2"] == [
        "100"
    ]
    assert [rule["table"] for rule in guest.ip("-6", "rule") if rule["src"] == "fd00:8::2"] == [
        "70000"
    ]


@pytest.mark.usefixtures("cable")
def test_only_what_bears_the_mark_is_routed_and_what_the_guest_sends_itself(guest: Machine) -> None:
    def rules(version: str) -> list[str]:
        listed = guest.enter("ip", version, "rule").stdout.splitlines()
        return [line.replace("\t", " ") for line in listed if " proto 86" in line]

    wanted = [
        "1000: from all fwmark 0x7 lookup main proto 86",
        "1001: from all iif lo lookup main proto 86",
        "1002: from all blackhole proto 86",
    ]
    for _ in range(2):
        assert guest.identity(*WORKLOAD, "route-mark 7") == "ok"
        assert (rules("-4"), rules("-6")) == (wanted, wanted)
    guest.enter("ip", "rule", "del", "priority", "1002")
    assert guest.guest("boot").stdout == "ok\n"
    assert rules("-4") == wanted
    assert guest.identity(*WORKLOAD, "route-mark 8") == "ok"
    assert rules("-6") == [wanted[0].replace("0x7", "0x8"), *wanted[1:]]
    assert guest.identity(*WORKLOAD) == "ok"
    assert (rules("-4"), rules("-6")) == ([], [])


@pytest.mark.usefixtures("cable")
def test_routes_stand_before_the_other_end_is_up(guest: Machine) -> None:
    """Workloads get their identity while their link is held down."""
    assert guest.identity(*WORKLOAD) == "ok"
    assert "NO-CARRIER" in guest.ip("link", "show", "eth0")[0]["flags"]
    assert len(guest.routes("-6")) == 2


def test_files_and_directories_have_content_mode_and_owner(guest: Machine) -> None:
    content = os.urandom(200_000)
    lines = (
        "dir /etc/app 0750 postgres:postgres",
        f"file /etc/app/deep/er/key 0600 postgres:root {encode(content)}",
        "file /etc/empty 4755 postgres:postgres ",
    )
    assert guest.identity(*lines) == "ok"
    assert guest.identity(*lines) == "ok"
    for path, mode, owner in (
        ("/etc/app", 0o750, (70, 71)),
        ("/etc/app/deep/er/key", 0o600, (70, 0)),
        ("/etc/empty", 0o4755, (70, 71)),
    ):
        found = guest.file(path).stat()
        assert (stat.S_IMODE(found.st_mode), (found.st_uid, found.st_gid)) == (mode, owner)
    assert guest.file("/etc/app/deep/er/key").read_bytes() == content
    assert guest.file("/etc/app/deep").stat().st_uid == 0
    assert guest.file("/etc/empty").read_bytes() == b""
    assert not list(guest.file("/etc").rglob("*.vcloud-new"))


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(guest: Machine) -> None:
    guest.file("/etc/app").mkdir()
    guest.file("/etc/app/inside").write_text("old")
    assert (
        guest.identity(f"file /etc/app 0644 root:root {encode('new')}")
        == "error 1 file: /etc/app: Is a directory"
    )
    assert guest.identity(f"file /etc/app/inside 0644 nobody:root {encode('new')}").startswith(
        "error 1 file: no such user"
    )
    assert guest.file("/etc/app/inside").read_text() == "old"
    assert not list(guest.file("/etc").rglob("*.vcloud-new"))
