"""Wakes VMs of a run from memory images. If a VM cannot wake, it is booted, and a note says why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vcloud.apply.target import Target
from vcloud.apply.vm_images import cache_name
from vcloud.compile.libvirt.devices import devices_of, plugged_when_woken, woken_nic
from vcloud.compile.libvirt.domain import terms_text
from vcloud.compile.libvirt.host import BootFiles
from vcloud.design.model import Vm
from vcloud.errors import GuestError, HostError
from vcloud.guests.setup import open_gate_of_own_image
from vcloud.hosts import machines
from vcloud.hosts.connection import Host
from vcloud.hosts.memory_images import DamagedImageError, MemoryImage, MemoryImages, UnwakeableError
from vcloud.hosts.metadata import element_of
from vcloud.hosts.patience import boot_timeout
from vcloud.hosts.saveimage import Clone
from vcloud.hosts.terms import set_terms
from vcloud.hosts.volumes import VappVolumes
from vcloud.plan.memory_image import (
    memory_image_key,
    saved_vm,
    saved_vm_facts,
    why_not_wakeable,
    worth_making,
)
from vcloud.reporter import Reporter

AGENT_PATIENCE = 5
"""Seconds to wait for the guest agent of a VM that is up."""
WAKE_SHARE = 0.1
"""Waking may take this share of the boot timeout, until the agent answers. A VM that needs longer
is booted.
"""


class Waker:
    """The memory images for the VMs that a run makes anew. `choose` decides, `make` makes those
    that are missing, `wake` uses them.
    """

    def __init__(
        self,
        host: Host,
        volumes: VappVolumes,
        target: Target,
        reporter: Reporter,
        known: frozenset[str],
        generation: int = 0,
    ) -> None:
        """`known` are the contents of the images that the host had before this run; `generation` is
        that of the terms which the VMs get, 0 where nobody signs them.
        """
        self.host = host
        self.volumes = volumes
        self.target = target
        self.reporter = reporter
        self.known = known
        self.generation = generation
        self.images = MemoryImages(host, volumes.pool)
        self.keys: Mapping[str, str] = {}
        """VM -> key of the memory image that it would wake from."""
        self.models: dict[str, tuple[Vm, BootFiles]] = {}
        """Key -> one of the VMs of that kind, for the memory images that this run makes."""
        self.ready: dict[str, MemoryImage] = {}
        self.failed: dict[str, HostError | GuestError] = {}

    def choose(
        self, vms: Sequence[Vm], boots: Mapping[str, BootFiles]
    ) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """The memory images that this run makes: pairs of a key and the VMs that wake from it.
        `vms` are those that are made anew.
        """
        uplink = self.target.artifacts.uplink
        wakeable = [vm for vm in vms if self._may_wake(vm.name, why_not_wakeable(vm, uplink))]
        if not wakeable:
            return ()
        try:
            at = self.host.versions
        except HostError as error:
            self.reporter.note(f"no VM wakes from a memory image: {error.what}")
            return ()
        # Only images of a user's own may be unable to wake, so the host's notes are read only if
        # there are some.
        own = {vm.name for vm in wakeable if not vm.image.recipe}
        keys = {vm.name: self._key(vm, boots[vm.name], at) for vm in wakeable}
        self.keys = self._without_unwakeable(keys) if own else keys
        there = {image.key: image for image in self.images.list()}
        self.ready = {key: there[key] for key in {*self.keys.values()} & there.keys()}
        contents = {name: self.target.images.chosen[name].content for name in self.keys}
        made = worth_making(self.keys, there.keys(), contents, self.known, own)
        # In reverse order, so that for several VMs of one kind the first one is used.
        self.models = {
            self.keys[vm.name]: (vm, boots[vm.name])
            for vm in reversed(wakeable)
            if self.keys.get(vm.name) in made
        }
        return tuple(
            (key, tuple(name for name, other in self.keys.items() if other == key))
            for key in sorted(made)
        )

    def _key(self, vm: Vm, boot: BootFiles, at: str) -> str:
        wanted = self.target.wanted
        return memory_image_key(
            vm,
            self.target.images.chosen[vm.name].content,
            wanted.accelerator,
            boot.cmdline,
            at,
            self.target.artifacts.uplink,
        )

    def _without_unwakeable(self, keys: Mapping[str, str]) -> dict[str, str]:
        """The keys without those VMs that cannot wake, as an earlier run found out."""
        unwakeable = self.images.unwakeable()
        return {
            name: key for name, key in keys.items() if self._may_wake(name, unwakeable.get(key, ""))
        }

    def _may_wake(self, name: str, reason: str) -> bool:
        """Whether a VM may wake: if there is no `reason` why it must boot. A reason is shown to the
        user.
        """
        if reason:
            self.reporter.note(f"{name} is booted cold: {reason}")
        return not reason

    def wakes(self, vm: str) -> bool:
        """Whether the VM will wake from a memory image. Then it keeps a processor of the host busy
        until it has its identity.
        """
        key = self.keys.get(vm, "")
        return key in self.ready or key in self.models

    def make(self, key: str) -> None:
        """Makes the memory image with this key. If that fails, its VMs are booted."""
        vm, boot = self.models[key]
        name = cache_name(vm.image)
        self.reporter.report(f"memory image {name}", "booting")
        facts = saved_vm_facts(vm, self.target.wanted.accelerator)
        base, uplink = self.volumes.base_of(vm), self.target.artifacts.uplink
        try:
            self.ready[key] = self.images.make(
                saved_vm(vm, key), name, key, base, boot.cmdline, facts, uplink
            )
            # The memory images of this run are kept, even if they alone take more space than the
            # host allows. Otherwise each run would make them again.
            self.images.trim(keep={*self.keys.values()})
        except (HostError, GuestError) as error:
            self.failed[key] = error
            self.reporter.report(f"memory image {name}", "failed")
        else:
            self.reporter.report(f"memory image {name}", "saved")

    def made(self) -> tuple[MemoryImage, ...]:
        """The memory images of the chosen VMs. Raises HostError, GuestError if one failed to be
        made. A VM that cannot wake at all is only noted.
        """
        for error in self.failed.values():
            if not isinstance(error, UnwakeableError):
                raise error
            self.reporter.note(f"no memory image: {error.what}")
        return tuple(self.ready.values())

    def wake(
        self, vm: Vm, boot: BootFiles, xml: str, marks: Mapping[str, str], disks: Mapping[str, str]
    ) -> bool:
        """Tries to wake the VM. Returns whether it runs now, with its NICs and disks, and its agent
        answers. After a failed attempt, everything of it is removed.
        """
        key = self.keys.get(vm.name, "")
        if not self.wakes(vm.name):
            return False
        try:
            if key in self.failed:
                raise self.failed[key]
            self._wake(self.ready[key], vm, boot, xml, marks, disks)
        except (HostError, GuestError) as error:
            self.reporter.note(f"{vm.name} is booted cold: {error.what}")
            self._clear(vm)
            # No VM can wake from it any more. The next run makes it again.
            if isinstance(error, DamagedImageError):
                self.images.remove([self.ready[key]])
            return False
        return True

    def _wake(
        self,
        image: MemoryImage,
        vm: Vm,
        boot: BootFiles,
        xml: str,
        marks: Mapping[str, str],
        disks: Mapping[str, str],
    ) -> None:
        self.reporter.report(vm.name, "waking")
        # The saved memory belongs to the disk of the memory image, not to the disk of the VM image.
        root = self.volumes.make_root(vm, boot, self.volumes.pool.path(image.disk))
        # libvirt keeps this definition, with all devices, for the next start of the VM.
        machines.define_domain(self.host, vm.domain, xml)
        devices = devices_of(vm, self.target.artifacts.uplink, boot, disks)
        self.images.wake(
            image,
            Clone(
                vm.domain,
                vm.uuid,
                marks,
                root,
                boot.console,
                terms_text(self.target.design.terms),
                self.generation,
                woken_nic(devices),
                element_of(xml, "cputune"),
            ),
        )
        # A saved memory fixes the devices that it was saved with, so all others come afterwards.
        machines.attach_devices(
            self.host, vm.domain, [device.xml() for device in plugged_when_woken(devices)]
        )
        if self.host.operator is not None:
            # The terms were signed for the devices of the saved memory, so they are signed again.
            set_terms(self.host, vm.domain, self.target.design.terms, self.generation)
        agent = machines.agent_of(self.host, vm.domain)
        agent.wait(WAKE_SHARE * boot_timeout())
        if boot.seed:
            open_gate_of_own_image(agent, vm, self._now())

    def _now(self) -> float:
        """Seconds since 1970 by the host's clock. Raises HostError."""
        now = self.host.clock.now()
        if now is None:
            raise HostError(f"the clock of {self.host.name} cannot be read")
        return now

    def note_agent(self, vm: Vm) -> None:
        """Notes on the host that VMs of this kind cannot wake, if no guest agent answers in a
        running VM of a user's own image.
        """
        key = self.keys.get(vm.name)
        if key is None or self.wakes(vm.name):
            return
        try:
            machines.agent_of(self.host, vm.domain).wait(AGENT_PATIENCE)
        except GuestError:
            self.images.note_unwakeable(
                cache_name(vm.image),
                key,
                "no guest agent answered in a running VM of its image",
            )

    def _clear(self, vm: Vm) -> None:
        machines.remove_domain(self.host, vm.domain)
        self.volumes.delete_root(vm.domain)
