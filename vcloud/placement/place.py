"""Chooses a host for each VM of a vApp."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from vcloud.design.model import Design
from vcloud.design.origin import FromFile
from vcloud.design.placement import ANYWHERE, PACK, PlacementRules
from vcloud.errors import Problem, RefusedError
from vcloud.placement.capabilities import Capabilities, HookAnswer
from vcloud.placement.capacity import Demand, capacity_problems

BESIDE = "Stop what runs beside it (`vcloud list` shows it), or leave its rules as they were."
OTHER_HOST = "Choose another host with --connect, or stop what runs there: `vcloud list` shows it."
TRUST = "If it is to trust your operator's key, as root there: vcloud host trust KEY. See `vcloud host trust --help`."
INSTALL_HOOK = "On that host, as root: vcloud doctor --fix, then systemctl restart libvirtd. VMs run on. Then `vcloud up` for each vApp that runs there."


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the VMs of one vApp run."""

    hosts: tuple[tuple[str, str], ...]
    """(VM, host), in the order of the design."""

    @property
    def home(self) -> str:
        """The one host of the vApp."""
        (host,) = {host for _, host in self.hosts}
        return host

    def host_of(self, vm: str) -> str:
        return dict(self.hosts)[vm]


def on_one(design: Design, host: str) -> Placement:
    """All VMs on one host: where a vApp stands already, it stays."""
    return Placement(tuple((vm.name, host) for vm in design.vms))


def place(design: Design, demand: Demand, host: Capabilities) -> Placement:
    """The placement of a vApp of which the run starts what `demand` says.

    Raises RefusedError that names what the host cannot enforce, and what it has no room for.
    """
    if problems := tuple(_problems(design, demand, (host,))):
        raise RefusedError(problems)
    return on_one(design, host.host)


@dataclass(frozen=True, slots=True)
class Offered:
    """What a host that can run a new vApp has to offer."""

    free_memory: int
    """Bytes."""
    preferred: int = 0
    """How many of the labels it has that the vApp prefers."""


def chosen_host(
    offers: Mapping[str, Offered], refused: Mapping[str, str], rules: PlacementRules = ANYWHERE
) -> tuple[str, tuple[str, ...]]:
    """The host that a new vApp gets, and for each host a sentence that says why it was chosen or not.
    Of the hosts that can run it, the one with most of the labels that the vApp prefers. Of several
    of these the one with most free memory, or with least, as the vApp's strategy says; then the
    first by name. The same hosts always give the same choice.

    Args:
        offers: the hosts that can run it; at least one.
        refused: why each of the other hosts cannot.
        rules: the vApp's.
    """
    sign = 1 if rules.strategy == PACK else -1

    def score(name: str) -> tuple[int, int, str]:
        offer = offers[name]
        return -offer.preferred, sign * (offer.free_memory >> 20), name

    best = min(offers, key=score)
    reasons = {
        name: f"{name} can run it, and has {_has(offer, rules)}" for name, offer in offers.items()
    }
    reasons[best] = f"{best} was chosen: {_advantage(best, offers, rules)}"
    for name, why in refused.items():
        reasons[name] = f"{name} was left out: {why}"
    return best, tuple(reasons[name] for name in sorted(reasons))


def _has(offer: Offered, rules: PlacementRules) -> str:
    labels = (
        f"{offer.preferred} of {len(rules.prefer)} preferred labels and " if rules.prefer else ""
    )
    return f"{labels}{offer.free_memory >> 20} MiB of free memory"


def _advantage(best: str, offers: Mapping[str, Offered], rules: PlacementRules) -> str:
    """What the chosen host has more of than the others."""
    if len(offers) == 1:
        return "no other host can run it"
    if all(offers[best].preferred > one.preferred for name, one in offers.items() if name != best):
        return f"of the hosts that can run it, it has most of the preferred labels ({_has(offers[best], rules)})"
    which = "least" if rules.strategy == PACK else "most"
    alike = "have most of the preferred labels" if offers[best].preferred else "can run it"
    mine = offers[best].free_memory >> 20
    if any(
        name != best and one.preferred == offers[best].preferred and one.free_memory >> 20 == mine
        for name, one in offers.items()
    ):
        return f"of the hosts that {alike} and have {which} free memory, it is the first by name"
    return f"of the hosts that {alike}, it has {which} free memory"


def refuse_tenancy(design: Design, host: str, hook: HookAnswer, *, stands: bool) -> None:
    """Raises RefusedError where the host may not run the vApp: by its rules and those of who runs
    there, or because it cannot keep others away. `stands`: the vApp runs there already.
    """
    origin = design.tenancy.origin
    line = origin.line if isinstance(origin, FromFile) else 0
    field = "tenancy" if line else ""
    if hook.refusal:
        hint = (BESIDE if stands else OTHER_HOST) if hook.knows else ""
        hint = hint if hook.trusts else TRUST
        what = f"{host} refuses it: {hook.refusal}"
    elif not hook.exists:
        who = "those of this vApp" if design.terms.demands else "a vApp there that demands it"
        what, hint = f"nothing on {host} keeps other VMs away from {who}", INSTALL_HOOK
    else:
        return
    raise RefusedError((Problem(design.file, line, field, what, hint),))


def _problems(design: Design, demand: Demand, hosts: Sequence[Capabilities]) -> Iterator[Problem]:
    for host in hosts:
        if host.no_filters:
            what = f"{host.host} cannot bind a VM to its own MAC address, so a VM could send in another VM's name: {host.no_filters}"
            yield Problem(
                design.file,
                0,
                "",
                what,
                "Install libvirt's network filter driver on that host: see `vcloud doctor`.",
            )
        yield from capacity_problems(design, demand, host)
