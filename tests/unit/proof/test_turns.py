"""A published port behind which the firewall gives connections to several VMs in turn. Whichever VM
is dead, whatever else takes a turn meanwhile: it is red.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle, islice

import pytest

from tests.unit.plan.test_diff import FILE
from tests.vapps import design_of_text
from vcloud.proof.checks import Check, Kind, Outcome
from vcloud.proof.firewall_report import NOTHING
from vcloud.proof.judge import judge
from vcloud.proof.network import network_checks
from vcloud.proof.observed import Answer, Observed, Verdict
from vcloud.proof.rounds import ROUNDS, Tries, added, asked_next, in_sum
from vcloud.proof.world import World
from vcloud.values import INTERNET
from vcloud.views.render import UPLINK

RANGE = FILE.replace("tcp/80, publish: 8080", "tcp/8000-8003, publish: 9000-9003")
NAMES = FILE.replace("tcp/80, publish: 8080", "udp/53, publish: 53")
Answering = Callable[[str, int], Answer]
"""What a connection to a port of a VM gets."""


def visits(text: str = FILE, family: int = 4) -> list[Check]:
    """The checks of the published flow."""
    checks = network_checks(design_of_text(text), UPLINK, World(()), 1)
    return [
        check
        for check in checks
        if (check.kind, check.vantage) == (Kind.FLOW, INTERNET) and check.id.endswith(f"/{family}")
    ]


def tried(
    checks: Sequence[Check], answering: Answering, *, first: int = 0, busy: Sequence[str] = ()
) -> dict[str, Verdict]:
    """VM and port -> the verdict. The firewall has given `first` connections already. The services
    of the VMs `busy` do not answer datagrams.
    """
    turn = islice(cycle(("web-1", "web-2")), first, None)
    listeners = {check.listener: Answer("answered") for check in checks}
    ignoring = frozenset(one for one in listeners if one and one.vm in busy)
    tries: Tries = {}
    for _ in range(ROUNDS):
        asked = asked_next(checks, tries)
        answers = {
            check.id: answering(next(turn), check.listener.port)
            for check in asked
            if check.listener
        }
        local = {one: said for one, said in listeners.items() if one and one not in ignoring}
        seen = Observed(answers, local, NOTHING, NOTHING, busy=ignoring)
        tries = added(tries, (judge(check, seen) for check in asked))
    return {
        f"{check.listener.vm}:{check.listener.port}": in_sum(tries[check.id], 0)
        for check in checks
        if check.listener
    }


def outcomes(verdicts: dict[str, Verdict]) -> set[Outcome]:
    return {verdict.outcome for verdict in verdicts.values()}


def open_everywhere(_vm: str, _port: int) -> Answer:
    return Answer("open", 1)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("result", ["refused", "timeout", "unreachable", "reset", "error"])
def test_a_dead_replica_is_red_in_whatever_order_the_firewall_gives_turns(
    result: str, first: int
) -> None:
    found = tried(visits(), lambda vm, _: Answer("open" if vm == "web-1" else result), first=first)
    assert set(found) == {"web-1:80", "web-2:80"}
    assert outcomes(found) <= {Outcome.FAIL, Outcome.ERROR}
    told = "1 of 2 connections opened, which go to web-1, web-2 in turn"
    assert all(told in verdict.detail for verdict in found.values())


@pytest.mark.parametrize("first", [0, 1])
def test_where_every_replica_answers_each_of_them_is_proven(first: int) -> None:
    found = tried(visits(), open_everywhere, first=first)
    assert outcomes(found) == {Outcome.PASS}
    assert "2 of 2 connections opened" in found["web-2:80"].detail


def test_a_refusal_is_no_lost_packet_and_is_not_asked_again() -> None:
    """A packet that was lost once is asked again, with all connections of its port. So is a port on
    which vcloud's temporary listener has ended.
    """

    def once(result: str, busy: Sequence[str] = ()) -> set[Outcome]:
        answers = iter(["open", result, *["open"] * 9])
        return outcomes(tried(visits(), lambda _vm, _port: Answer(next(answers)), busy=busy))

    assert once("refused", ("web-1", "web-2")) == {Outcome.FAIL}
    assert once("refused") == once("timeout") == {Outcome.PASS}


def test_only_as_many_connections_as_vms_prove_anything() -> None:
    """One that is asked alone goes to any of them."""
    one, other = visits()
    seen = Observed({one.id: Answer("open")}, {}, NOTHING, NOTHING)
    assert judge(one, seen).outcome is Outcome.ERROR
    assert [turn.check for turn in one.turns] == [one.id, other.id]
    assert one.turns == other.turns


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("port", [8000, 8003])
def test_each_end_of_a_published_range_is_tried_at_each_vm(port: int, first: int) -> None:
    """One rule of the firewall gives the connections to all ports of the range in turn."""
    found = tried(
        visits(RANGE),
        lambda vm, at: Answer("timeout" if (vm, at) == ("web-2", port) else "open"),
        first=first,
    )
    red = {place for place, verdict in found.items() if verdict.outcome is not Outcome.PASS}
    assert red == {f"web-1:{port}", f"web-2:{port}"}


def test_a_port_of_one_vm_has_no_turns() -> None:
    (check,) = visits(FILE.replace("count: 2, ", ""))
    assert check.turns == ()
    assert judge(check, Observed({check.id: Answer("open")}, {}, NOTHING, NOTHING)).outcome is (
        Outcome.PASS
    )


@pytest.mark.parametrize(
    ("busy", "dead", "expected"),
    [
        ((), (), {"web-1": Outcome.PASS, "web-2": Outcome.PASS}),
        (("web-1",), ("web-1",), {"web-1": Outcome.NOT_TRIED, "web-2": Outcome.PASS}),
        (("web-1",), ("web-1", "web-2"), {"web-1": Outcome.NOT_TRIED, "web-2": Outcome.FAIL}),
        (
            ("web-1", "web-2"),
            ("web-1", "web-2"),
            {"web-1": Outcome.NOT_TRIED, "web-2": Outcome.NOT_TRIED},
        ),
    ],
)
def test_a_service_that_ignores_datagrams_excuses_its_own_turn_and_no_other(
    busy: Sequence[str], dead: Sequence[str], expected: dict[str, Outcome]
) -> None:
    found = tried(
        visits(NAMES),
        lambda vm, _: Answer("timeout" if vm in dead else "answered"),
        busy=busy,
    )
    assert {place.partition(":")[0]: verdict.outcome for place, verdict in found.items()} == (
        expected
    )
