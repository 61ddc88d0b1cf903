"""The values that all steps of one run of `vcloud up` share: the host, the target, the plan, and
the results of earlier steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from vcloud.apply.target import Target
from vcloud.apply.wake import Waker
from vcloud.compile.libvirt.domain import render_domain
from vcloud.compile.libvirt.host import BootFiles, HostFacts
from vcloud.design.model import Design, Role, Vm
from vcloud.errors import GuestError, HostError, HostRefusedError
from vcloud.guests.setup import HostKey
from vcloud.hosts import machines
from vcloud.hosts.agent import Agent
from vcloud.hosts.connection import Host
from vcloud.hosts.lock import Lock
from vcloud.hosts.sealing import sealing_of
from vcloud.hosts.volumes import VappVolumes
from vcloud.marks import VmMarks
from vcloud.plan.diff import standing_digests
from vcloud.plan.facts import Facts
from vcloud.plan.manifest import Manifest, Phase
from vcloud.plan.state import VappState
from vcloud.plan.steps import FRESH, Plan, Verb
from vcloud.reporter import Reporter

CONSOLE_LINES = 12
"""Lines at the end of a VM's console that a failure shows."""


@dataclass(slots=True)
class Learnt:
    """Results of steps that later steps need. Each entry is written by one step of one VM."""

    keys: dict[str, HostKey] = field(default_factory=dict)
    """VM -> the host key that it was given in this run."""
    changed: dict[str, frozenset[str]] = field(default_factory=dict)
    """VM -> files that have changed while its services ran, and for which no service was reloaded
    yet.
    """
    restored: set[str] = field(default_factory=set)
    """VMs that were restored from their saved memory."""
    rules: str = ""
    """Digest of the ruleset that the firewall reported to be loaded."""
    defined: dict[str, Facts] = field(default_factory=dict)
    """VM -> how libvirt read the definition that this run gave it."""
    tokens: dict[str, str] = field(default_factory=dict)
    """VM -> the token that its running domain got when it was connected."""
    signed: dict[str, int] = field(default_factory=dict)
    """VM -> the generation of the terms that this run gave it."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run on one host."""

    host: Host
    lock: Lock
    claim: Manifest
    """The manifest that the run wrote when it began."""
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
    """VM -> the mark of its domain, for the VMs that are not made anew. It holds the host key,
    which the manifest does not have.
    """
    learnt: Learnt = field(default_factory=Learnt)

    @property
    def design(self) -> Design:
        return self.target.design

    @property
    def knows_files(self) -> bool:
        """Whether the contents of the file's `files` are known. If not, the guests keep those that
        they have.
        """
        return not self.target.images.only_there

    @property
    def generation(self) -> int:
        """The generation of the terms that this run gives VMs; 0 where nobody signs them."""
        return self.claim.generation if self.host.is_signed_on else 0

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
        """Whether the VM was restored with running services. This is so if it was saved after an
        `up` that had ended.
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
        """The mark of a VM. The mark of a `finished` VM has the digests of what it was made from;
        without them, the next run makes the VM anew.
        """
        before = self.marked.get(vm.name)
        return VmMarks(
            vapp=self.design.instance.name,
            vm=vm.name,
            role=vm.role.value,
            host_key=self.host_key(vm),
            digests=self.target.wanted.digests_of(vm.name) if finished else None,
            rules=(self.learnt.rules or (before.rules if before else ""))
            if vm.role is Role.FIREWALL
            else "",
        )

    def definition(self, vm: Vm, disks: Mapping[str, str], marks: VmMarks) -> str:
        """The domain XML of a VM for this host. `disks` maps the names of its data volumes to their
        paths there.
        """
        return render_domain(
            vm,
            self.target.artifacts.uplink,
            HostFacts(self.target.wanted.accelerator, cores=self.target.wanted.cores_of(vm.name)),
            self.boots[vm.name],
            disks,
            sealing_of(self.host).sealed_marks(marks),
            self.design.terms,
            self.generation,
        )

    def host_key(self, vm: Vm) -> str:
        """The public half of a VM's SSH host key; empty if it is not known."""
        before, key = self.marked.get(vm.name), self.learnt.keys.get(vm.name)
        return key.public if key else before.host_key if before else ""

    def mark(self, vm: Vm) -> None:
        """Marks a VM as finished, with the digests of what it was made from."""
        machines.mark_domain(self.host, vm.domain, self.marks(vm, finished=True))

    def mark_used(self, vm: Vm) -> None:
        """Removes the blank disks from the mark, because the VM's services may write to all data
        disks from now on.
        """
        finished = not self.is_fresh(vm)
        marks = replace(self.marks(vm, finished=finished), unready=finished)
        machines.mark_domain(self.host, vm.domain, marks)

    def note_definition(self, vm: Vm, known: Facts | None = None) -> None:
        """Notes how libvirt reads the definition that the VM has just got. `known` replaces parts
        that somebody else has changed by those that vcloud gave the VM before.
        """
        found = machines.definition_of(self.host, vm.domain)
        self.learnt.defined[vm.name] = {**found, **(known or {})}

    def note_connected(self, vm: Vm) -> None:
        """Puts a token into the running domain, which shows that this run connected it."""
        self.learnt.tokens[vm.name] = machines.set_token(self.host, vm.domain)

    def mark_rules(self, vm: Vm) -> None:
        """Writes the digest of the loaded rules into the firewall's mark. If the firewall is
        configured only after its rules were loaded, the mark keeps the other digests that it had.
        """
        verb = self.plan.verb_of(vm.name)
        waits = verb is Verb.CONFIGURE_VM and vm.name not in self.learnt.changed
        marks = self._standing_marks(vm) if waits else self.marks(vm, finished=True)
        machines.mark_domain(self.host, vm.domain, marks)

    def mark_made(self, vm: Vm) -> None:
        """Marks a VM as completely made but not ready yet, so that the next run keeps it."""
        made = replace(self.marks(vm, finished=True), unready=True)
        machines.mark_domain(self.host, vm.domain, made)

    def mark_changing(self, vm: Vm) -> None:
        """Marks a VM as changing. From now on it may have neither its old nor its new
        configuration, so if this run is killed, the next one configures it in any case.
        """
        marks = replace(self._standing_marks(vm), unready=True)
        machines.mark_domain(self.host, vm.domain, marks)

    def _standing_marks(self, vm: Vm) -> VmMarks:
        """The mark of an existing VM that this run has not changed yet."""
        domain = self.state.domain(vm.domain)
        digests = standing_digests(vm, domain, self.state.manifest) if domain else None
        return replace(self.marks(vm, finished=False), digests=digests)

    @contextmanager
    def explained(self, vm: Vm, *, booting: bool = False) -> Iterator[None]:
        """Adds the next command to an error; while the VM is `booting`, also the end of its
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
                or f"`vcloud up` tries again, `vcloud down {self.design.instance.name}` removes the vApp."
            )
            kinds = (GuestError, HostRefusedError, HostError)
            kind = next(kind for kind in kinds if isinstance(error, kind))
            raise kind(error.what + shown, hint) from error
