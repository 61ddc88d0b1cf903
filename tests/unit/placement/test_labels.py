"""Rules of placement: which hosts a vApp may run on, by their names, labels and facts."""

from __future__ import annotations

import pytest

from tests.vapps import design_of_text
from vcloud.design.model import Design
from vcloud.errors import Exit, RefusedError
from vcloud.placement.labels import HostLabels, broken_rules, preferred, refuse_rules

EU = HostLabels("h1", {"site": "eu", "rack": "a", "smt": "off"})
US = HostLabels("h2", {"site": "us", "rack": "b", "smt": "on"})
BARE = HostLabels("h3", {})

TEXT = """\
vcloud: 1
name: app
zones: {{dmz: {{}}}}
vms: {{web: {{image: base, zone: dmz}}}}
placement:
  {}
"""


def design(placement: str) -> Design:
    return design_of_text(TEXT.format(placement))


def refusal(placement: str, host: HostLabels, *, stands: bool = False) -> str:
    with pytest.raises(RefusedError) as refused:
        refuse_rules(design(placement), host, stands=stands)
    assert refused.value.exit is Exit.REFUSED
    return str(refused.value)


@pytest.mark.parametrize(
    ("placement", "hosts"),
    [
        ("require: {site: eu}", "h1"),
        ("require: {site: [eu, us]}", "h1 h2"),
        ('require: {site: eu, smt: "off"}', "h1"),
        ("require: {site: eu, rack: b}", ""),
        ("forbid: {rack: a}", "h2 h3"),
        ("forbid: {rack: [a, b]}", "h3"),
        ("hosts: h2", "h2"),
        ("hosts: [h1, h3]", "h1 h3"),
        ("{hosts: [h1, h2], forbid: {site: us}}", "h1"),
        ("prefer: {site: eu}", "h1 h2 h3"),
        ("strategy: pack", "h1 h2 h3"),
    ],
)
def test_only_hosts_that_meet_every_rule_are_hosts_for_the_vapp(placement: str, hosts: str) -> None:
    rules = design(placement).placement
    found = [host.host for host in (EU, US, BARE) if not [*broken_rules(rules, host)]]
    assert found == hosts.split()


def test_a_refusal_names_the_line_the_rule_and_what_the_host_has() -> None:
    said = refusal("require: {site: eu}", US)
    assert "vapp.yaml:6: placement.require.site: h2 has site=us, and site must be eu" in said
    assert "labels: {site: eu}" in said
    assert "h3 has no label 'site'" in refusal("require: {site: eu}", BARE)
    assert "h1 has rack=a, which the vApp forbids" in refusal("forbid: {rack: [b, a]}", EU)
    assert "placement.hosts: h1 is not one of h2, h3" in refusal("hosts: [h2, h3]", EU)


def test_all_rules_that_a_host_breaks_are_told_at_once() -> None:
    said = refusal("{hosts: h2, require: {site: us}, forbid: {rack: a}}", EU)
    assert said.count("placement.") == 3


def test_a_label_that_is_nearly_one_of_the_host_is_named() -> None:
    assert "Did you mean 'site'?" in refusal("require: {sites: eu}", EU)
    assert "Did you mean" not in refusal("require: {room: eu}", EU)


def test_the_way_out_of_a_fact_is_no_label_in_the_inventory() -> None:
    said = refusal('require: {smt: "off"}', US)
    assert "h2 has smt=on, and smt must be off" in said
    assert "labels: {" not in said


def test_a_vapp_that_stands_is_told_that_its_data_goes_with_it() -> None:
    said = refusal("hosts: h2", EU, stands=True)
    assert "with its data disks (vcloud down app)" in said
    assert "vcloud down" not in refusal("hosts: h2", EU)


def test_what_only_up_can_find_out_breaks_no_rule_before() -> None:
    """Nobody knows whether KVM works before a kernel has booted under it."""
    unknown = HostLabels("h1", {}, frozenset({"accelerator"}))
    refuse_rules(design("require: {accelerator: kvm}"), unknown)
    refuse_rules(design("forbid: {accelerator: tcg}"), unknown)
    emulated = HostLabels("h1", {"accelerator": "tcg"})
    assert "must be kvm" in refusal("require: {accelerator: kvm}", emulated)
    assert "forbids" in refusal("forbid: {accelerator: tcg}", emulated)


def test_preferred_labels_are_counted() -> None:
    rules = design('prefer: {site: [eu, us], rack: b, smt: "off"}').placement
    assert [preferred(rules, host) for host in (EU, US, BARE)] == [2, 2, 0]


def test_a_fact_that_nobody_knows_is_taken_for_none_that_the_vapp_allows() -> None:
    """The rule is there for protection, so what cannot be looked at does not meet it."""
    unknown, known = HostLabels("h1", {}), HostLabels("h1", {"ksm": "off"})
    said = refusal('forbid: {ksm: "on"}', unknown)
    assert "nobody knows whether h1 has ksm=on, which the vApp forbids" in said
    assert "h1 has no label 'ksm', and ksm must be off" in refusal('require: {ksm: "off"}', unknown)
    for rule in ('forbid: {ksm: "on"}', 'require: {ksm: "off"}'):
        refuse_rules(design(rule), known)
    refuse_rules(design("forbid: {rack: a}"), unknown)


ISOLATED = """\
vcloud: 1
name: app
zones: {dmz: {}}
vms: {web: {image: base, zone: dmz}}
isolation:
  page_sharing: forbidden
  ksm: forbidden
  smt: forbidden
  svirt: required
"""


def test_what_isolation_demands_of_a_host_is_a_rule_of_placement_with_its_line() -> None:
    """A fact that nobody can read is none that the host has."""
    strict = design_of_text(ISOLATED)
    refuse_rules(strict, HostLabels("h1", {"ksm": "off", "smt": "off", "svirt": "selinux"}))
    with pytest.raises(RefusedError) as refused:
        refuse_rules(strict, HostLabels("h1", {"ksm": "on", "svirt": "none"}))
    said = str(refused.value)
    assert "vapp.yaml:7: isolation.ksm: h1 has ksm=on, and ksm must be off" in said
    assert "echo 2 >/sys/kernel/mm/ksm/run" in said
    assert "vapp.yaml:8: isolation.smt: h1 has no label 'smt', and smt must be off" in said
    assert "vapp.yaml:9: isolation.svirt: h1 has svirt=none" in said
    assert said.count("isolation.") == 3


def test_a_host_of_a_vapp_that_stands_is_changed_and_not_left() -> None:
    with pytest.raises(RefusedError) as refused:
        refuse_rules(design_of_text(ISOLATED), HostLabels("h1", {"ksm": "on"}), stands=True)
    assert "echo 2 >" in str(refused.value)
    assert "choose another host" not in str(refused.value)
