"""Plans and their steps. A step has a host, a cost, the steps that it needs, and a way to undo it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from vcloud.plan.given import ParameterChange
from vcloud.plan.host_difference import HostKind, HostSide


class Verb(StrEnum):
    """One kind of change. A plan lists its steps in this order. `Step.needs` says in which order
    they run.
    """

    REMOVE_VM = "remove VM"
    DEFINE_FILTER = "define filter"
    MAKE_NETWORK = "make network"
    REMAKE_NETWORK = "make network anew"
    MEND_HOST = "mend host"
    """Run commands that undo changes that somebody made on the host without libvirt."""
    MAKE_MEMORY_IMAGE = "make memory image"
    MAKE_VM = "make VM"
    REMAKE_VM = "make VM anew"
    RESTART_VM = "restart VM"
    START_VM = "start VM"
    RESTORE_VM = "restore VM"
    CONFIGURE_VM = "configure VM"
    MEND_VM = "mend VM"
    """Restore the running VM, its definition and its cards on the host as vcloud made them, without
    a restart.
    """
    LOAD_IPS = "load IPS"
    LOAD_FIREWALL = "load firewall"
    CONNECT_VM = "connect VM"
    """Raise a workload's links, start its services and wait until it is ready. Part of the step
    that starts the VM.
    """
    REFRESH_VM = "refresh services"
    """Reload or restart the units of a workload that read changed files, and wait until it is
    ready. Part of the step that configures the VM.
    """
    REMOVE_NETWORK = "remove network"
    RECORD = "record"
    """Write the manifest that says that the vApp is ready. Every run ends with it."""


class Cost(StrEnum):
    """The cost of a change to those who use the vApp now."""

    NEW = "new"
    LIVE = "live"
    RESTART = "restart"
    RECREATE = "recreate"
    REMOVE = "remove"


FRESH: Final = frozenset({Verb.MAKE_VM, Verb.REMAKE_VM})
"""The VM gets a new root disk."""
STARTED: Final = FRESH | {Verb.RESTART_VM, Verb.START_VM, Verb.RESTORE_VM}
"""The VM was off or without links, and is running with links afterwards."""
TOUCHED: Final = STARTED | {Verb.CONFIGURE_VM}
"""The VM gets its identity."""
LOADED: Final = frozenset({Verb.LOAD_IPS, Verb.LOAD_FIREWALL})
SETTLED: Final = frozenset({Verb.CONNECT_VM, Verb.REFRESH_VM})
"""The workload is ready afterwards."""
HIDDEN: Final = SETTLED | {Verb.MAKE_MEMORY_IMAGE}
"""Parts of other steps. A plan does not show them: the user has agreed to the whole step."""

COSTS: Final = {
    Verb.REMOVE_VM: Cost.REMOVE,
    Verb.DEFINE_FILTER: Cost.LIVE,
    Verb.MAKE_NETWORK: Cost.NEW,
    Verb.REMAKE_NETWORK: Cost.RESTART,
    Verb.MEND_HOST: Cost.LIVE,
    Verb.MAKE_MEMORY_IMAGE: Cost.NEW,
    Verb.MAKE_VM: Cost.NEW,
    Verb.REMAKE_VM: Cost.RECREATE,
    Verb.RESTART_VM: Cost.RESTART,
    Verb.START_VM: Cost.NEW,
    Verb.RESTORE_VM: Cost.NEW,
    Verb.CONFIGURE_VM: Cost.LIVE,
    Verb.MEND_VM: Cost.LIVE,
    Verb.LOAD_IPS: Cost.LIVE,
    Verb.LOAD_FIREWALL: Cost.LIVE,
    Verb.CONNECT_VM: Cost.NEW,
    Verb.REFRESH_VM: Cost.LIVE,
    Verb.REMOVE_NETWORK: Cost.REMOVE,
    Verb.RECORD: Cost.LIVE,
}
REMOVED_BY_DOWN: Final = "`vcloud down` removes it"
BY_THE_FILE: Final = "`vcloud up` with the file as it was before"
UNDO: Final = {
    Verb.REMOVE_VM: "",
    Verb.DEFINE_FILTER: REMOVED_BY_DOWN,
    Verb.MAKE_NETWORK: REMOVED_BY_DOWN,
    Verb.REMAKE_NETWORK: BY_THE_FILE,
    Verb.MEND_HOST: "root on the host changes it again",
    Verb.MAKE_MEMORY_IMAGE: "`vcloud image memory rm` removes it",
    Verb.MAKE_VM: REMOVED_BY_DOWN,
    Verb.REMAKE_VM: "",
    Verb.RESTART_VM: BY_THE_FILE,
    Verb.START_VM: "`vcloud stop` stops it",
    Verb.RESTORE_VM: "`vcloud save` saves it again",
    Verb.CONFIGURE_VM: BY_THE_FILE,
    Verb.MEND_VM: "`virsh edit` and `virsh update-device` change it again",
    Verb.LOAD_IPS: BY_THE_FILE,
    Verb.LOAD_FIREWALL: BY_THE_FILE,
    Verb.CONNECT_VM: "`virsh domif-setlink` cuts its links",
    Verb.REFRESH_VM: BY_THE_FILE,
    Verb.REMOVE_NETWORK: BY_THE_FILE,
    Verb.RECORD: BY_THE_FILE,
}
"""The way to undo each kind of change. Empty if there is none: data that only the VM's root disk
holds is lost.
"""


@dataclass(frozen=True, slots=True)
class Loss:
    """Data that a step takes away for good."""

    what: str
    """The data as people name it: `store.data` for a data disk, `store` for the root disk of a VM,
    `store (saved memory)`.
    """
    why: str
    """What happens to the data, and how to keep it."""

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


@dataclass(frozen=True, slots=True)
class OlderCopy:
    """A copy of a vApp that is superseded."""

    host: str
    loses: tuple[Loss, ...] = ()
    """The data that goes with it."""

    def told(self, vapp: str, newest: str) -> str:
        """A sentence without an end."""
        return f"an older copy of '{vapp}' is on {self.host}, superseded by the one on {newest}"


@dataclass(frozen=True, slots=True)
class Uncompared:
    """A host that could not be asked whether it has a newer copy of a vApp."""

    host: str
    why: str

    def told(self, vapp: str, started: str) -> str:
        """A sentence without an end. `started` is the host whose copy the plan starts."""
        return f"{self.host} cannot be asked whether it has a newer copy of '{vapp}' than {started} ({self.why})"


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference between what vcloud made and what is there now: in libvirt, in an appliance,
    or on the host.
    """

    subject: str
    """The VM; or libvirt's name of the network or the filter."""
    what: str
    mend: Verb | None
    """The step that mends it; None if only a person can."""
    unknown: bool = False
    """No real difference is known: an earlier release made the VM and did not note how libvirt read
    its definition.
    """
    card: str = ""
    """The tap of the VM's card that differs; empty if the difference is not about a card."""
    tells: frozenset[HostKind] = frozenset()
    """The kinds of differences that this card has on the host for the same reason."""
    pins: bool = False
    """It is about the processors that the VM may use."""


@dataclass(frozen=True, slots=True)
class Step:
    """One change to one thing on one host, and why."""

    verb: Verb
    subject: str
    """The name of the VM. For removals and networks: libvirt's name. For a memory image: its key.
    For commands on the host: the host.
    """
    why: str
    host: str = ""
    loses: tuple[Loss, ...] = ()
    """The data that this step destroys. A root disk is not listed, because `cost` shows its loss."""
    commands: tuple[tuple[str, ...], ...] = ()
    """The commands that root runs on the host, as lists of arguments; only for `MEND_HOST`."""
    needs: frozenset[str] = field(default=frozenset(), compare=False)
    """Ids of the steps that must have ended before this one begins."""
    rank: int = field(default=0, compare=False)
    """Of several steps that may begin, the one with the lowest rank begins first."""

    @property
    def id(self) -> str:
        return f"{self.verb} {self.subject}"

    @property
    def cost(self) -> Cost:
        return COSTS[self.verb]

    @property
    def undo(self) -> str:
        return UNDO[self.verb]


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps from the state of a host to the wanted state. A plan without steps means that
    nothing is to be done.
    """

    vapp: str
    host: str
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()
    """Sentences for the user about what may go wrong later on the host."""
    host_side: HostSide | None = None
    """The host's side: before a run as it was found, after a run as the run has left it. None if
    the vApp does not exist yet.
    """
    unmended: tuple[str, ...] = ()
    """Differences that no step ends, each with its way out."""
    older: tuple[OlderCopy, ...] = ()
    """The superseded copies of the vApp on other hosts, which `up` removes before anything else."""
    uncompared: tuple[Uncompared, ...] = ()
    """The hosts that may have a newer copy than the one that the plan starts."""
    parameters: tuple[ParameterChange, ...] = ()
    """The parameters that have other values than at the last `up`."""

    @property
    def caveat(self) -> str:
        """The text that a message about the vApp adds; empty if everything was looked at."""
        return self.host_side.caveat if self.host_side else ""

    @property
    def shown(self) -> tuple[Step, ...]:
        """The steps that the user is shown and agrees to: all but parts of others. `record` is
        shown only if there is no other step.
        """
        own = tuple(step for step in self.steps if step.verb not in HIDDEN)
        return tuple(step for step in own if step.verb is not Verb.RECORD) or own

    def subjects(self, *verbs: Verb) -> tuple[str, ...]:
        return tuple(step.subject for step in self.steps if step.verb in verbs)

    def has(self, *verbs: Verb) -> bool:
        return any(step.verb in verbs for step in self.steps)

    def verb_of(self, vm: str) -> Verb | None:
        """How this plan makes, starts or configures a VM; None if it does not touch the VM."""
        return next(
            (step.verb for step in self.steps if step.subject == vm and step.verb in TOUCHED), None
        )

    def losses(self) -> frozenset[str]:
        """Names of the VMs and networks that the plan makes anew or removes. Data that only their
        root disks hold is lost.
        """
        removed = {step.subject for step in self.steps if step.cost in (Cost.RECREATE, Cost.REMOVE)}
        return frozenset(removed | {f"the older copy on {copy.host}" for copy in self.older})

    def lost_data(self) -> tuple[Loss, ...]:
        """The data that the whole plan destroys."""
        older = (loss for copy in self.older for loss in copy.loses)
        return (*older, *(loss for step in self.steps for loss in step.loses))

    def with_steps(self, more: Iterable[Step]) -> Plan:
        """The plan with further steps, in the order of `Verb`."""
        return replace(self, steps=in_order((*self.steps, *more)))


def in_order(steps: Iterable[Step]) -> tuple[Step, ...]:
    """The steps in the order of `Verb`. Steps with the same verb keep their order."""
    order = list(Verb)
    return tuple(sorted(steps, key=lambda step: order.index(step.verb)))
