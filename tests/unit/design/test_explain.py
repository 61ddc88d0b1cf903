"""Why a packet passes or not."""

from __future__ import annotations

from itertools import permutations

import pytest

from tests.cards import cards, design
from tests.vapps import TWO_HOMES, design_of_text, shop
from vcloud.design.explain import explain
from vcloud.design.model import Design
from vcloud.errors import UsageError
from vcloud.proof.ports import allowed
from vcloud.spec.types import parse_service
from vcloud.values import Protocol, Service


def said(made: Design, source: str, service: str, target: str) -> list[str]:
    return [one.text for one in explain(made, source, parse_service(service), target)]


def test_a_flow_that_lets_pass_is_named_with_its_line_and_its_reason() -> None:
    (answer,) = explain(shop(), "web", parse_service("tcp/8000"), "api")
    assert answer.passes
    assert answer.decides == "flow:orders"
    assert answer.origin.startswith("vapp.yaml:")
    assert answer.why == "the order API"
    assert any("the connection must begin as http" in one for one in answer.inspected)
    assert any("card-number-leaving-app-cde blocks" in one for one in answer.inspected)


def test_what_no_flow_allows_is_dropped_by_the_firewalls_own_rule() -> None:
    (text,) = said(shop(), "web", "tcp/443", "internet")
    assert (
        text
        == "web-1 -> internet tcp/443 is dropped by ctl:default-deny (vcloud): no flow allows it"
    )


def test_from_outside_the_service_is_the_published_port() -> None:
    assert "passes by flow:checkout" in said(shop(), "internet", "tcp/8080", "web")[0]
    assert "is dropped" in said(shop(), "internet", "tcp/80", "web")[0]


def test_an_exception_of_a_detector_is_told() -> None:
    (answer,) = explain(shop(), "api", parse_service("tcp/443"), "internet")
    assert any("card-number-leaving-app-cde excepts this flow" in one for one in answer.inspected)


def test_what_a_control_added_is_told_with_its_version() -> None:
    (answer,) = explain(design(cards()), "web", parse_service("tcp/8000"), "api")
    assert "detector pci-dss-1-3-2 blocks what it finds (pci-dss@4.0.1 1.3.2)" in answer.inspected
    assert "pci-dss@4.0.1 1.2.5" in answer.controls


def test_addresses_outside_pass_where_a_flow_names_all_of_them() -> None:
    text = """\
vcloud: 1
name: s
zones: {a: {}}
vms: {web: {image: nginx, zone: a}}
flows:
  - {id: lan, from: web, to: 192.168.7.0/24, service: tcp/22}
  - {id: out, from: web, to: internet, service: tcp/443}
"""
    made = design_of_text(text)
    assert "flow:lan" in said(made, "web", "tcp/22", "192.168.7.9")[0]
    assert "is dropped" in said(made, "web", "tcp/22", "192.168.0.0/16")[0]
    assert "flow:out" in said(made, "web", "tcp/443", "203.0.113.7")[0]
    assert "flow:out" in said(made, "web", "tcp/443", "2001:db8::/48")[0]
    assert "is dropped" in said(made, "web", "tcp/443", "8.0.0.0/5")[0]
    assert "is dropped" in said(made, "web", "tcp/443", "10.0.0.1")[0]


def test_it_says_of_each_pair_of_vms_what_the_flows_allow() -> None:
    made = design_of_text(TWO_HOMES)
    services = [
        parse_service(text) for text in ("tcp/5432", "udp/53", "icmp", "tcp/9001", "tcp/22")
    ]
    for one, other in permutations(made.workloads, 2):
        flows = {
            service
            for here in one.nics
            for there in other.nics
            for service in allowed(made, here, there)
        }
        neighbours = any(made.are_neighbours(a, b) for a in one.nics for b in other.nics)
        for service in services:
            (answer,) = explain(made, one.name, service, other.name)
            assert answer.passes == (neighbours or any(covers(flow, service) for flow in flows))


def covers(flow: Service, service: Service) -> bool:
    same = flow.protocol is service.protocol
    return same and (
        service.protocol is Protocol.ICMP
        or (flow.first <= service.first and service.last <= flow.last)
    )


@pytest.mark.parametrize(
    ("source", "target", "wrong"),
    [
        ("webb", "api", "no VM or zone 'webb'"),
        ("internet", "10.0.0.0/8", "both ends are outside"),
        ("db", "db", "is one VM"),
        ("web", "1.2.3.4/99", "is no prefix"),
    ],
)
def test_an_end_that_means_nothing_is_a_mistake(source: str, target: str, wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong):
        explain(shop(), source, parse_service("tcp/80"), target)
