"""What vApps need of hosts, and what hosts have for vApps, as values that the planner of a whole lab and
the solver share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vcloud.design.placement import ANYWHERE, HostRule, PlacementRules
from vcloud.placement.labels import HostLabels, broken_rules
from vcloud.tenancy import HostTenants, Policy, Refusal, Terms, Unmanaged, refusals

ALLOWING = Policy()


@dataclass(frozen=True, slots=True)
class Needs:
    """What one vApp needs of its host."""

    terms: Terms
    memory: int
    """Bytes that all of its VMs may take."""
    cpus: int
    rules: PlacementRules = ANYWHERE
    stands_on: str = ""
    """The host where it is; empty: on none yet."""
    own_cpus: int = 0
    """Virtual CPUs that demand cores of their own."""

    @property
    def vapp(self) -> str:
        return self.terms.vapp


@dataclass(frozen=True, slots=True)
class Room:
    """What one host has for vApps."""

    labels: HostLabels
    memory: int
    """Bytes that all vApps there may take."""
    cpus: int
    """CPUs that the VMs of all vApps there may have."""
    unmanaged: tuple[str, ...] = ()
    """VMs there that vcloud does not manage."""
    policy: Policy = ALLOWING
    carried: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """As in `HostTenants`."""
    is_closed: bool = False
    """No vApp may come or stay."""
    cores: int = 0
    """Cores that vApps there may have for themselves."""
    threads: int = 1
    """Processors of each core."""

    @property
    def host(self) -> str:
        return self.labels.host

    def cores_for(self, needs: Needs) -> int:
        """Cores that the vApp would have for itself. Each is given as a whole."""
        return -(-needs.own_cpus // self.threads)

    def broken(self, needs: Needs) -> list[HostRule]:
        """The vApp's rules of placement that the host breaks."""
        return [rule for rule, _ in broken_rules(needs.rules, self.labels)]

    def refusals(self, terms: Terms) -> tuple[Refusal, ...]:
        """Why the host takes no vApp of these terms, whoever else is there of vApps."""
        others = tuple(map(Unmanaged, self.unmanaged))
        return refusals(terms, HostTenants(others, self.policy, self.carried))


def between(one: Terms, other: Terms) -> tuple[Refusal, ...]:
    """Why two vApps may not share a host."""
    return refusals(one, HostTenants((other,)))


class Kinds:
    """vApps by kinds: those of one kind have the same terms but for their names, so that two kinds are
    compared once.
    """

    def __init__(self, vapps: Sequence[Needs]) -> None:
        self._numbers: dict[tuple[object, ...], int] = {}
        self._of: dict[str, int] = {}
        self._examples: list[list[Terms]] = []
        self._known: dict[tuple[int, int], bool] = {}
        for needs in vapps:
            terms = needs.terms
            number = self._numbers.setdefault(_without_name(terms), len(self._examples))
            if number == len(self._examples):
                self._examples.append([])
            if len(self._examples[number]) < 2:
                self._examples[number].append(terms)
            self._of[needs.vapp] = number

    def __len__(self) -> int:
        return len(self._examples)

    def of(self, vapp: str) -> int:
        return self._of[vapp]

    def clash(self, one: int, other: int) -> bool:
        """Whether vApps of these kinds may not share a host: two different ones, of one kind also."""
        key = (min(one, other), max(one, other))
        if key not in self._known:
            self._known[key] = bool(self.refusals(*key))
        return self._known[key]

    def refusals(self, one: int, other: int) -> tuple[Refusal, ...]:
        """Why examples of these kinds may not share a host. Of a kind with one vApp, it is alone."""
        first, second = self._examples[one][0], self._examples[other][-1]
        return () if first.vapp == second.vapp else between(first, second)


def _without_name(terms: Terms) -> tuple[object, ...]:
    return (
        terms.labels,
        terms.share,
        terms.together,
        terms.never,
        terms.conflicts,
        terms.remembered,
    )
