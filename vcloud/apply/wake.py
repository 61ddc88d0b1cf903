"""Which VMs of a run wake from a template, and how. Whatever stands in the way, the VM is booted cold instead, and it is said so."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

from vcloud.apply.stock import cache_name
from vcloud.apply.target import Target
from vcloud.compile.libvirt.devices import devices_of, plugged_when_woken, woken_nic
from vcloud.compile.libvirt.host import BootFiles
from vcloud.design.model import Vm
from vcloud.errors import GuestError, HostError
from vcloud.guests.setup import open_gate_of_own_image
from vcloud.hosts import machines
from vcloud.hosts.accelerator import versions
from vcloud.hosts.connection import Host
from vcloud.hosts.saveimage import Clone
from vcloud.hosts.storage import DIGITS, Store
from vcloud.hosts.templates import NoGateError, Template, TemplateError, Templates
from vcloud.plan.memory import template_facts, template_key, template_vm, why_cold, worth_making
from vcloud.reporter import Reporter

AGENT_PATIENCE = 5
"""Seconds for the agent of a VM that is up."""
AGENT_TIMEOUT = 30
"""Seconds from waking to the agent's answer, which takes one; a VM that needs longer is booted cold."""


class Waker:
    """Templates for the VMs that a run makes anew. `begin` decides and starts what takes time, `wake` is called for each VM."""

    def __init__(self, host: Host, store: Store, target: Target, reporter: Reporter, known: frozenset[str]) -> None:
        self.host = host
        self.store = store
        self.target = target
        self.reporter = reporter
        self.known = known
        self.templates = Templates(host, store.pool)
        self.keys: Mapping[str, str] = {}
        self.ready: dict[str, Future[Template]] = {}
        self._processors = threading.Semaphore(host.processors)

    def plan(self, vms: Sequence[Vm], boots: Mapping[str, BootFiles]) -> tuple[Vm, ...]:
        """One VM for each template that is to be made, and notes which are there. `vms` are those that the run makes anew."""
        accelerator, uplink, digests = self.target.wanted.accelerator, self.target.artifacts.uplink, self.target.stock.digests
        wakeable = [vm for vm in vms if self._may_wake(vm.name, why_cold(vm, uplink))]
        if not wakeable:
            return ()
        try:
            at = versions(self.host)
        except HostError as error:
            self.reporter.note(f"nothing wakes from a template: {error.what}")
            return ()
        keys = {vm.name: template_key(vm, digests[vm.name], accelerator, boots[vm.name].cmdline, at, uplink) for vm in wakeable}
        own = {vm.name for vm in wakeable if not vm.image.recipe}
        self.keys = self._with_hope(keys) if own else keys
        there = {template.key: template for template in self.templates.list()}
        images = {name: digests[name][:DIGITS] for name in self.keys}
        made = worth_making(self.keys, there.keys(), images, self.known, own)
        for key in {*self.keys.values()} & there.keys():
            self.ready[key] = Future()
            self.ready[key].set_result(there[key])
        first = {self.keys[vm.name]: vm for vm in reversed(wakeable) if vm.name in self.keys}
        return tuple(first[key] for key in sorted(made))

    def _with_hope(self, keys: Mapping[str, str]) -> dict[str, str]:
        """Without the VMs of which it is known that they cannot wake."""
        forgone = self.templates.forgone()
        return {name: key for name, key in keys.items() if self._may_wake(name, forgone.get(key, ""))}

    def _may_wake(self, name: str, reason: str) -> bool:
        """Whether there is no reason why a VM must boot. One that there is, is told."""
        if reason:
            self.reporter.note(f"{name} is booted cold: {reason}")
        return not reason

    def begin(self, pool: ThreadPoolExecutor, models: Sequence[Vm], boots: Mapping[str, BootFiles]) -> None:
        """Starts to make the templates of these VMs' kinds."""
        for vm in models:
            self.ready[self.keys[vm.name]] = pool.submit(self._make, vm, boots[vm.name])

    def made(self) -> Iterator[Template]:
        """Each template of the run, when it is there. Raises HostError, GuestError where one cannot be made, though it could be."""
        for future in self.ready.values():
            try:
                yield future.result()
            except NoGateError as error:
                self.reporter.note(f"no template: {error.what}")

    def _make(self, vm: Vm, boot: BootFiles) -> Template:
        key, image = self.keys[vm.name], cache_name(vm.image)
        self.reporter.report(f"template {image}", "booting")
        facts = template_facts(vm, self.target.wanted.accelerator)
        base, uplink = self.store.base_of(vm), self.target.artifacts.uplink
        template = self.templates.make(template_vm(vm, key), image, key, base, boot.cmdline, facts, uplink)
        self.templates.trim(keep={*self.keys.values()})
        self.reporter.report(f"template {image}", "saved")
        return template

    @contextmanager
    def turn(self, vm: Vm) -> Iterator[None]:
        """Holds one of the host's processors, once the VM's template is there; for a VM that wakes from none, nothing."""
        future = self.ready.get(self.keys.get(vm.name, ""))
        if future is None:
            yield
            return
        wait([future])
        with self._processors:
            yield

    def wake(self, vm: Vm, boot: BootFiles, xml: str, marks: Mapping[str, str], disks: Mapping[str, str]) -> bool:
        """Whether the VM runs now, with its cards and disks, and its agent answers. Otherwise nothing of the attempt is left."""
        future = self.ready.get(self.keys.get(vm.name, ""))
        if future is None:
            return False
        try:
            self._wake(future.result(), vm, boot, xml, marks, disks)
        except (HostError, GuestError) as error:
            self.reporter.note(f"{vm.name} is booted cold: {error.what}")
            self._clear(vm, future, damaged=isinstance(error, TemplateError))
            return False
        return True

    def _wake(self, template: Template, vm: Vm, boot: BootFiles, xml: str, marks: Mapping[str, str], disks: Mapping[str, str]) -> None:
        self.reporter.report(vm.name, "waking")
        root = self.store.make_root(vm, boot, self.store.pool.path(template.disk))
        machines.define_domain(self.host, vm.domain, xml)
        devices = devices_of(vm, self.target.artifacts.uplink, boot, disks)
        self.templates.wake(template, Clone(vm.domain, vm.uuid, marks, root, boot.console, woken_nic(devices)))
        machines.plug(self.host, vm.domain, [device.xml() for device in plugged_when_woken(devices)])
        agent = machines.agent_of(self.host, vm.domain)
        agent.wait(AGENT_TIMEOUT)
        if boot.seed:
            open_gate_of_own_image(agent, vm)

    def learn(self, vm: Vm) -> None:
        """A VM of a user's own image is up: where nothing in it answers now, nothing ever will, and no template need be tried."""
        key = self.keys.get(vm.name)
        if key is None or key in self.ready:
            return
        try:
            machines.agent_of(self.host, vm.domain).wait(AGENT_PATIENCE)
        except GuestError:
            self.templates.forgo(cache_name(vm.image), key, "its image has no guest agent")

    def _clear(self, vm: Vm, future: Future[Template], *, damaged: bool) -> None:
        machines.remove_domain(self.host, vm.domain)
        self.store.delete_root(vm.domain)
        if damaged:
            self.templates.remove([future.result()])
