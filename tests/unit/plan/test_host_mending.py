"""What ends each kind of difference of a host's side, and the steps of a plan that do it. Each has its
twin: a vApp whose host's side is as vcloud made it gets no step.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.standing import manifest_of, standing, with_domain
from tests.unit.plan.test_diff import FILE, plan, told, why
from tests.vapps import design_of_text
from vcloud.design.names import filter_name
from vcloud.plan.drift import drift_of
from vcloud.plan.facts import DomainFacts
from vcloud.plan.host_difference import HostDifference, HostKind, HostSide
from vcloud.plan.host_mending import (
    MendKind,
    left_after,
    mend_of,
    told_once,
    verb_of,
    way_out,
)
from vcloud.plan.manifest import Phase
from vcloud.plan.order import ordered
from vcloud.plan.state import DomainState, VappState
from vcloud.plan.steps import Plan, Verb

DESIGN = design_of_text(FILE)
STANDING = standing(DESIGN)
API = next(vm for vm in DESIGN.vms if vm.name == "api")
NIC = API.nics[0]
ZONE = DESIGN.zone("app").network


def of_card(kind: HostKind, other: str = "", wanted: tuple[str, ...] = ()) -> HostDifference:
    return HostDifference(kind, f"{kind} differs", API.name, ZONE.name, NIC.tap, other, wanted)


def of_bridge(kind: HostKind, other: str = "", wanted: tuple[str, ...] = ()) -> HostDifference:
    return HostDifference(kind, f"{kind} differs", "", ZONE.name, ZONE.bridge, other, wanted)


MOVED = of_card(HostKind.CARD, wanted=("master", ZONE.bridge, "isolated", "on"))
GONE = of_card(HostKind.CARD)
HAIRPIN = of_card(HostKind.FLAGS, "hairpin", ("hairpin", "false"))
PORT = of_bridge(HostKind.PORT, "veth7")
NO_BRIDGE = of_bridge(HostKind.BRIDGE)
RULE = of_card(HostKind.RULE, "filter FORWARD")


def seen(*differences: HostDifference, as_root: bool = True) -> VappState:
    return replace(STANDING, host_side=HostSide(differences, as_root=as_root))


def planned(*differences: HostDifference, as_root: bool = True) -> Plan:
    return plan(DESIGN, seen(*differences, as_root=as_root))


@pytest.mark.parametrize("kind", HostKind)
@pytest.mark.parametrize("as_root", [True, False])
def test_every_kind_is_ended_by_a_step_or_has_a_way_out(kind: HostKind, as_root: bool) -> None:
    for difference in (of_card(kind, "7"), of_bridge(kind, "7")):
        verb, way = verb_of(difference, as_root=as_root), way_out(difference, as_root=as_root)
        assert ("vcloud up" in way) == (verb is not None)
        assert ("root on the host" in way) == (verb is None)


@pytest.mark.parametrize(
    ("difference", "kind"),
    [
        (of_card(HostKind.ISOLATION), MendKind.UPDATE_CARD),
        (of_card(HostKind.FILTER), MendKind.BIND_FILTER),
        (HAIRPIN, MendKind.COMMAND),
        (MOVED, MendKind.COMMAND),
        (GONE, MendKind.PLUG_CARD),
        (NO_BRIDGE, MendKind.START_NETWORK),
        (of_bridge(HostKind.PROGRAM, "xdp"), MendKind.COMMAND),
        (of_card(HostKind.PROGRAM, "ingress"), MendKind.PLUG_CARD),
        (of_bridge(HostKind.STACKED, "macvlan7"), MendKind.BY_HAND),
        (RULE, MendKind.BY_HAND),
        (HostDifference(HostKind.PROCESS, "", other="7"), MendKind.BY_HAND),
    ],
)
def test_the_least_disruptive_way_is_taken(difference: HostDifference, kind: MendKind) -> None:
    assert mend_of(difference).kind is kind


@pytest.mark.parametrize(
    ("difference", "commands"),
    [
        (
            MOVED,
            [
                f"ip link set dev {NIC.tap} down",
                f"ip link set dev {NIC.tap} master {ZONE.bridge}",
                f"ip link set dev {NIC.tap} type bridge_slave isolated on",
                f"ip link set dev {NIC.tap} up",
            ],
        ),
        (HAIRPIN, [f"ip link set dev {NIC.tap} type bridge_slave hairpin off"]),
        (
            of_card(HostKind.FLAGS, "state", ("state", "forwarding")),
            [f"ip link set dev {NIC.tap} type bridge_slave state 3"],
        ),
        (
            of_card(HostKind.FLAGS, "backup_port", ("backup_port", "")),
            [f"ip link set dev {NIC.tap} type bridge_slave nobackup_port"],
        ),
        (
            of_card(HostKind.FLAGS, "mtu", ("mtu", "1500")),
            [f"ip link set dev {NIC.tap} mtu 1500"],
        ),
        (
            of_bridge(HostKind.FLAGS, "vlan_filtering", ("vlan_filtering", "0")),
            [f"ip link set dev {ZONE.bridge} type bridge vlan_filtering 0"],
        ),
        (
            of_bridge(HostKind.BRIDGE, wanted=("nomaster",)),
            [f"ip link set dev {ZONE.bridge} nomaster"],
        ),
        (
            of_bridge(HostKind.ROUTE, "2001:db8::/64"),
            [f"ip -6 route flush table all exact 2001:db8::/64 dev {ZONE.bridge}"],
        ),
    ],
)
def test_root_gives_a_device_what_it_had(difference: HostDifference, commands: list[str]) -> None:
    assert [" ".join(words) for words in mend_of(difference).commands] == commands


def test_a_name_from_the_host_is_one_word_of_a_command() -> None:
    difference = of_bridge(HostKind.PORT, "x; reboot")
    assert mend_of(difference).commands == (("ip", "link", "set", "dev", "x; reboot", "nomaster"),)
    assert "'x; reboot'" in way_out(difference, as_root=False)


def test_where_nothing_differs_or_nobody_looked_nothing_is_done() -> None:
    for state in (seen(), STANDING):
        found = plan(DESIGN, state)
        assert (found.steps, found.unmended) == ((), ())


@pytest.mark.parametrize(
    ("difference", "steps"),
    [
        (of_card(HostKind.ISOLATION), [("mend VM", "api", "live")]),
        (of_card(HostKind.FILTER), [("mend VM", "api", "live")]),
        (HAIRPIN, [("mend host", "h1", "live")]),
        (MOVED, [("mend host", "h1", "live")]),
        (PORT, [("mend host", "h1", "live")]),
        (of_bridge(HostKind.ADDRESS, "10.0.0.1/24"), [("mend host", "h1", "live")]),
        (of_bridge(HostKind.ADDRESS, "fe80::1/64"), [("mend host", "h1", "live")]),
        (GONE, [("restart VM", "api", "restart")]),
        (
            NO_BRIDGE,
            [
                ("make network anew", "shop.app", "restart"),
                ("restart VM", "firewall", "restart"),
                ("restart VM", "api", "restart"),
                ("load firewall", "firewall", "live"),
            ],
        ),
    ],
)
def test_a_difference_gives_its_step(
    difference: HostDifference, steps: list[tuple[str, str, str]]
) -> None:
    found = planned(difference)
    assert told(found) == steps
    assert difference.what in why(found, found.steps[0].subject)
    assert found.unmended == ()


def test_all_commands_are_one_step_which_the_plan_shows() -> None:
    (step,) = planned(PORT, HAIRPIN).steps
    assert (step.verb, step.subject) == (Verb.MEND_HOST, "h1")
    assert step.commands == (*mend_of(PORT).commands, *mend_of(HAIRPIN).commands)


def test_what_is_made_anew_needs_no_command() -> None:
    found = planned(GONE, HAIRPIN, NO_BRIDGE, PORT)
    assert Verb.MEND_HOST not in {step.verb for step in found.steps}
    assert planned(NO_BRIDGE, PORT, as_root=False).unmended == ()


def test_what_belongs_to_others_is_no_step_and_stays_told() -> None:
    found = planned(RULE)
    assert found.steps == ()
    (problem,) = found.unmended
    assert problem.startswith(f"{RULE.what}; vcloud does not change rules that others made")
    assert planned(GONE, RULE).unmended == (problem,), "a new card does not end a rule"


def test_without_root_a_command_is_for_a_person_and_only_a_moved_card_is_worth_a_restart() -> None:
    found = planned(PORT, HAIRPIN, as_root=False)
    assert found.steps == ()
    assert [problem.partition("; ")[2] for problem in found.unmended] == [
        "as root on the host, run: ip link set dev veth7 nomaster",
        f"as root on the host, run: ip link set dev {NIC.tap} type bridge_slave hairpin off",
    ]
    assert told(planned(MOVED, as_root=False)) == [("restart VM", "api", "restart")]
    assert told(planned(of_card(HostKind.FILTER), as_root=False)) == [("mend VM", "api", "live")]


def test_only_commands_that_root_has_tried_in_vain_are_for_a_person() -> None:
    tried = planned(HAIRPIN).steps
    assert any(step.commands for step in tried)
    for as_root in (True, False):
        (told_after,) = left_after(HostSide((HAIRPIN,), as_root=as_root), tried)
        assert "as root on the host, run:" in told_after
    (untried,) = left_after(HostSide((HAIRPIN,), as_root=True), ())
    assert untried.endswith("`vcloud up` repairs it")
    (no_root,) = left_after(HostSide((HAIRPIN,), as_root=False), ())
    assert "as root on the host, run:" in no_root
    (another,) = left_after(HostSide((PORT,), as_root=True), tried)
    assert another.endswith("`vcloud up` repairs it")
    assert left_after(HostSide(as_root=True), tried) == ()


def test_the_host_is_mended_after_the_networks_and_before_the_vms() -> None:
    steps = planned(PORT, of_card(HostKind.ISOLATION))
    complete = ordered(steps, DESIGN, firewall_first=False, linked=True)
    needs = {step.verb: step.needs for step in complete.steps}
    assert "mend host h1" in needs[Verb.MEND_VM]
    assert "mend host h1" in needs[Verb.RECORD]


def test_a_run_that_did_not_end_is_not_mended_by_what_the_host_shows() -> None:
    """Its cards may not be there yet. Such a vApp is not looked at."""
    assert STANDING.manifest
    half = replace(
        seen(),
        host_side=None,
        manifest=replace(STANDING.manifest, phase=Phase.APPLYING),
    )
    assert not plan(DESIGN, half).unmended


def unbound() -> VappState:
    binding = (NIC.tap, filter_name("shop"))
    assert binding in STANDING.bindings
    return replace(STANDING, bindings=STANDING.bindings - {binding})


def with_another_card() -> VappState:
    """Somebody has plugged a second card into the API, which libvirt tells."""

    def plug(domain: DomainState) -> DomainState:
        card = replace(domain.live.cards[NIC.mac], tap="vnet7")
        mac = "52:54:00:00:00:09"
        return replace(
            domain,
            live=DomainFacts(
                {**domain.live.parts, f"interface {mac}": "interface()"},
                {**domain.live.cards, mac: card},
            ),
        )

    return with_domain(STANDING, API.domain, plug)


def test_what_libvirt_tells_hides_nothing_else_of_the_same_card() -> None:
    """Somebody has taken the filter off a card, and has put the card onto the uplink's bridge."""
    state = unbound()
    assert state.manifest
    side = HostSide((of_card(HostKind.FILTER), MOVED), as_root=True)
    assert told_once(side, drift_of(state.manifest, state)) == (MOVED,)
    found = plan(DESIGN, replace(state, host_side=side))
    assert [step.verb for step in found.steps] == [Verb.MEND_HOST, Verb.MEND_VM]


@pytest.mark.parametrize(
    ("state", "difference"),
    [
        (unbound(), of_card(HostKind.FILTER)),
        (with_another_card(), of_bridge(HostKind.PORT, "vnet7")),
        (replace(STANDING, filter={}), of_card(HostKind.FILTER)),
    ],
)
def test_what_libvirt_tells_too_is_told_once(state: VappState, difference: HostDifference) -> None:
    assert state.manifest
    side = HostSide((difference, HAIRPIN), as_root=True)
    assert told_once(side, drift_of(state.manifest, state)) == (HAIRPIN,)
    assert told_once(side, drift_of(manifest_of(DESIGN), STANDING)) == (difference, HAIRPIN)
    found = plan(DESIGN, replace(state, host_side=HostSide((difference,), as_root=True)))
    assert len(found.steps) == 1
    assert difference.what not in found.steps[0].why
