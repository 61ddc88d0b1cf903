"""A change of what a flow carries is a live change of the IPS's rules, and the plan says it."""

from __future__ import annotations

import pytest

from tests.standing import manifest_of, standing
from tests.vapps import design_of_text
from vcloud.plan.diff import plan_changes
from vcloud.plan.steps import Verb

TEXT = """\
vcloud: 1
name: shop
zones: {dmz: {}}
vms:
  web: {image: nginx, zone: dmz}
flows:
  - {id: visits, from: internet, to: web, service: tcp/80}
  - {id: tools, from: web, to: internet, service: tcp/8000, app: other}
protection: {ips: {inspect: dmz}}
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("app: other", "app: http", "tools carries http"),
        ("service: tcp/80}", "service: tcp/80, app: other}", "visits carries other"),
    ],
)
def test_another_app_of_a_flow_loads_the_rules_of_the_ips_and_nothing_else(
    old: str, new: str, said: str
) -> None:
    state = standing(design_of_text(TEXT))
    steps = plan_changes(manifest_of(design_of_text(TEXT.replace(old, new))), state, "h1").steps
    assert [(step.verb, step.why) for step in steps] == [(Verb.LOAD_IPS, said)]


def test_the_app_that_the_port_says_may_be_written_without_a_change() -> None:
    state = standing(design_of_text(TEXT))
    written = TEXT.replace("service: tcp/80}", "service: tcp/80, app: http}")
    steps = plan_changes(manifest_of(design_of_text(written)), state, "h1").steps
    assert not steps
