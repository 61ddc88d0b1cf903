"""One walk over a plan, on one host: what `vcloud up` does once it is known what is to be done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from vcloud.apply.target import Target
from vcloud.apply.wake import Waker
from vcloud.compile.guest.cloudinit import seed_files, seed_iso
from vcloud.compile.libvirt.devices import starts_linked
from vcloud.compile.libvirt.domain import render_domain, render_interface
from vcloud.compile.libvirt.host import BootFiles, HostFacts
from vcloud.compile.libvirt.network import render_network, zone_networks
from vcloud.compile.libvirt.nwfilter import filter_name, filter_uuid, render_filter
from vcloud.design.model import Role, Vm
from vcloud.errors import GuestError, HostError, VcloudError
from vcloud.guests.cloud_init import wait_for_cloud_init
from vcloud.guests.setup import HostKey, give_identity, load_firewall, load_ips, new_host_key, open_gate, run_commands, wait_ready
from vcloud.hosts import machines
from vcloud.hosts.connection import Host
from vcloud.hosts.observe import domain_ids, observe_domain, write_manifest
from vcloud.hosts.storage import Store
from vcloud.hosts.uplink import make_uplink
from vcloud.plan.diff import flow_changes
from vcloud.plan.state import DomainState, Phase, VappState
from vcloud.plan.steps import Plan, Verb
from vcloud.reporter import Reporter

AGENT_TIMEOUT = 180
"""Seconds from power-on to the guest agent's first answer; a distribution's stock image takes a minute without KVM."""
FRESH = (Verb.MAKE_VM, Verb.REMAKE_VM)
BOOTED = (*FRESH, Verb.RESTART_VM, Verb.START_VM, Verb.RESTORE_VM)
TOUCHED = (*BOOTED, Verb.CONFIGURE_VM)
MIN_WORKERS = 4
CONSOLE_LINES = 12


class Walk:
    """Its methods are the stages, in the order of the package's docstring."""

    def __init__(
        self, host: Host, store: Store, target: Target, state: VappState, plan: Plan, reporter: Reporter, waker: Waker | None
    ) -> None:
        self.host = host
        self.waker = waker
        self.target = target
        self.design = target.design
        self.state = state
        self.plan = plan
        self.reporter = reporter
        self.store = store
        self.facts = HostFacts(target.wanted.accelerator)
        self.boots: Mapping[str, BootFiles] = {}
        self.keys: dict[str, HostKey] = {}
        self.rules = ""
        self.loaded: set[str] = set()
        """Appliances that have their rules."""
        self.restored: set[str] = set()
        """VMs that have gone on from their saved memory."""
        self.marked: dict[str, DomainState | None] = {}
        """What the domains themselves say of the VMs that are not made anew: a settled manifest does not repeat their host keys."""

    def claim(self) -> None:
        """From now on the manifest says that a run goes on, and where the vApp meets the outside."""
        self._write_manifest(Phase.APPLYING)

    def go(self) -> None:
        """From the claimed vApp to the one that stands, ready and protected. Raises VcloudError at the first thing that does not work."""
        self.reporter.part("networks")
        for domain in self.plan.subjects(Verb.REMOVE_VM):
            self._remove(domain)
        make_uplink(self.host, self.target.artifacts.uplink)
        machines.make_filter(self.host, filter_name(self.design.vapp), filter_uuid(self.design.vapp), render_filter(self.design.vapp))
        for network in self.plan.subjects(Verb.MAKE_NETWORK):
            self._make_network(network)
        touched = self._in_order_of_need(self._planned(*TOUCHED))
        self.reporter.part("uploads")
        self.boots = self.target.stock.upload(self.store, touched, self.reporter)
        self.reporter.part("protection")
        kept = {*touched, *self.design.appliances} - {*self._planned(*FRESH)}
        self.marked = {vm.name: observe_domain(self.host, vm.domain) for vm in kept}
        models = self.waker.plan(self._planned(*FRESH), self.boots) if self.waker else ()
        pool = ThreadPoolExecutor(max(MIN_WORKERS, len(touched) + len(models)))
        try:
            if self.waker:
                self.waker.begin(pool, models, self.boots)
            up = {vm.name: pool.submit(self._start_and_configure, vm) for vm in touched}
            for vm in self._in_order_of_loading():
                self._wait(up.get(vm.name))
                self._load_rules(vm)
            self.reporter.part("workloads")
            self._bring_in(pool, up)
            for done in up.values():
                self._wait(done)
        except VcloudError:
            pool.shutdown(cancel_futures=True)  # what has begun ends while the lock is held; nobody else may meet it
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        for network in self.plan.subjects(Verb.REMOVE_NETWORK):
            self.reporter.report(network, "removed")
            machines.remove_network(self.host, network)
        self._write_manifest(Phase.READY)

    def _planned(self, *verbs: Verb) -> tuple[Vm, ...]:
        """VMs that the plan names with such a step; appliances first."""
        names = set(self.plan.subjects(*verbs))
        return tuple(vm for vm in self.design.vms if vm.name in names)

    def _in_order_of_need(self, vms: Sequence[Vm]) -> tuple[Vm, ...]:
        """Those first that others wait for longest: the IPS, whose start takes longer than the firewall's, then the start order."""
        order = [*reversed(self.design.appliances), *self._in_start_order()]
        return tuple(sorted(vms, key=lambda vm: order.index(vm) if vm in order else len(order)))

    def _in_order_of_loading(self) -> tuple[Vm, ...]:
        """What a new flow carries is inspected before the flow is allowed, and what a revoked one carries until it is revoked."""
        firewall_first = flow_changes(self.design, self.state.manifest).only_revokes
        return self.design.appliances if firewall_first else tuple(reversed(self.design.appliances))

    def _verb(self, vm: Vm) -> Verb:
        """The one step of the plan that makes, starts or configures this VM."""
        return next(step.verb for step in self.plan.steps if step.subject == vm.name and step.verb in TOUCHED)

    def _write_manifest(self, phase: Phase) -> None:
        """Until the end only those VMs count as brought in that were before: a killed run's are looked after again."""
        before = self.state.manifest.ids if self.state.manifest else ()
        ids = domain_ids(self.host, self.design) if phase is Phase.READY else before
        write_manifest(self.host, replace(self.target.wanted, phase=phase, ids=ids))

    def _remove(self, domain: str) -> None:
        """Its definition goes last: it tells the next run what is still to be removed."""
        self.reporter.report(domain.partition(".")[2], "removed")
        machines.cut_links(self.host, domain)
        machines.stop_domain(self.host, domain, gently=False)
        self.store.delete_of_domain(domain)
        machines.remove_domain(self.host, domain)

    def _make_network(self, name: str) -> None:
        zone, network = next((zone, network) for zone in self.design.zones for network in zone_networks(zone) if network.name == name)
        machines.make_network(self.host, name, render_network(self.design.vapp, zone, network))

    def _start_and_configure(self, vm: Vm) -> None:
        """Brings one VM to where it has its identity. A workload has no live link yet and its services still wait.

        An image of a user's own cannot make its services wait, so that it is not even started before its turn.
        """
        verb = self._verb(vm)
        if self.boots[vm.name].seed:
            self.reporter.report(vm.name, "waiting for its turn")
            return
        with self._turn(vm, verb):
            self._to_identity(vm, verb)
            if vm.role is not Role.WORKLOAD and self._no_link_is_live():
                self._load_rules(vm)

    def _to_identity(self, vm: Vm, verb: Verb) -> None:
        with self._explained(vm, booting=True):
            if verb is not Verb.CONFIGURE_VM:
                self._power(vm, verb)
            agent = machines.agent_of(self.host, vm.domain)
            agent.wait(AGENT_TIMEOUT)
            self.reporter.report(vm.name, "taking its identity")
            fresh = verb in FRESH and vm.role is Role.WORKLOAD
            if fresh:
                self.keys[vm.name] = new_host_key()
            give_identity(agent, vm, self.target.artifacts.identities[vm.name], self.keys.get(vm.name))
            if vm.role is not Role.WORKLOAD or verb is Verb.CONFIGURE_VM:
                self._mark(vm)
            self.reporter.report(vm.name, "waiting for its turn" if vm.role is Role.WORKLOAD else "loading its rules")

    def _turn(self, vm: Vm, verb: Verb) -> AbstractContextManager[object]:
        """As many VMs wake at a time as the host has processors, from their memory to their identity."""
        return self.waker.turn(vm) if verb in FRESH and self.waker else nullcontext()

    def _no_link_is_live(self) -> bool:
        """Whether the order of loading cannot matter, because no workload runs."""
        appliances = {vm.domain for vm in self.design.appliances}
        return not any(domain.running for domain in self.state.domains if domain.name not in appliances)

    def _power(self, vm: Vm, verb: Verb) -> None:
        """From whatever stands to a VM that has just been started."""
        boot = self.boots[vm.name]
        domain = self.state.domain(vm.domain)
        if verb is Verb.START_VM and domain is not None and domain.running:
            if domain.paused:
                machines.resume_domain(self.host, vm.domain)
            return
        if verb is Verb.RESTORE_VM:
            if self.waker:
                self._restore(vm)
                return
            self.reporter.note(f"{vm.name} is booted cold: what only its saved memory held is lost")
        self._make_way(vm, verb)
        if boot.seed:
            self.store.put_seed(vm.domain, self._seed(vm, fresh=verb in FRESH))
        marks = self._attributes(vm, finished=verb not in FRESH)
        may_have_data = vm.disks or verb is Verb.REMAKE_VM  # asking costs a call, which counts where many VMs wake
        if verb in FRESH and may_have_data and self.store.has_data(vm):
            marks["data"] = "kept"
        disks = {disk.volume: self.store.make_disk(disk.volume, disk.size) for disk in vm.disks}
        xml = render_domain(vm, self.target.artifacts.uplink, self.facts, boot, disks, marks)
        if verb in FRESH and self.waker and self.waker.wake(vm, boot, xml, marks, disks):
            return
        self.store.make_root(vm, boot)
        self.reporter.report(vm.name, "booting")
        machines.start_domain(self.host, vm.domain, xml)

    def _restore(self, vm: Vm) -> None:
        """A memory that cannot be restored is kept: only whoever runs `up` may give it up.

        An image of a user's own gets no document that would set its clock.
        """
        self.reporter.report(vm.name, "restoring")
        try:
            machines.restore_domain(self.host, vm.domain, linked=starts_linked(vm))
        except HostError as error:
            raise HostError(error.what, "`vcloud up --cold` boots what is saved; what only its memory holds is lost then.") from error
        self.restored.add(vm.name)
        if self.boots[vm.name].seed and not machines.set_clock(self.host, vm.domain):
            self.reporter.note(f"the clock of {vm.name} stands where it was saved: no guest agent sets it")

    def _goes_on(self, vm: Vm) -> bool:
        """Whether a VM has come back with its services, because it was saved after an `up` that had brought it in."""
        return vm.name in self.restored and self.state.manifest is not None and self.state.manifest.phase is Phase.READY

    def _make_way(self, vm: Vm, verb: Verb) -> None:
        """Ends and removes what the VM is not to begin with. A killed run may have left a root disk without a domain."""
        machines.cut_links(self.host, vm.domain)
        if verb in (Verb.RESTART_VM, Verb.RESTORE_VM):
            machines.stop_domain(self.host, vm.domain, gently=True)
            machines.forget_memory(self.host, vm.domain)
        elif verb in FRESH:
            machines.remove_domain(self.host, vm.domain)
            self.store.delete_root(vm.domain)
        if verb is Verb.REMAKE_VM and self._began_blank(vm):
            self.store.delete_of_domain(vm.domain)

    def _seed(self, vm: Vm, *, fresh: bool) -> bytes:
        if not fresh:
            return seed_iso(seed_files(self.design, vm, None))
        key = self.keys[vm.name] = new_host_key()
        return seed_iso(seed_files(self.design, vm, (key.private, key.public)))

    def _began_blank(self, vm: Vm) -> bool:
        """Whether the VM was never wholly made, and its data disks, blank at first, hold no more than the beginnings of that."""
        domain = self.state.domain(vm.domain)
        return domain is None or (domain.digests is None and not domain.keeps_data)

    def _load_rules(self, vm: Vm) -> None:
        """Loads an appliance's rules where the plan says so, once. Only after both are loaded does `_bring_in` raise a link."""
        if vm.name in self.loaded:
            return
        artifacts = self.target.artifacts
        with self._explained(vm):
            if vm.role is Role.FIREWALL and self.plan.has(Verb.LOAD_FIREWALL):
                self.rules = load_firewall(machines.agent_of(self.host, vm.domain), artifacts.firewall)
                self._mark(vm)
                self.reporter.report(vm.name, "in force")
            if vm.role is Role.IPS and self.plan.has(Verb.LOAD_IPS):
                load_ips(machines.agent_of(self.host, vm.domain), artifacts.ips)
                self.reporter.report(vm.name, "in force")
        self.loaded.add(vm.name)

    def _bring_in(self, pool: ThreadPoolExecutor, up: Mapping[str, Future[None]]) -> None:
        """Raises links and opens gates, every VM as soon as those it comes after are ready."""
        ready: dict[str, Future[bool]] = {}
        for vm in self._in_start_order():
            earlier = [ready[name] for name in vm.after if name in ready]
            ready[vm.name] = pool.submit(self._bring_in_one, vm, up[vm.name], earlier)
        for future in ready.values():
            self._wait(future)

    def _in_start_order(self) -> Iterator[Vm]:
        """Workloads that were (re)started, each after those it waits for."""
        waiting = [vm for vm in self._planned(*BOOTED) if vm.role is Role.WORKLOAD]
        names = {vm.name for vm in waiting}
        while waiting:
            free = [vm for vm in waiting if not names & set(vm.after)]
            yield from free
            names -= {vm.name for vm in free}
            waiting = [vm for vm in waiting if vm.name in names]

    def _bring_in_one(self, vm: Vm, booted: Future[None], earlier: Sequence[Future[bool]]) -> bool:
        """Whether the VM is ready; not where one that it comes after is not."""
        booted.result()
        wait(earlier)
        if any(future.cancelled() or future.exception() or not future.result() for future in earlier):
            self.reporter.report(vm.name, "not started: what it comes after is not ready")
            return False
        seeded = bool(self.boots[vm.name].seed)
        with self._explained(vm, booting=seeded):
            if seeded:
                with self._turn(vm, self._verb(vm)):
                    self._power(vm, self._verb(vm))
            for nic in vm.nics:
                machines.set_link(self.host, vm.domain, render_interface(vm, nic, self.target.artifacts.uplink, up=True))
            self.reporter.report(vm.name, self._coming_in(vm))
            if seeded:
                wait_for_cloud_init(self.host, self.store, vm)
                if self.waker:
                    self.waker.learn(vm)
            else:
                self._open(vm)
            self._mark(vm)
            self.reporter.report(vm.name, "ready")
        return True

    def _coming_in(self, vm: Vm) -> str:
        """What a workload does once its links are up, in words."""
        if self._goes_on(vm):
            return "going on where it was"
        return "booting, and taking its identity" if self.boots[vm.name].seed else "starting its services"

    def _open(self, vm: Vm) -> None:
        """From the gate to what the file calls ready, by the guest agent."""
        agent = machines.agent_of(self.host, vm.domain)
        if not self._goes_on(vm):
            open_gate(agent, vm)
        if self._verb(vm) in FRESH:
            run_commands(agent, vm)
            if vm.disks:  # it serves from now on, even if it never becomes what the file calls ready
                machines.mark_domain(self.host, vm.domain, {**self._attributes(vm, finished=False), "data": "kept"})
        wait_ready(agent, vm)

    def _mark(self, vm: Vm) -> None:
        """From now on the domain itself says what it was made from."""
        machines.mark_domain(self.host, vm.domain, self._attributes(vm, finished=True))

    def _attributes(self, vm: Vm, *, finished: bool) -> dict[str, str]:
        domain, digests = self.marked.get(vm.name), self.target.wanted.digests_of(vm.name)
        key = self.keys[vm.name].public if vm.name in self.keys else domain.host_key if domain else ""
        marks = {"vapp": self.design.vapp, "name": vm.name, "role": vm.role.value, "host-key": key}
        if vm.role is Role.FIREWALL:
            marks["rules"] = self.rules or (domain.rules if domain else "")
        if finished and digests is not None:
            marks |= {"root": digests.root, "hardware": digests.hardware, "identity": digests.identity}
        return marks

    @contextmanager
    def _explained(self, vm: Vm, *, booting: bool = False) -> Iterator[None]:
        """Says what to type after a failure; while the VM is still booting also what it said last on its console."""
        try:
            yield
        except (GuestError, HostError) as error:
            self.reporter.report(vm.name, "failed")
            console = self.store.console_tail(vm.domain, CONSOLE_LINES) if booting else []
            shown = "\n  the end of its console:\n" + "\n".join(f"    {line}" for line in console) if console else ""
            raise type(error)(
                error.what + shown, error.hint or f"`vcloud up` tries again, `vcloud down {self.design.vapp}` removes what stands."
            ) from error

    @staticmethod
    def _wait(future: Future[Any] | None) -> None:
        """The future's result or error. Waits in short turns, so that Ctrl-C is served."""
        while future is not None:
            try:
                future.result(timeout=0.5)
                return
            except TimeoutError:
                if future.done():
                    raise
