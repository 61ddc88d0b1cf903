"""Decides whether many vApps have a placement at all, with clingo, an answer set solver
(https://potassco.org/clingo/). It is asked where the planner gives up, and imported then only.

Each rule is switched on by an assumption of its own. If the solver finds that they contradict each
other, it names some that do. Of these one after the other is left out, as long as the rest still
contradict each other: so no reason that is told could be missed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from vcloud.design.placement import FORBID, HOSTS, HostRule
from vcloud.placement.needs import Kinds, Needs, Room

if TYPE_CHECKING:
    import clingo

SECONDS = 5.0
"""For the first answer. Leaving out reasons may take as long again."""

PROGRAM = """\
1 { at(V,H) : host(H) } 1 :- vapp(V).
{ active(R) } :- rule(R).
:- at(V,H), breaks(R,V,H), active(R).
kind_at(K,H) :- at(V,H), kind(V,K).
:- kind_at(K,H), kind_at(L,H), clash(R,K,L), active(R).
:- host(H), self_clash(R,K), active(R), 2 { at(V,H) : kind(V,K) }.
:- memory(R,H,C), active(R), #sum { M,V : at(V,H), takes_memory(V,M) } > C.
:- cpus(R,H,C), active(R), #sum { M,V : at(V,H), takes_cpus(V,M) } > C.
:- cores(R,H,C), active(R), #sum { M,V : at(V,H), takes_cores(V,H,M) } > C.
#show at/2.
"""


@dataclass(frozen=True, slots=True)
class Reason:
    """One of the rules that contradict each other."""

    kind: Literal["placement", "tenancy", "memory", "cpus", "cores", "host"]
    of: str
    """The vApp that has the rule, or the host whose memory, CPUs or cores it is."""
    rule: HostRule | None = None
    """The rule of placement."""
    what: str = ""
    """A sentence without an end."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the solver has found out."""

    homes: Mapping[str, str] | None = None
    """vApp -> host, if there is a placement."""
    reasons: tuple[Reason, ...] = ()
    """Rules of which no placement meets all, and none of which could be missed. Without these, and
    without homes, neither was found in time.
    """


def solved(vapps: Sequence[Needs], rooms: Sequence[Room], seconds: float = SECONDS) -> Verdict:
    """Whether there is a placement, or why there is none."""
    import clingo

    facts = _Facts(vapps, rooms)
    # One thread, and a fixed seed: the same question has the same answer.
    control = clingo.Control(["--seed=1", "-t1"], logger=lambda *_: None)
    control.add("base", [], PROGRAM + "".join(facts.lines()))
    control.ground([("base", [])])
    active = {number: clingo.Function("active", [clingo.Number(number)]) for number in facts.rules}
    found = _asked(control, [*active.values()], seconds)
    if found is None:
        return Verdict()
    if isinstance(found, dict):
        return Verdict(homes=facts.homes(found))
    core = _without_dispensable(control, active, found, seconds)
    return Verdict(reasons=tuple(facts.rules[number] for number in sorted(core)))


def _asked(
    control: clingo.Control, assumed: Sequence[clingo.Symbol], seconds: float
) -> dict[int, int] | frozenset[int] | None:
    """vApp -> host, by their numbers; or the numbers of rules that contradict each other; None where
    neither was found in time.
    """
    assumptions = [(symbol, True) for symbol in assumed]
    with control.solve(assumptions=assumptions, yield_=True, async_=True) as handle:
        handle.resume()
        if not handle.wait(seconds):
            handle.cancel()
            return None
        model = handle.model()
        if model is not None:
            pairs = (symbol.arguments for symbol in model.symbols(shown=True))
            return {vapp.number: host.number for vapp, host in pairs}
        if not handle.get().unsatisfiable:
            return None
        literals = set(handle.core())
    atoms = control.symbolic_atoms
    return frozenset(
        symbol.arguments[0].number
        for symbol in assumed
        if (atom := atoms[symbol]) is not None and atom.literal in literals
    )


def _without_dispensable(
    control: clingo.Control,
    active: Mapping[int, clingo.Symbol],
    core: frozenset[int],
    seconds: float,
) -> frozenset[int]:
    """Rules of the core without which there would be a placement of the rest, one by one. Where no
    answer is found in time, the rest of the core stays as it is.
    """
    needed = core
    for number in sorted(core):
        if number not in needed:
            continue
        found = _asked(
            control, [active[one] for one in sorted(needed - {number})], seconds / len(core)
        )
        if isinstance(found, frozenset):
            needed = found
        elif found is None:
            break
    return needed


class _Facts:
    """The vApps and hosts as facts of the program, by numbers. All sizes are in MiB."""

    def __init__(self, vapps: Sequence[Needs], rooms: Sequence[Room]) -> None:
        self.vapps = sorted(vapps, key=lambda needs: needs.vapp)
        self.rooms = sorted(rooms, key=lambda room: room.host)
        self.kinds = Kinds(self.vapps)
        self.rules: dict[int, Reason] = {}
        self._numbers: dict[Any, int] = {}

    def homes(self, found: Mapping[int, int]) -> dict[str, str]:
        return {
            needs.vapp: self.rooms[found[number]].host for number, needs in enumerate(self.vapps)
        }

    def lines(self) -> Iterator[str]:
        yield from (f"host({number}).\n" for number in range(len(self.rooms)))
        for number, needs in enumerate(self.vapps):
            yield f"vapp({number}). kind({number},{self.kinds.of(needs.vapp)}).\n"
            # Rounded up, and the room of a host down: the solver never promises too much.
            for host, room in enumerate(self.rooms) if needs.own_cpus else ():
                yield f"takes_cores({number},{host},{room.cores_for(needs)}).\n"
            yield f"takes_memory({number},{-(-needs.memory >> 20)}). takes_cpus({number},{needs.cpus}).\n"
        # The rules are numbered while these are made.
        yield from [*self._broken(), *self._clashes(), *self._room()]
        yield from (f"rule({number}).\n" for number in self.rules)

    def _broken(self) -> Iterator[str]:
        for number, needs in enumerate(self.vapps):
            for host, room in enumerate(self.rooms):
                for rule in room.broken(needs):
                    reason = Reason("placement", needs.vapp, rule, _told(rule))
                    yield self._breaks(reason, number, host)
                for refusal in room.refusals(needs.terms):
                    yield self._breaks(
                        Reason("tenancy", refusal.of, None, refusal.reason), number, host
                    )
                if room.is_closed:
                    what = f"{room.host} is closed to all vApps"
                    yield self._breaks(Reason("host", room.host, None, what), number, host)

    def _breaks(self, reason: Reason, vapp: int, host: int) -> str:
        return f"breaks({self._number(reason)},{vapp},{host}).\n"

    def _clashes(self) -> Iterator[str]:
        count = len(self.kinds)
        for one in range(count):
            for other in range(one, count):
                if not self.kinds.clash(one, other):
                    continue
                refusal = self.kinds.refusals(one, other)[0]
                number = self._number(Reason("tenancy", refusal.of, None, refusal.reason))
                if one == other:
                    yield f"self_clash({number},{one}).\n"
                else:
                    yield f"clash({number},{one},{other}).\n"

    def _room(self) -> Iterator[str]:
        for host, room in enumerate(self.rooms):
            memory, cpus = max(0, room.memory) >> 20, max(0, room.cpus)
            what = f"{room.host} has {memory} MiB of memory for vApps"
            yield f"memory({self._number(Reason('memory', room.host, None, what))},{host},{memory}).\n"
            what = f"{room.host} has {cpus} CPUs for vApps"
            yield f"cpus({self._number(Reason('cpus', room.host, None, what))},{host},{cpus}).\n"
            if any(needs.own_cpus for needs in self.vapps):
                what = f"{room.host} has {room.cores} cores that vApps may have for themselves"
                number = self._number(Reason("cores", room.host, None, what))
                yield f"cores({number},{host},{room.cores}).\n"

    def _number(self, reason: Reason) -> int:
        if reason not in self._numbers:
            self._numbers[reason] = len(self.rules)
            self.rules[len(self.rules)] = reason
        return self._numbers[reason]


def _told(rule: HostRule) -> str:
    values = " or ".join(rule.values)
    if rule.kind == HOSTS:
        return f"its host must be {values}"
    verb = "must not be" if rule.kind == FORBID else "must be"
    return f"{rule.label} {verb} {values}"
