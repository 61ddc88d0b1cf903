"""What a plan is made of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verb(StrEnum):
    """One kind of change; the order is the order in which `vcloud.apply` makes them."""

    REMOVE_VM = "remove VM"
    MAKE_NETWORK = "make network"
    MAKE_VM = "make VM"
    REMAKE_VM = "make VM anew"
    RESTART_VM = "restart VM"
    START_VM = "start VM"
    RESTORE_VM = "restore VM"
    CONFIGURE_VM = "configure VM"
    LOAD_IPS = "load IPS"
    LOAD_FIREWALL = "load firewall"
    REMOVE_NETWORK = "remove network"
    RECORD = "record"


class Cost(StrEnum):
    """What a change costs those who use the vApp now."""

    NEW = "new"
    LIVE = "live"
    RESTART = "restart"
    RECREATE = "recreate"
    REMOVE = "remove"


COSTS = {
    Verb.REMOVE_VM: Cost.REMOVE,
    Verb.REMOVE_NETWORK: Cost.REMOVE,
    Verb.MAKE_NETWORK: Cost.NEW,
    Verb.MAKE_VM: Cost.NEW,
    Verb.REMAKE_VM: Cost.RECREATE,
    Verb.RESTART_VM: Cost.RESTART,
    Verb.START_VM: Cost.NEW,
    Verb.RESTORE_VM: Cost.NEW,
    Verb.CONFIGURE_VM: Cost.LIVE,
    Verb.LOAD_IPS: Cost.LIVE,
    Verb.LOAD_FIREWALL: Cost.LIVE,
    Verb.RECORD: Cost.LIVE,
}


@dataclass(frozen=True, slots=True)
class Step:
    """One change to one thing, and why."""

    verb: Verb
    subject: str
    """Name of the VM; for what is removed and for networks, libvirt's name."""
    why: str

    @property
    def cost(self) -> Cost:
        return COSTS[self.verb]


@dataclass(frozen=True, slots=True)
class Plan:
    """What turns a host's state into the wanted one. Empty: nothing to do."""

    vapp: str
    host: str
    steps: tuple[Step, ...]

    def subjects(self, *verbs: Verb) -> tuple[str, ...]:
        return tuple(step.subject for step in self.steps if step.verb in verbs)

    def has(self, *verbs: Verb) -> bool:
        return any(step.verb in verbs for step in self.steps)

    def losses(self) -> frozenset[str]:
        """What would be made anew or removed, and so loses what only it holds."""
        return frozenset(step.subject for step in self.steps if step.cost in (Cost.RECREATE, Cost.REMOVE))
