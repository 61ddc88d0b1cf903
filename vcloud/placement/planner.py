"""Finds hosts for many vApps at once.

Whoever stands somewhere stays there if that is possible. Only then are the others placed: first those
with the fewest hosts to choose from. So a host that is lost moves its own vApps and few others.

Where a vApp fits nowhere, it takes the place of others, which are then placed anew. After
`MOST_EJECTIONS` of these the planner gives up: it cannot tell whether there is a placement
(`vcloud.placement.solver` can). The same vApps and hosts always give the same result.

Each host keeps counters of what it has, so that a check takes the same time however many vApps there
are: 1,000 vApps on 100 hosts are planned in a fraction of a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vcloud.design.placement import PACK, PlacementRules
from vcloud.placement.labels import preferred
from vcloud.placement.needs import Kinds, Needs, Room
from vcloud.tenancy import DEDICATED, Terms

MOST_EJECTIONS = 2000


def planned_homes(vapps: Sequence[Needs], rooms: Sequence[Room]) -> Mapping[str, str] | None:
    """vApp -> host, for all of them; None where the planner gives up."""
    planner = _Planner(vapps, rooms)
    return planner.homes() if planner.place_all() else None


def moves(vapps: Sequence[Needs], homes: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """The vApps that stand on another host now -> that host, and the new one."""
    return {
        needs.vapp: (needs.stands_on, homes[needs.vapp])
        for needs in vapps
        if needs.stands_on and needs.stands_on != homes[needs.vapp]
    }


@dataclass(slots=True)
class _Host:
    """What is planned for one host so far."""

    room: Room
    memory: int = 0
    cpus: int = 0
    cores: int = 0
    vapps: dict[str, Needs] = field(default_factory=dict)
    kinds: Counter[int] = field(default_factory=Counter)


class _Planner:
    def __init__(self, vapps: Sequence[Needs], rooms: Sequence[Room]) -> None:
        self.kinds = Kinds(vapps)
        self.hosts = {room.host: _Host(room) for room in sorted(rooms, key=lambda room: room.host)}
        self.ejected: Counter[str] = Counter()
        self._by_rules: dict[PlacementRules, dict[str, int]] = {}
        self._by_terms: dict[int, frozenset[str]] = {}
        self._allowed: dict[str, dict[str, int]] = {}
        self.vapps = vapps

    def _difficulty(self, needs: Needs) -> tuple[bool, int, int, str]:
        """The most difficult first."""
        hosts = len(self.allowed(needs))
        return needs.terms.share != DEDICATED, hosts, -needs.memory, needs.vapp

    def allowed(self, needs: Needs) -> dict[str, int]:
        """The hosts that the vApp may have whoever else is there -> how many preferred labels each has."""
        if needs.vapp not in self._allowed:
            self._allowed[needs.vapp] = self._found_allowed(needs)
        return self._allowed[needs.vapp]

    def _found_allowed(self, needs: Needs) -> dict[str, int]:
        if needs.rules not in self._by_rules:
            self._by_rules[needs.rules] = {
                name: preferred(needs.rules, host.room.labels)
                for name, host in self.hosts.items()
                if not host.room.is_closed and not host.room.broken(needs)
            }
        open_to = self._open_to(needs.terms)
        return {
            name: liked
            for name, liked in self._by_rules[needs.rules].items()
            if name in open_to
            and needs.memory <= self.hosts[name].room.memory
            and needs.cpus <= self.hosts[name].room.cpus
            and self.hosts[name].room.cores_for(needs) <= self.hosts[name].room.cores
        }

    def _open_to(self, terms: Terms) -> frozenset[str]:
        # What a host has carried concerns a vApp by its name, so these hosts are asked each time.
        kind = self.kinds.of(terms.vapp)
        if kind not in self._by_terms or terms.conflicts:
            self._by_terms[kind] = frozenset(
                name for name, host in self.hosts.items() if not host.room.refusals(terms)
            )
        return self._by_terms[kind]

    def homes(self) -> Mapping[str, str]:
        found = ((vapp, name) for name, host in self.hosts.items() for vapp in host.vapps)
        return dict(sorted(found))

    def place_all(self) -> bool:
        """Whether each vApp has got a host."""
        homeless = []
        for needs in sorted(self.vapps, key=lambda one: (-one.memory, one.vapp)):
            host = self.hosts.get(needs.stands_on)
            if host is not None and self._may_have(needs, host) and self._fits(needs, host):
                self._put(needs, host)
            else:
                homeless.append(needs)
        homeless.sort(key=self._difficulty)
        while homeless:
            needs = homeless.pop(0)
            if (host := self._best(needs)) is not None:
                self._put(needs, host)
                continue
            ejected = self._take_place(needs)
            if ejected is None or self.ejected.total() > MOST_EJECTIONS:
                return False
            homeless += sorted(ejected, key=self._difficulty)
        return True

    def _may_have(self, needs: Needs, host: _Host) -> bool:
        """Whether the vApp may have the host whoever else is there. Of a vApp that stands, only its own
        host is asked, so that a newcomer among many costs little.
        """
        room = host.room
        return not (room.is_closed or room.broken(needs) or room.refusals(needs.terms))

    def _fits(self, needs: Needs, host: _Host) -> bool:
        kind = self.kinds.of(needs.vapp)
        return (
            host.memory + needs.memory <= host.room.memory
            and host.cpus + needs.cpus <= host.room.cpus
            and host.cores + host.room.cores_for(needs) <= max(host.cores, host.room.cores)
            and not any(self.kinds.clash(kind, other) for other in host.kinds)
        )

    def _best(self, needs: Needs) -> _Host | None:
        """The host that suits the vApp best, of those where it fits."""
        sign = 1 if needs.rules.strategy == PACK else -1
        allowed = self.allowed(needs)
        fitting = [self.hosts[name] for name in allowed if self._fits(needs, self.hosts[name])]
        return min(
            fitting,
            key=lambda host: (
                -allowed[host.room.host],
                sign * (host.room.memory - host.memory),
                host.room.host,
            ),
            default=None,
        )

    def _take_place(self, needs: Needs) -> list[Needs] | None:
        """Puts the vApp where it displaces those that were displaced least so far. Returns these; None
        where no host may have it.
        """
        choices = [
            (sum(1 + 10 * self.ejected[one.vapp] for one in displaced), name, displaced)
            for name in self.allowed(needs)
            for displaced in [self._displaced(needs, self.hosts[name])]
        ]
        if not choices:
            return None
        _, name, displaced = min(choices, key=lambda choice: choice[:2])
        for one in displaced:
            self.ejected[one.vapp] += 1
            self._remove(one, self.hosts[name])
        self._put(needs, self.hosts[name])
        return displaced

    def _displaced(self, needs: Needs, host: _Host) -> list[Needs]:
        """The vApps that have to leave the host so that this one fits: those that may not be beside it,
        and then, as long as there is no room, those that were displaced least so far.
        """
        kind = self.kinds.of(needs.vapp)
        gone = [
            one for one in host.vapps.values() if self.kinds.clash(kind, self.kinds.of(one.vapp))
        ]
        names = {one.vapp for one in gone}
        memory = host.memory - sum(one.memory for one in gone)
        cpus = host.cpus - sum(one.cpus for one in gone)
        cores = host.cores - sum(map(host.room.cores_for, gone))
        own = host.room.cores_for(needs)
        rest = sorted(
            (one for one in host.vapps.values() if one.vapp not in names),
            key=lambda one: (self.ejected[one.vapp], -one.memory, one.vapp),
        )
        for one in rest:
            fits = memory + needs.memory <= host.room.memory and cpus + needs.cpus <= host.room.cpus
            if fits and cores + own <= max(cores, host.room.cores):
                break
            gone.append(one)
            memory, cpus = memory - one.memory, cpus - one.cpus
            cores -= host.room.cores_for(one)
        return gone

    def _put(self, needs: Needs, host: _Host) -> None:
        host.vapps[needs.vapp] = needs
        host.memory += needs.memory
        host.cpus += needs.cpus
        host.cores += host.room.cores_for(needs)
        host.kinds[self.kinds.of(needs.vapp)] += 1

    def _remove(self, needs: Needs, host: _Host) -> None:
        del host.vapps[needs.vapp]
        host.memory -= needs.memory
        host.cpus -= needs.cpus
        host.cores -= host.room.cores_for(needs)
        kind = self.kinds.of(needs.vapp)
        host.kinds[kind] -= 1
        if not host.kinds[kind]:
            del host.kinds[kind]
