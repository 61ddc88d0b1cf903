"""Which claims are tested: all that is declared, and never something that is both declared and
expected to be denied.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.design_builder import UPLINK, build_design
from tests.unit.proof.samples import NOWHERE, SERVERS, WORLD, checks_of, leak_checks, probe_of
from tests.vapps import TWO_HOMES, design_of_text, shop
from vcloud.compile.ips.apps import app_rules
from vcloud.compile.ips.rules import SHIPPED
from vcloud.design.model import Design, FlowPath, Uplink
from vcloud.proof.checks import (
    HOST,
    Kind,
    Outcome,
)
from vcloud.proof.firewall_report import NOTHING
from vcloud.proof.inspection import inspection_checks, not_carried
from vcloud.proof.judge import judge
from vcloud.proof.network import left_out, network_checks
from vcloud.proof.nics import address_of
from vcloud.proof.observed import Observed
from vcloud.proof.ports import DANGEROUS
from vcloud.proof.world import NO_SERVER
from vcloud.values import INTERNET, Protocol

ZONES = ("red", "green", "blue")
TIERS = ("web", "api", "db", "log")
SERVICES = ("tcp/80", "tcp/22", "tcp/8000-8010", "udp/53", "udp/9000-9001", "icmp")


@st.composite
def designs(draw: st.DrawFn) -> Design:
    """Vapps of a few tiers in a few zones, one of them perhaps open, with any flows between any
    ends.
    """
    opened = draw(st.sampled_from((None, *ZONES)))
    zones = " ".join(f"{zone}:open" if zone == opened else zone for zone in ZONES)
    vms = {}
    for tier in draw(st.lists(st.sampled_from(TIERS), min_size=1, unique=True)):
        homes = draw(st.lists(st.sampled_from(ZONES), min_size=1, max_size=2, unique=True))
        vms[tier] = " ".join((*homes, *draw(st.sampled_from(((), ("x2",), ("x3",))))))
    rows = []
    for number in range(draw(st.integers(0, 4))):
        ends = draw(
            st.lists(
                st.sampled_from(("internet", *vms, *(f"zone:{zone}" for zone in ZONES))),
                min_size=2,
                max_size=2,
            )
        )
        if ends != ["internet", "internet"]:
            usable = SERVICES[:-1] if "internet" in ends else SERVICES
            services = draw(st.lists(st.sampled_from(usable), min_size=1, max_size=3, unique=True))
            rows.append(f"flow-{number}: {ends[0]} -> {ends[1]} {' '.join(services)}")
    return build_design(zones, vms, "\n".join(rows))


some_designs = settings(max_examples=30)(given(designs()))


def permitted(design: Design) -> dict[tuple[str, str, str], list[tuple[int, int]]]:
    """Protocol, source and target -> the port ranges that flows allow: by addresses alone, as a
    prober sees them.
    """
    found: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
    for flow in design.flows:
        for path, family, (number, service) in product(
            flow.paths, (4, 6), enumerate(flow.services)
        ):
            asked = flow.publish[number] if path.source is None else service
            source = str(address_of(path.source, family)) if path.source else "-"
            key = (str(service.protocol), source, str(target_of(path, family)))
            found.setdefault(key, []).append((asked.first, asked.last))
    return found


def target_of(path: FlowPath, family: int) -> object:
    if path.source is None:
        interface = UPLINK.address4 if family == 4 else UPLINK.address6
        return interface and interface.ip
    if path.target is None:
        return SERVERS[family]
    return address_of(path.target, family)


@some_designs
def test_nothing_that_a_flow_allows_is_expected_to_be_denied(design: Design) -> None:
    allowed = permitted(design)
    for check in checks_of(design):
        if check.kind in (Kind.FLOW, Kind.DENIED):
            probe = probe_of(check)
            ranges = allowed.get((str(probe.protocol), probe.source, str(probe.target)), [])
            assert any(first <= probe.port <= last for first, last in ranges) == check.passes, (
                check.claim
            )


@some_designs
def test_every_declared_flow_is_tried_on_every_path_in_both_families(design: Design) -> None:
    tried = [
        probe_of(check).target.version for check in checks_of(design) if check.kind is Kind.FLOW
    ]
    expected = sum(
        len(flow.paths)
        * len(
            {
                (service.protocol, port)
                for service in flow.services
                for port in (service.first, service.last)
            }
        )
        for flow in design.flows
    )
    assert (tried.count(4), tried.count(6)) == (expected, expected)


@some_designs
def test_every_pair_of_tiers_is_tried_for_what_nobody_declared(design: Design) -> None:
    """But two tiers that share an open zone: they meet there, past the firewall, and nothing is
    promised.
    """
    denied = {
        (check.vantage, check.listener.vm)
        for check in checks_of(design)
        if check.kind is Kind.DENIED and check.listener
    }
    for one, other in permutations({vm.tier: vm for vm in reversed(design.workloads)}.values(), 2):
        shared = {nic.zone for nic in one.nics} & {nic.zone for nic in other.nics}
        if not any(design.zone(zone).open for zone in shared):
            assert (one.name, other.name) in denied


@some_designs
def test_replicas_of_a_tier_are_tried_among_each_other(design: Design) -> None:
    denied = {
        (check.vantage, check.listener.vm)
        for check in checks_of(design)
        if check.kind is Kind.DENIED and check.listener
    }
    for vm in design.workloads:
        if vm.name == f"{vm.tier}-1" and not any(design.zone(nic.zone).open for nic in vm.nics):
            assert (vm.name, f"{vm.tier}-2") in denied


@some_designs
def test_no_two_checks_share_an_id(design: Design) -> None:
    ids = [check.id for check in checks_of(design)]
    assert len(set(ids)) == len(ids)


@some_designs
def test_every_denied_service_has_a_listener_that_must_answer(design: Design) -> None:
    """Silence from a port where nobody listens would prove nothing."""
    for check in checks_of(design):
        if (
            check.kind is Kind.DENIED
            and check.vantage != INTERNET
            and check.proves != "ctl:not-internet"
            and probe_of(check).target not in SERVERS.values()
        ):
            assert (check.listener is None) == (probe_of(check).protocol == Protocol.ICMP)
            if check.listener:
                assert (check.listener.address, check.listener.port) == (
                    str(probe_of(check).target),
                    probe_of(check).port,
                )


def test_the_same_seed_tries_the_same_ports_and_another_one_others() -> None:
    assert checks_of(shop(), seed=3) == checks_of(shop(), seed=3)
    one, other = (
        {probe_of(check).port for check in checks_of(shop(), seed=seed)} for seed in (1, 2)
    )
    assert one - other
    assert other - one


def test_ports_that_attackers_like_are_tried_from_everywhere() -> None:
    design = shop()
    for vantage in (*(vm.name for vm in design.workloads), INTERNET):
        ports = {
            probe_of(check).port
            for check in checks_of(design)
            if check.vantage == vantage and check.kind is Kind.DENIED
        }
        assert set(DANGEROUS) <= ports


def test_every_vm_is_tried_from_the_host_and_as_somebody_else() -> None:
    checks = checks_of(shop())
    for kind, vantages in (
        (Kind.HOST, {HOST}),
        (Kind.SPOOFED, {"web-1", "api", "db", INTERNET}),
    ):
        members = [check for check in checks if check.kind is kind]
        assert {check.vantage for check in members} == vantages
        assert {probe_of(check).target.version for check in members} == {4, 6}
        assert len({check.id for check in members if not check.about}) == 12


IPV4_ONLY = replace(UPLINK, address6=None, gateway6=None)


def test_an_uplink_without_ipv6_is_not_tried_over_it_and_that_is_said() -> None:
    checks = network_checks(shop(), IPV4_ONLY, WORLD, 1)
    assert {probe_of(check).target.version for check in checks if check.vantage == INTERNET} == {4}
    assert SERVERS[6] not in {probe_of(check).target for check in checks}
    assert "IPv6" in left_out(shop(), IPV4_ONLY)


@some_designs
def test_where_nothing_outside_answers_no_flow_is_tried_there_and_each_says_why(
    design: Design,
) -> None:
    """The same claims as elsewhere: none is left out in silence. What must not leave would end at
    the uplink's gateway.
    """
    checks = checks_of(design, NOWHERE)
    assert [check.id for check in checks] == [check.id for check in checks_of(design)]
    for check, elsewhere in zip(checks, checks_of(design), strict=True):
        outside = probe_of(elsewhere).target in SERVERS.values()
        if outside and check.kind is Kind.DENIED:
            assert probe_of(check).target in (UPLINK.gateway4, UPLINK.gateway6)
            assert check == replace(elsewhere, probe=check.probe)
        elif outside and check.kind is Kind.SPOOFED and check.probe:
            # A forged error can also be about a connection that needs no server outside.
            assert check.probe.target not in SERVERS.values()
        elif outside:
            verdict = judge(check, Observed({}, {}, NOTHING, NOTHING))
            assert (check.probe, verdict.outcome, verdict.detail) == (
                None,
                Outcome.NOT_RUN,
                NO_SERVER,
            )
        else:
            assert check == elsewhere


@pytest.mark.parametrize(
    ("count", "said"), [(2, ""), (3, "4 of 6 ordered pairs"), (4, "10 of 12 ordered pairs")]
)
def test_what_further_replicas_are_not_tried_for_is_counted(count: int, said: str) -> None:
    design = build_design("red", {"web": f"red x{count}"})
    tried = {
        (check.vantage, check.listener.vm)
        for check in checks_of(design)
        if check.kind is Kind.DENIED and check.listener
    }
    assert len(tried) == 2
    assert left_out(design, UPLINK).startswith(said)
    assert bool(left_out(design, UPLINK)) == bool(said)


@pytest.mark.parametrize("uplink", [UPLINK, IPV4_ONLY], ids=["both", "IPv4 only"])
def test_every_rule_and_detector_is_tried_over_what_the_uplink_speaks(uplink: Uplink) -> None:
    """A rule takes IPv4 or IPv6 by turns; where its flow comes from an outside without IPv6, it
    must not vanish.
    """
    checks = inspection_checks(shop(), uplink, WORLD)
    assert {check.rules for check in checks if check.probe} == {
        check.rules for check in inspection_checks(shop(), UPLINK, WORLD) if check.probe
    }
    outside = {
        probe_of(check).target.version
        for check in checks
        if check.probe and check.vantage == INTERNET
    }
    assert outside <= ({4, 6} if uplink.address6 else {4})


def test_a_published_range_is_tried_at_its_published_ends() -> None:
    checks = checks_of(design_of_text(TWO_HOMES))
    ports = {
        (check.vantage, probe_of(check).port, check.listener and check.listener.port)
        for check in checks
        if check.flow == "visits"
    }
    assert ports == {(INTERNET, 8080, 80), (INTERNET, 9100, 9000), (INTERNET, 9102, 9002)}


def test_a_payload_for_a_published_port_names_each_vm_that_the_firewall_may_choose() -> None:
    design = design_of_text("""\
vcloud: 1
name: farm
zones: {front: {}}
vms: {web: {image: nginx, zone: front, count: 3}}
flows: [{id: visits, from: internet, to: web, service: tcp/80, publish: 80}]
protection: {ips: {inspect: [front]}}
""")
    nics = [vm.nics[0] for vm in design.workloads]
    ends = {4: {str(nic.address4) for nic in nics}, 6: {str(nic.address6) for nic in nics}}
    checks = [check for check in inspection_checks(design, UPLINK, WORLD) if check.probe]
    assert {probe_of(check).target.version for check in checks} == {4, 6}
    assert all(set(check.published) == ends[probe_of(check).target.version] for check in checks)


def test_each_detector_has_a_payload_and_a_near_miss_in_both_families() -> None:
    checks = leak_checks(shop())
    for check in checks:
        (twin,) = (
            other
            for other in checks
            if other.rules == check.rules
            and other.passes != check.passes
            and probe_of(other).target == probe_of(check).target
        )
        assert probe_of(twin).payload != probe_of(check).payload
        assert check.twin == ("" if check.passes else twin.id)
        assert check.blocked == ("card" in check.claim)
    whole = [check for check in checks if "(" not in check.claim]
    assert len(whole) == 2 * 2 * 2


def test_a_leak_is_never_sent_on_a_flow_that_is_excepted() -> None:
    checks = inspection_checks(shop(), UPLINK, WORLD)
    assert not [
        check
        for check in checks
        if check.kind is Kind.LEAK and "card" in check.claim and check.flow == "acquirer"
    ]


def test_a_rule_of_the_ips_is_tried_both_ways_or_says_why_not() -> None:
    checks = [check for check in inspection_checks(shop(), UPLINK, WORLD) if check.kind is Kind.IPS]
    apps = {sid for held in app_rules(shop()).checks for sid in held.sids}
    assert {check.id.split("/")[1] for check in checks} <= apps | {
        str(shipped.rule.sid) for shipped in SHIPPED
    }
    assert len([check for check in checks if check.probe]) > 10
    for check in checks:
        assert (check.probe is None) == bool(check.reason)
        assert check.probe is None or {
            other.passes for other in checks if other.rules == check.rules
        } == {True, False}


def test_without_an_ips_it_is_not_asked() -> None:
    assert inspection_checks(build_design("dmz", {"web": "dmz"}), UPLINK, WORLD) == ()


@pytest.mark.parametrize("mode", ["prevent", "detect"])
def test_a_rule_that_only_detects_must_let_its_payload_pass(mode: str) -> None:
    design = design_of_text(
        f"{TWO_HOMES.partition('protection:')[0]}protection: {{ips: {{inspect: front, mode: {mode}}}}}\n"
    )
    blocked = {check.blocked for check in inspection_checks(design, UPLINK, WORLD) if check.probe}
    assert blocked == {mode == "prevent"}


def test_what_neighbours_in_an_open_zone_say_to_each_other_is_not_tried_and_that_is_said() -> None:
    """It passes the IPS by. The twin is the same flow between zones."""
    document = """\
vcloud: 1
name: lan
zones: {lan: {open: true}, app: {}}
vms: {a: {image: base, zone: lan}, b: {image: base, zone: lan}, c: {image: base, zone: app}}
flows: [{id: serve, from: a, to: TARGET, service: tcp/80}]
protection: {ips: {inspect: lan}}
"""
    past, across = (design_of_text(document.replace("TARGET", target)) for target in "bc")
    assert not inspection_checks(past, UPLINK, WORLD)
    assert inspection_checks(across, UPLINK, WORLD)
    assert "open zone" in left_out(past, UPLINK)
    assert f"{len(SHIPPED)} of {len(SHIPPED)} IPS rules" in not_carried(past)
    assert f"{len(SHIPPED)} of" not in not_carried(across)


@pytest.mark.parametrize(("services", "tried"), [("tcp/440-450", True), ("tcp/444-450", False)])
def test_of_a_range_of_ports_outwards_443_is_tried_with_tls(services: str, tried: bool) -> None:
    design = design_of_text(f"""\
vcloud: 1
name: out
zones: {{app: {{}}}}
vms: {{a: {{image: base, zone: app}}}}
flows: [{{id: out, from: a, to: internet, service: {services}}}]
protection: {{ips: {{inspect: app}}}}
""")
    ports = [
        probe_of(check).port
        for check in inspection_checks(design, UPLINK, WORLD)
        if check.proves == "flow:out"
    ]
    assert ports == ([443, 443] if tried else [])


@pytest.mark.parametrize(("port", "tried"), [(8443, False), (8444, True)])
def test_a_detector_is_not_tried_where_an_exception_lets_the_same_packets_pass(
    port: int, tried: bool
) -> None:
    design = design_of_text(f"""\
vcloud: 1
name: out
zones: {{app: {{}}}}
vms: {{a: {{image: base, zone: app}}}}
flows:
  - {{id: backup, from: "zone:app", to: internet, service: tcp/{port}}}
  - {{id: acquirer, from: a, to: internet, service: tcp/8443}}
protection: {{dlp: [{{detect: card-number, leaving: app, except: acquirer, action: block}}]}}
""")
    assert (
        any(
            check.probe
            for check in inspection_checks(design, UPLINK, WORLD)
            if check.kind is Kind.LEAK
        )
        is tried
    )
