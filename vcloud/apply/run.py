"""The things that all steps of one run of `vcloud up` share: the host, the target, the plan, and
what earlier steps found out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from vcloud.apply.target import Target
from vcloud.apply.wake import Waker
from vcloud.compile.libvirt.host import BootFiles
from vcloud.design.model import Design, Role, Vm
from vcloud.errors import GuestError, HostError
from vcloud.guests.setup import HostKey
from vcloud.hosts import machines
from vcloud.hosts.agent import Agent
from vcloud.hosts.connection import Host
from vcloud.hosts.volumes import VappVolumes
from vcloud.marks import VmMarks
from vcloud.plan.manifest import Phase
from vcloud.plan.state import VappState
from vcloud.plan.steps import FRESH, Plan, Verb
from vcloud.reporter import Reporter

CONSOLE_LINES = 12
"""Lines at the end of a VM's console that a failure shows."""


@dataclass(slots=True)
class Learnt:
    """Facts that steps find out for the steps after them. Each entry is written by one step of one
    VM.
    """

    keys: dict[str, HostKey] = field(default_factory=dict)
    """VM -> the host key that it was given in this run."""
    restored: set[str] = field(default_factory=set)
    """VMs that go on from their saved memory."""
    rules: str = ""
    """Digest of the ruleset that the firewall reported to be loaded."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run on one host."""

    host: Host
    volumes: VappVolumes
    target: Target
    state: VappState
    """The vApp on the host before the run."""
    plan: Plan
    reporter: Reporter
    boots: Mapping[str, BootFiles]
    """VM -> the files that it boots from, for the VMs that this run touches."""
    waker: Waker | None
    """None: every VM is booted."""
    marked: Mapping[str, VmMarks]
    """VM -> its own mark, for the VMs that are not made anew: a settled manifest does not repeat
    host keys.
    """
    learnt: Learnt = field(default_factory=Learnt)

    @property
    def design(self) -> Design:
        return self.target.design

    def vm(self, name: str) -> Vm:
        return next(vm for vm in self.design.vms if vm.name == name)

    def verb(self, vm: Vm) -> Verb:
        """How the plan makes, starts or configures this VM."""
        verb = self.plan.verb_of(vm.name)
        assert verb is not None  # noqa: S101 - asked only for VMs that the plan touches
        return verb

    def is_fresh(self, vm: Vm) -> bool:
        """Whether the VM gets a new root disk in this run."""
        return self.plan.verb_of(vm.name) in FRESH

    def goes_on(self, vm: Vm) -> bool:
        """Whether the VM has come back with its services: it was restored, and it was saved after
        an `up` that had ended.
        """
        manifest = self.state.manifest
        return (
            vm.name in self.learnt.restored
            and manifest is not None
            and manifest.phase is Phase.READY
        )

    def agent(self, vm: Vm) -> Agent:
        return machines.agent_of(self.host, vm.domain)

    def marks(self, vm: Vm, *, finished: bool) -> VmMarks:
        """The mark of a VM. A VM that is `finished` tells what it was made from; one that is not is
        made anew by the next run.
        """
        before, key = self.marked.get(vm.name), self.learnt.keys.get(vm.name)
        return VmMarks(
            vapp=self.design.instance.name,
            vm=vm.name,
            role=vm.role.value,
            host_key=key.public if key else before.host_key if before else "",
            digests=self.target.wanted.digests_of(vm.name) if finished else None,
            rules=(self.learnt.rules or (before.rules if before else ""))
            if vm.role is Role.FIREWALL
            else "",
        )

    def mark(self, vm: Vm) -> None:
        """From now on the domain itself says what it was made from."""
        machines.mark_domain(self.host, vm.domain, self.marks(vm, finished=True))

    def mark_data(self, vm: Vm) -> None:
        """From now on the data disks of a VM that is not finished hold data: the VM serves, even if
        it never becomes ready.
        """
        machines.mark_domain(self.host, vm.domain, self.marks(vm, finished=False).with_data())

    @contextmanager
    def explained(self, vm: Vm, *, booting: bool = False) -> Iterator[None]:
        """Adds to a failure what to type next; while the VM is `booting` also the end of its
        console.
        """
        try:
            yield
        except (GuestError, HostError) as error:
            self.reporter.report(vm.name, "failed")
            console = self.volumes.console_tail(vm.domain, CONSOLE_LINES) if booting else []
            shown = (
                "\n  the end of its console:\n" + "\n".join(f"    {line}" for line in console)
                if console
                else ""
            )
            hint = (
                error.hint
                or f"`vcloud up` tries again, `vcloud down {self.design.instance.name}` removes what stands."
            )
            raise type(error)(error.what + shown, hint) from error
