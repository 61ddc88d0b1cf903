"""The processors that running VMs may use, as libvirt tells them, beside those that they have."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from tests.standing import manifest_of, standing, with_domain
from tests.vapps import design_of_text
from vcloud.plan.diff import plan_changes
from vcloud.plan.drift import drift_of, pins_of
from vcloud.plan.facts import EMULATOR, domain_facts
from vcloud.plan.manifest import Manifest
from vcloud.plan.state import VappState
from vcloud.plan.steps import Plan, Verb

TEXT = """\
vcloud: 1
name: vault
zones: {dmz: {}}
vms:
  web: {image: base, zone: dmz}
  db: {image: base, zone: dmz, cpus: 2, isolation: {cpus: own}}
"""
DESIGN = design_of_text(TEXT)
PLAIN = design_of_text(TEXT.replace(", isolation: {cpus: own}", ""))
CORES = (("db", (2, 3)),)
FLOATING = {str(number): frozenset({0, 1}) for number in range(2)} | {EMULATOR: frozenset({0, 1})}


def wanted(cores: tuple[tuple[str, tuple[int, ...]], ...] = CORES) -> Manifest:
    return replace(manifest_of(DESIGN), cores=cores, owned=(2, 3) if cores else ())


def pinned(state: VappState, **pins: object) -> VappState:
    """The state in which the running database (`live`) or its definition (`kept`) has these pins."""
    return with_domain(
        state,
        "vault.db",
        lambda domain: replace(
            domain,
            **{part: replace(getattr(domain, part), pins=found) for part, found in pins.items()},  # type: ignore[arg-type]
        ),
    )


def as_made() -> VappState:
    state = standing(DESIGN)
    assert state.manifest is not None
    state = replace(state, manifest=replace(state.manifest, cores=CORES, owned=(2, 3)))
    return pinned(state, live=pins_of((2, 3)), kept=pins_of((2, 3)))


def plan(state: VappState, to: Manifest | None = None) -> Plan:
    return plan_changes(to or wanted(), state, "h1")


def steps(found: Plan) -> list[tuple[Verb, str]]:
    return [(step.verb, step.subject) for step in found.steps if step.verb is not Verb.RECORD]


def test_pins_as_vcloud_made_them_are_no_difference() -> None:
    assert plan(as_made()).steps == ()


@pytest.mark.parametrize("pins", [{}, FLOATING, pins_of((3, 2))])
@pytest.mark.parametrize("part", ["live", "kept"])
def test_pins_that_somebody_changed_are_given_again_without_a_restart(
    part: str, pins: dict[str, frozenset[int]]
) -> None:
    found = plan(pinned(as_made(), **{part: pins}))
    assert steps(found) == [(Verb.MEND_VM, "db")]
    state = pinned(as_made(), **{part: pins})
    assert state.manifest is not None
    assert [drift.pins for drift in drift_of(state.manifest, state)] == [True]


def test_a_vm_without_cores_of_its_own_may_be_kept_off_those_of_others() -> None:
    state = with_domain(
        as_made(),
        "vault.web",
        lambda domain: replace(domain, live=replace(domain.live, pins={"0": frozenset({0, 1})})),
    )
    assert plan(state).steps == ()


def test_a_demand_that_is_new_or_gone_needs_no_restart() -> None:
    before = standing(PLAIN)
    found = plan(before)
    assert steps(found) == [(Verb.MEND_VM, "db")]
    assert "get the host's processors 2-3 for themselves" in found.steps[0].why
    gone = plan(as_made(), replace(manifest_of(PLAIN)))
    assert steps(gone) == [(Verb.MEND_VM, "db")]
    assert "no cores of their own any more" in gone.steps[0].why


def test_pins_are_no_part_of_a_domain_and_other_tuning_is() -> None:
    xml = '<domain><cputune><vcpupin vcpu="1" cpuset="2-3"/><emulatorpin cpuset="0"/>{}</cputune></domain>'
    found = domain_facts(ElementTree.fromstring(xml.format("")))  # noqa: S314
    assert found.pins == {"1": frozenset({2, 3}), EMULATOR: frozenset({0})}
    assert found.parts == {}
    tuned = domain_facts(ElementTree.fromstring(xml.format("<shares>5</shares>")))  # noqa: S314
    assert tuned.parts == {"cputune": "cputune(shares(5))"}


@pytest.mark.parametrize(
    ("demand", "said"),
    [("memory: locked", "its memory is locked"), ("page_sharing: forbidden", "not merged")],
)
def test_what_only_a_new_process_has_needs_a_restart_and_the_plan_says_why(
    demand: str, said: str
) -> None:
    strict = manifest_of(
        design_of_text(TEXT.replace(", isolation: {cpus: own}", f", isolation: {{{demand}}}"))
    )
    found = plan(standing(PLAIN), strict)
    assert steps(found) == [(Verb.RESTART_VM, "db")]
    assert said in found.steps[0].why
    back = plan(standing(design_of_text(TEXT.replace("cpus: own", demand))), manifest_of(PLAIN))
    assert "no longer" in back.steps[0].why
