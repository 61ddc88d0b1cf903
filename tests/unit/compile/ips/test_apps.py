"""How connections begin, as patterns, and the rules that flows get."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.design_builder import build_design
from vcloud.compile.ips.apps import app_rules
from vcloud.compile.ips.openings import CLIENT, SERVER, Opening
from vcloud.design.model import Design
from vcloud.values import App

SIDES = [
    *(pytest.param(opening, id=f"{app}-client") for app, opening in CLIENT.items()),
    *(pytest.param(opening, id=f"{app}-server") for app, opening in SERVER.items()),
]


def matches(pattern: str, data: bytes) -> bool:
    return bool(re.search(pattern.replace(r"\z", r"\Z").encode(), data, re.DOTALL))


@pytest.mark.parametrize("opening", SIDES)
@given(data=st.binary(max_size=80))
def test_a_beginning_is_never_both_whole_and_wrong_and_a_long_one_is_either(
    opening: Opening, data: bytes
) -> None:
    whole, wrong = matches(opening.whole, data), matches(opening.wrong, data)
    assert not (whole and wrong)
    if len(data) > opening.longest:
        assert whole or wrong


@pytest.mark.parametrize("app", CLIENT)
def test_a_beginning_that_passes_is_never_wrong_on_its_way(app: App) -> None:
    payload = next(held.payload for held in app_rules(every()).checks if held.app is app)
    for size in range(1, len(payload.passed) + 1):
        assert not matches(CLIENT[app].wrong, payload.passed[:size])
    assert any(
        matches(CLIENT[app].wrong, payload.stopped[:size])
        for size in range(1, len(payload.stopped) + 1)
    )


def every() -> Design:
    ports = "tcp/21 tcp/22 tcp/25 tcp/53 tcp/80 tcp/443 tcp/3306 tcp/5432 tcp/6379"
    return flows_of(f"all: internet -> web {ports}")


def flows_of(flows: str, zones: str = "dmz:inspected app") -> Design:
    return build_design(zones=zones, vms={"web": "dmz x2", "api": "app"}, flows=flows)


@pytest.mark.parametrize(
    ("flow", "held"),
    [
        ("f: internet -> web tcp/80", [App.HTTP]),
        ("f: internet -> web tcp/8080", []),
        ("f: web -> internet tcp/1-65535", [App.TLS]),
        ("f: internet -> web tcp/1-65535", []),
        ("f: web -> api udp/53 icmp", []),
        ("f: web -> api tcp/53 udp/53", [App.DNS]),
    ],
)
def test_a_port_says_what_it_carries_and_a_range_or_a_datagram_does_not(
    flow: str, held: list[App]
) -> None:
    assert [check.app for check in app_rules(flows_of(flow)).checks] == held


def test_a_flow_that_does_not_cross_the_ips_has_no_rule() -> None:
    flow = "f: internet -> api tcp/80"
    assert app_rules(flows_of(flow)).lines == ()
    assert app_rules(flows_of(flow, "dmz app:inspected")).lines


def test_flows_come_and_go_without_changing_the_sids_of_others() -> None:
    one, other = "f: internet -> web tcp/80", "g: web -> api tcp/5432"
    alone = {line for line in app_rules(flows_of(one)).lines if " flow f" in line}
    both = {line for line in app_rules(flows_of(f"{other}\n{one}")).lines if " flow f" in line}
    assert alone == both


def test_no_line_is_longer_than_suricata_takes() -> None:
    design = build_design(
        zones="dmz:inspected app:inspected",
        vms={"web": "dmz x200", "api": "app x200"},
        flows="f: web -> api tcp/5432 tcp/80",
    )
    assert max(map(len, app_rules(design).lines)) < 8192
