"""What the ids in events of the firewall and the IPS mean, from the file alone."""

from __future__ import annotations

import re

import pytest

from tests.cards import cards, design
from tests.vapps import shop
from vcloud.compile.artifacts import compile_vapp
from vcloud.compile.ips.apps import app_rules
from vcloud.compile.ips.files import ips_files
from vcloud.compile.leaks.rules import rule_sids
from vcloud.compile.leaks.undecoded import undecoded_sids
from vcloud.design.model import Design
from vcloud.errors import UsageError
from vcloud.views.event_origin import OF_EVERY_VAPP, origin_of_event
from vcloud.views.render import UPLINK

CARDS = design(cards("4.0.1"))


def test_each_rule_of_the_ips_is_known_by_its_sid() -> None:
    lines = [
        line
        for name, text in ips_files(CARDS).items()
        if name.endswith(".rules")
        for line in text.decode().splitlines()
    ]
    # Rules that only mark a connection cause no event.
    sids = [
        sid
        for line in lines
        if "noalert;" not in line
        for sid in re.findall(r"\bsid:([0-9]+);", line)
    ]
    assert len(sids) > 50
    for sid in sids:
        found = origin_of_event(CARDS, sid)
        assert found.id == f"rule:{sid}"
        assert found == origin_of_event(CARDS, f"rule:{sid}")


@pytest.mark.parametrize("made", [CARDS, shop()], ids=["cards", "shop"])
def test_each_comment_of_an_nft_rule_is_known(made: Design) -> None:
    ruleset = compile_vapp(made, UPLINK).firewall
    named = {*re.findall(r'comment "((?:ctl|flow):[^"]+)"', str(ruleset))}
    assert len(named) > 15
    for one in named:
        assert origin_of_event(made, one).id == one


def test_a_rule_of_a_detector_that_a_control_adds_comes_from_that_control() -> None:
    for sids in (rule_sids, undecoded_sids):
        sid = next(iter(sids(CARDS.inspection.detectors).values()))
        found = origin_of_event(CARDS, str(sid))
        assert found.origin == "pci-dss@4.0.1 1.3.2"
        assert "pci-dss@4.0.1 1.3.2" in found.controls
        assert "pci-dss-1-3-2" in found.means


def test_a_rule_on_what_a_flow_carries_comes_from_the_line_of_the_flow() -> None:
    sid = next(sid for sid, flow in app_rules(CARDS).flows if flow == "orders")
    found = origin_of_event(CARDS, sid)
    assert (found.origin, found.id) == ("vapp.yaml:13", f"rule:{sid}")
    flow = origin_of_event(CARDS, "flow:orders")
    assert (flow.origin, flow.why) == ("vapp.yaml:13", "the order API")
    assert origin_of_event(CARDS, "orders") == flow


def test_a_control_is_known_by_its_stable_id() -> None:
    found = origin_of_event(CARDS, "pci-dss-1-4-4")
    assert (found.origin, found.means) == ("pci-dss@4.0.1 1.4.4", "a control that is enforced")


@pytest.mark.parametrize(
    "text", ["1500001", "rule:1500001", "ctl:nothing", "flow:none", "", "9" * 100, "\x1b[2J", "٣"]
)
def test_what_a_vapp_does_not_have_is_an_error(text: str) -> None:
    """This one has no IPS. The twin: with one, the rule is known."""
    plain = design(cards().partition("protection:")[0].replace(", app: http", ""))
    with pytest.raises(UsageError) as raised:
        origin_of_event(plain, text)
    assert raised.value.what.isprintable()
    assert origin_of_event(plain, "ctl:antispoof").means == OF_EVERY_VAPP["antispoof"]
    assert origin_of_event(CARDS, "1500001").origin.startswith("pci-dss@4.0.1 ")
