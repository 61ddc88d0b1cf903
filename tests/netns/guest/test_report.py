"""`guest report`: what the kernel's network consists of, against the identity that made it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import pytest

from tests.netns.guest.machines import FIREWALL_MAC, GATEWAY, NIC, WORKLOAD, Machine
from vcloud.proof.guest_network import Claim, Words, differences, kept_digest, parse_network

RULES = (
    "route eth0 0.0.0.0/0 via 10.8.0.1 table 100",
    "route eth0 ::/0 via fd00:8::1 table 70000",
    "rule 10.8.0.2 table 100",
    "rule fd00:8::2 table 70000",
    "sysctl net/ipv4/conf/eth0/rp_filter 1",
)


def report(machine: Machine) -> tuple[Words, ...]:
    """The NICs of these machines are ends of cables, which a VM does not have."""
    listed = json.loads(machine.guest("report").stdout)
    texts = [text.replace(" veth", " -") if text.startswith("link") else text for text in listed]
    return parse_network({"network": texts})


def named(machine: Machine, identity: Sequence[str]) -> dict[Claim, tuple[str, ...]]:
    found = differences(identity, report(machine))
    return {claim: texts for claim, texts in found.items() if texts}


@pytest.mark.usefixtures("cable")
def test_a_guest_is_as_its_identity_says_and_not_before(guest: Machine, firewall: Machine) -> None:
    whole = (*WORKLOAD, *RULES)
    assert named(guest, whole).keys() >= {Claim.LINKS, Claim.ROUTING, Claim.SETTINGS}
    assert guest.identity(*whole) == "ok"
    assert firewall.identity(*GATEWAY, "route-mark 7", "addr dmz 10.9.0.1/24") == "ok"
    assert named(guest, whole) == {}
    assert named(firewall, (*GATEWAY, "route-mark 7", "addr dmz 10.9.0.1/24")) == {}
    assert named(firewall, GATEWAY)[Claim.ROUTING]


@pytest.mark.usefixtures("cable")
def test_what_it_keeps_for_the_next_boot_has_the_digest_that_is_expected(guest: Machine) -> None:
    once = (
        "machine-id " + "0" * 32,
        "dir /etc/app 0755 root:root",
        "file /etc/x 0600 root:root QQ==",
    )
    identity = ("hostname web-1", *once, *WORKLOAD, *RULES, "route-mark 7")
    assert guest.identity(*identity) == "ok"
    kept = guest.file("/etc/vcloud/identity").read_bytes()
    assert hashlib.sha256(kept).hexdigest() == kept_digest(identity)


@pytest.mark.usefixtures("cable")
def test_a_report_tells_what_other_makers_added(guest: Machine) -> None:
    assert guest.identity(NIC) == "ok"
    before = {*report(guest)}
    for command in (
        "ip route add 10.9.0.0/16 dev eth0 metric 7",
        "ip route add 10.10.0.0/16 nexthop dev eth0 nexthop dev lo",
        "ip -6 rule add not from fd00::/8 to fd01::/16 iif eth0 oif lo table 7 priority 9",
        "ip rule add uidrange 1-2 goto 32766 priority 8",
        f"ip -6 neigh add fd00::9 lladdr {FIREWALL_MAC} dev eth0 nud permanent",
    ):
        guest.enter(*command.split())
    assert {" ".join(words) for words in {*report(guest)} - before} >= {
        "route eth0 10.9.0.0/16 metric 7",
        "route - 10.10.0.0/16 attribute9",
        "rule 6 9 not from fd00::/8 to fd01::/16 iif eth0 oif lo table 7",
        "rule 4 8 action2 attribute4 attribute20",
        f"neigh eth0 fd00::9 {FIREWALL_MAC}",
    }


def test_hooks_are_told_only_where_they_are_asked_for(guest: Machine) -> None:
    assert guest.identity() == "ok"
    plain, asked = (json.loads(guest.guest("report", *more).stdout) for more in ((), ("hooks",)))
    assert not [text for text in plain if text.startswith("hook")]
    assert [text for text in asked if not text.startswith("hook")] == plain
    assert guest.guest("report", "all").returncode == 2


def test_suricata_that_does_not_run_has_no_report(guest: Machine) -> None:
    done = guest.guest("suricata-report")
    assert (done.returncode, done.stdout) == (
        1,
        "error 0 /run/suricata/command.socket: No such file or directory\n",
    )


def test_without_an_identity_there_are_no_settings(guest: Machine) -> None:
    assert not [words for words in report(guest) if words[0] == "sysctl"]
