"""What changes only the firewall's rules is loaded live, and the plan says what it is."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest

from tests.standing import manifest_of, standing
from tests.vapps import design_of_text
from vcloud.plan.diff import plan_changes
from vcloud.plan.manifest import Manifest
from vcloud.plan.steps import Verb

TEXT = """\
vcloud: 1
name: shop
zones: {dmz: {}}
vms:
  web: {image: nginx, zone: dmz}
flows:
  - {id: lan, from: web, to: 192.168.7.0/24, service: tcp/80}
"""


def steps(wanted: Manifest) -> list[tuple[Verb, str]]:
    found = plan_changes(wanted, standing(design_of_text(TEXT)), "h1").steps
    return [(step.verb, step.why) for step in found]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("dmz: {}", "dmz: {denied: reject}", "denied in zone dmz: drop -> reject"),
        ("192.168.7.0/24", "192.168.8.0/24", "changes lan"),
        ("tcp/80", "all", "changes lan"),
    ],
)
def test_a_change_of_rules_is_loaded_live_and_named(old: str, new: str, said: str) -> None:
    wanted = manifest_of(design_of_text(TEXT.replace(old, new)))
    ((verb, why),) = steps(wanted)
    assert verb is Verb.LOAD_FIREWALL
    assert said in why


def test_a_host_in_other_networks_gets_its_rules_anew_and_restarts_nothing() -> None:
    same = manifest_of(design_of_text(TEXT))
    assert steps(same) == []
    elsewhere = replace(same.uplink, beside=(ip_network("198.51.100.0/24"),))
    ((verb, why),) = steps(replace(same, uplink=elsewhere, firewall="another"))
    assert verb is Verb.LOAD_FIREWALL
    assert why.endswith("the host's own networks changed, and they are not part of internet")
