"""From where and to where probes go: places that detectors search, test servers outside, forged
senders.
"""

from __future__ import annotations

import re
from itertools import permutations, product

import pytest

from tests.design_builder import UPLINK
from tests.unit.proof.samples import SERVERS, checks_of, leak_checks, probe_of
from tests.vapps import design_of_text, shop
from vcloud.design.model import Design
from vcloud.proof.checks import FRAME, Kind, Outcome
from vcloud.proof.firewall_report import NOTHING
from vcloud.proof.inspection import inspection_checks
from vcloud.proof.judge import judge
from vcloud.proof.nics import address_of, sampled_nics
from vcloud.proof.observed import Observed
from vcloud.proof.world import NO_SERVER, OTHER_SERVER, Server, World
from vcloud.values import INTERNET, Protocol, Service


@pytest.mark.parametrize(
    ("service", "places"),
    [
        (
            "tcp/80",
            {
                "http-target",
                "http-request-body",
                "http-request-header",
                "http-request-cookie",
                "http2-body",
            },
        ),
        ("udp/53", {"udp", "dns-name"}),
        ("udp/54", {"udp"}),
        ("tcp/443", set()),
    ],
)
def test_each_place_that_a_client_can_fill_is_tried(service: str, places: set[str]) -> None:
    """Port 443 of the outside takes nothing but TLS."""
    checks = leak_checks(
        design_of_text(f"""\
vcloud: 1
name: out
zones: {{app: {{}}}}
vms: {{a: {{image: base, zone: app}}}}
flows: [{{id: out, from: a, to: internet, service: {service}}}]
protection: {{dlp: [{{detect: card-number, leaving: app, action: block}}]}}
""")
    )
    named = {check.claim.partition("(")[2].partition(")")[0] for check in checks}
    assert named - {""} == places
    for check in checks:
        assert (
            check.probe is None
            or b"4111111111111111" not in probe_of(check).payload
            or ("(" not in check.claim or "udp" in check.claim or "dns-name" in check.claim)
        )


@pytest.mark.parametrize(
    ("servers", "outcomes"),
    [
        ((), {Outcome.NOT_RUN}),
        ((Server(SERVERS[4]), Server(SERVERS[6])), set()),
        ((Server(SERVERS[4]),), {Outcome.NOT_TRIED}),
        ((Server(SERVERS[4], (Service(Protocol.TCP, 80, 80),)),), {Outcome.NOT_TRIED}),
        ((Server(SERVERS[6], (Service(Protocol.UDP, 80, 80),)),), {Outcome.NOT_TRIED}),
    ],
    ids=["no server", "both", "IPv4 only", "one port", "no port that counts"],
)
def test_what_no_test_server_can_answer_is_an_error_only_as_long_as_none_is_named(
    servers: tuple[Server, ...], outcomes: set[Outcome]
) -> None:
    world = World(servers)
    checks = (*checks_of(shop(), world), *inspection_checks(shop(), UPLINK, world))
    unsent = [check for check in checks if check.probe is None]
    judged = [judge(check, Observed({}, {}, NOTHING, NOTHING)) for check in unsent]
    assert {verdict.outcome for verdict in judged} == outcomes
    assert {check.reason for check in unsent} == (
        {NO_SERVER} if not servers else {OTHER_SERVER} if unsent else set()
    )
    for check in checks:
        if check.kind is Kind.FLOW and check.probe and probe_of(check).target in SERVERS.values():
            server = next(item for item in servers if item.address == probe_of(check).target)
            assert server.answers(Protocol(probe_of(check).protocol), probe_of(check).port)


def test_a_frame_with_another_mac_address_differs_from_its_twin_in_nothing_but_its_senders() -> (
    None
):
    frames_of = (check for check in checks_of(shop()) if probe_of(check).protocol == FRAME)
    checks = {check.id: check for check in frames_of if not check.about}
    taken = {nic.address4 for vm in shop().workloads for nic in vm.nics}
    for vm in shop().workloads:
        own, other = (checks.pop(f"spoofed/{vm.name}/{name}/4") for name in ("own-mac", "mac"))
        assert (other.twin, other.beside, own.beside) == (own.id, own.source, None)
        assert other.source != own.source
        assert not taken & {own.source, other.source}
        frames = [probe_of(check).payload for check in (own, other)]
        assert {frame[:6].hex(":") for frame in frames} == {
            shop().zone(vm.nics[0].zone).gateway.mac
        }
        assert [frame[6:12].hex(":") == vm.nics[0].mac for frame in frames] == [True, False]
        assert {frame[12:24] for frame in frames} == {frames[0][12:24]}
        assert {frame[30:] for frame in frames} == {frames[0][30:]}
    assert checks == {}


MANY_NICS = """\
vcloud: 1
name: relay
zones: {front: {}, back: {}, lab: {open: true}}
vms:
  gate: {image: base, zone: [front, back, lab]}
  store: {image: base, zone: [back, lab]}
  bench: {image: base, zone: lab}
flows:
  - {id: reads, from: bench, to: gate, service: tcp/5432}
  - {id: asks, from: zone:front, to: store, service: tcp/80}
  - {id: fetches, from: gate, to: internet, service: tcp/443}
"""


def _tried_from(design: Design) -> dict[str, set[str]]:
    """Kind of check and version of IP -> the keys of the NICs from which the VMs send its probes, or
    to which the host does.
    """
    keys = {
        str(address_of(one.nic, family)): one.key
        for one in sampled_nics(design)
        for family in (4, 6)
    }
    keys |= {one.nic.mac: one.key for one in sampled_nics(design)}
    keys |= {
        design.zone(one.nic.zone).gateway.ifname + one.vm.name: one.key
        for one in sampled_nics(design)
    }
    found: dict[str, set[str]] = {}
    for check in checks_of(design):
        if check.kind is Kind.FLOW or check.vantage == INTERNET or check.probe is None:
            continue
        probe = check.probe
        near = str(probe.target) if check.kind is Kind.HOST else probe.source
        key = keys.get(probe.card) or keys.get(check.nic + check.vantage) or keys[near]
        what = check.id.partition("/")[0] + str(probe.target.version)
        assert f"{key}/" in check.id
        found.setdefault(what, set()).add(key)
    return found


def test_a_vm_with_several_nics_is_tried_from_each_of_them_and_the_host_tries_each() -> None:
    """The twin has one NIC in each VM: its ids name no zone."""
    several = {"gate:front", "gate:back", "gate:lab", "store:back", "store:lab", "bench"}
    # `gate` is an end of every connection that passes the firewall, except those to `store`.
    errors = several - {"gate:front", "gate:back", "gate:lab"}
    for text, keys, forging in (
        (MANY_NICS, several, errors),
        (re.sub(r"\[(front|lab|back), .*\]", r"\1", MANY_NICS), {"gate", "store", "bench"}, errors),
    ):
        vms = {key.partition(":")[0] for key in forging}
        errors_of = {key for key in keys if key.partition(":")[0] in vms}
        assert _tried_from(design_of_text(text)) == {
            f"{what}{family}": errors_of if what == "forged-error" else keys
            for what in ("denied", "spoofed", "host", "forged-error")
            for family in (4, 6)
        }


def test_packets_between_two_vms_are_tried_between_each_two_of_their_nics() -> None:
    """But not between NICs in one open zone, which are neighbours."""
    design = design_of_text(MANY_NICS)
    tried = {
        (probe_of(check).source, str(probe_of(check).target))
        for check in checks_of(design)
        if check.kind is Kind.DENIED and check.listener
    }
    pairs = permutations(sampled_nics(design), 2)
    assert tried == {
        (str(address_of(one.nic, family)), str(address_of(other.nic, family)))
        for (one, other), family in product(pairs, (4, 6))
        if one.vm != other.vm and not one.nic.zone == other.nic.zone == "lab"
    }
