"""Differences of a host's side in facts that not every kernel can be made to show.
tests/netns/host and tests/vm/test_host_side.py break real hosts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest

from tests.design_builder import build_design
from vcloud.plan.host_difference import HostKind
from vcloud.plan.host_look import Card, Look
from vcloud.plan.host_mending import way_out
from vcloud.plan.host_report import Chain, Device, HostReport, Process, Rule
from vcloud.plan.host_side import BRIDGE_FLAGS, PORT_FLAGS, host_differences, unseen_kinds

DESIGN = build_design(zones="dmz", vms={"web": "dmz", "api": "dmz"})
RUNNING = frozenset(vm.name for vm in DESIGN.vms)
UPLINK = "br0"
NOTHING = HostReport("", {}, (), (), (), (), (), (), (), {}, ())
BRIDGE = DESIGN.zones[0].network.bridge
WEB = DESIGN.workloads[0].nics[0]
ENTRANCE = Chain("nat", "PREROUTING", "prerouting", "accept")


def device(name: str, kind: str, **fields: object) -> Device:
    empty = Device(name, kind, "", True, "", "", {}, {}, (), False, (), ())
    return replace(empty, **fields)  # type: ignore[arg-type]


def rule(chain: str, **fields: object) -> Rule:
    empty = Rule("nat", chain, (), frozenset(), "", "", True, frozenset())
    return replace(empty, **fields)  # type: ignore[arg-type]


def rules_of(card: Card) -> Iterator[Rule]:
    """The rules of a card's network filter, as nft lists them."""
    mask, bits = "ff:ff:00:00:00:00", "/16"
    for item in card.filter:
        frames = {
            ("saddr", "!=", card.nic.mac) if item.forged else None,
            ("daddr", "==", item.target + (bits if item.mask == mask else ""))
            if item.target
            else None,
            ("type", "==", {"arp": "arp", "ipv6": "ip6"}[item.protocol]) if item.protocol else None,
        }
        yield rule(card.nic.tap, frames=frozenset(filter(None, frames)), verdict=item.verdict)


def healthy() -> HostReport:
    cards = Look(DESIGN, RUNNING, UPLINK, NOTHING).cards
    devices = {
        card.nic.tap: device(
            card.nic.tap,
            "tun",
            master=card.bridge,
            port={**PORT_FLAGS, "isolated": str(card.nic.isolated).lower()},
        )
        for card in cards
    }
    devices[BRIDGE] = device(BRIDGE, "bridge", bridge=BRIDGE_FLAGS)
    rules = [
        made
        for card in cards
        if card.filter
        for made in (
            rule(
                "PREROUTING",
                devices=(("iifname", card.nic.tap),),
                verdict="jump",
                target=card.nic.tap,
                words=frozenset({card.nic.tap}),
            ),
            *rules_of(card),
        )
    ]
    processes = tuple(
        Process(number, "qemu", vm.domain, True, tuple(nic.tap for nic in vm.nics), ())
        for number, vm in enumerate(DESIGN.vms, 100)
    )
    return replace(
        NOTHING, devices=devices, rules=tuple(rules), chains=(ENTRANCE,), processes=processes
    )


def kinds(report: HostReport, uplink: str = UPLINK) -> list[HostKind]:
    return [found.kind for found in host_differences(DESIGN, RUNNING, uplink, report)]


def with_device(name: str, **fields: object) -> HostReport:
    report = healthy()
    changed = replace(report.devices[name], **fields)  # type: ignore[arg-type]
    return replace(report, devices={**report.devices, name: changed})


def test_a_host_as_vcloud_made_it_has_no_differences() -> None:
    assert kinds(healthy()) == []


@pytest.mark.parametrize(
    ("name", "fields", "kind"),
    [
        (BRIDGE, {"bridge": {**BRIDGE_FLAGS, "vlan_filtering": "1"}}, HostKind.FLAGS),
        (BRIDGE, {"bridge": {**BRIDGE_FLAGS, "nf_call_iptables": "1"}}, HostKind.FLAGS),
        (BRIDGE, {"master": "vrf1"}, HostKind.BRIDGE),
        (BRIDGE, {"up": False}, HostKind.BRIDGE),
        (BRIDGE, {"addresses": ("fe80::1/64",)}, HostKind.ADDRESS),
        (BRIDGE, {"queues": ("ingress ffff:",)}, HostKind.QUEUE),
        (WEB.tap, {"master": "ovs-system"}, HostKind.CARD),
        (WEB.tap, {"kind": "veth"}, HostKind.CARD),
        (WEB.tap, {"port": {"isolated": "true", "mab": "true"}}, HostKind.FLAGS),
        (WEB.tap, {"port": {"isolated": "true", "state": "disabled"}}, HostKind.FLAGS),
        (WEB.tap, {"addresses": ("2001:db8::1/64",)}, HostKind.ADDRESS),
    ],
)
def test_a_changed_device_is_named_alone(
    name: str, fields: Mapping[str, object], kind: HostKind
) -> None:
    assert kinds(with_device(name, **fields)) == [kind]


@pytest.mark.parametrize(
    ("device_name", "named"),
    [(BRIDGE, True), (WEB.tap, True), ("virbr0", False), ("vnet7", False)],
)
def test_what_sends_frames_of_other_devices_to_the_vapp_is_named(
    device_name: str, named: bool
) -> None:
    """Its twin sends them to a device of somebody else."""
    report = replace(healthy(), redirects=((device_name, "action mirred 1 of tc"),))
    found = host_differences(DESIGN, RUNNING, UPLINK, report)
    assert [(one.kind, one.device) for one in found] == [
        (HostKind.REDIRECT, device_name) for _ in range(named)
    ]
    for one in found:
        assert "gets frames of other devices of the host, by action mirred 1 of tc" in one.what
        assert "remove it as root on the host" in way_out(one, as_root=True)


@pytest.mark.parametrize("part", ["redirects", "forwards"])
def test_where_tc_or_nft_could_not_be_asked_nobody_says_that_nothing_is_sent(part: str) -> None:
    report = replace(healthy(), unseen=((part, "it is not installed"),))
    assert unseen_kinds(report) == {HostKind.REDIRECT: "it is not installed"}
    assert unseen_kinds(healthy()) == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"queues": ("noqueue 85df:",)},
        {"queues": ("fq_codel 0:", "mq 0:")},
        {"addresses": ("fe80::fc54:11ff:feaa:f1df/64",)},
    ],
)
def test_what_the_kernel_and_libvirt_do_by_themselves_is_no_difference(
    fields: Mapping[str, object],
) -> None:
    assert kinds(with_device(WEB.tap, **fields)) == []


@pytest.mark.parametrize(
    ("fields", "foreign"),
    [
        ({"devices": (("ibrname", BRIDGE),), "words": frozenset({BRIDGE})}, True),
        ({"devices": (("ibrname", "virbr0"),), "words": frozenset({"virbr0"})}, False),
        ({"devices": (("iifname", "vc*"),), "words": frozenset({"vc*"})}, True),
        ({"whole": False, "words": frozenset({"vmap"})}, True),
        ({"verdict": ""}, False),
    ],
)
def test_a_rule_is_foreign_if_it_could_handle_frames_of_the_vapp(
    fields: Mapping[str, object], foreign: bool
) -> None:
    report = healthy()
    added = rule("PREROUTING", **{"verdict": "accept", **fields})
    found = kinds(replace(report, rules=(added, *report.rules)))
    assert found == ([HostKind.RULE] if foreign else [])


def test_the_filter_of_another_address_or_at_another_hook_is_none() -> None:
    report = healthy()
    own, other = ("saddr", "!=", WEB.mac), ("saddr", "!=", "02:00:00:00:00:07")
    stolen = tuple(
        replace(item, frames=frozenset({other})) if own in item.frames else item
        for item in report.rules
    )
    assert stolen != report.rules
    assert kinds(replace(report, rules=stolen)) == [HostKind.FILTER]
    late = replace(ENTRANCE, hook="postrouting")
    assert HostKind.FILTER in kinds(replace(report, chains=(late,)))


def test_filters_that_this_release_cannot_read_are_not_called_broken() -> None:
    """Some libvirt keeps them in tables of its own, where no rule looks as one of ebtables does."""
    report = replace(
        healthy(), rules=(), chains=(Chain("libvirt_nwfilter_ethernet", "a", "prerouting", ""),)
    )
    assert kinds(report) == []
    assert set(unseen_kinds(report)) == {HostKind.FILTER, HostKind.RULE}


def test_the_place_of_the_uplinks_card_is_compared_only_where_it_is_known() -> None:
    assert kinds(healthy(), uplink="br1") == [HostKind.CARD]
    assert kinds(healthy(), uplink="") == []


def test_a_card_is_held_by_the_process_that_libvirt_knows() -> None:
    """A second QEMU that says it is the VM is none, where libvirt knows the number of the first."""
    report = healthy()
    web = next(item for item in report.processes if WEB.tap in item.taps)
    second = replace(web, pid=7)
    known = {web.name: web.pid}
    assert kinds(replace(report, machines=known)) == []
    assert kinds(replace(report, machines=known, processes=(second, *report.processes))) == [
        HostKind.PROCESS
    ]
    elsewhere = replace(second, here=False)
    assert kinds(replace(report, machines=known, processes=(*report.processes, elsewhere))) == []


def test_a_part_that_was_not_looked_at_has_no_differences_and_is_named() -> None:
    report = replace(NOTHING, unseen=(("devices", "ip is not installed"),))
    unseen = unseen_kinds(report)
    assert HostKind.CARD in unseen
    assert unseen[HostKind.CARD] == "ip is not installed"
    assert HostKind.CARD not in kinds(report)
