"""MemoryImages on a host: the saved memory of a VM that has just booted, from which others of its kind wake.

template-IMAGE-KEY.ID.qcow2   the frozen disk of the VM that was saved; root disks of woken VMs lie over it
template-IMAGE-KEY.ID.save    its memory
cold-IMAGE-KEY                why VMs of that kind cannot wake, and never will
wake.VAPP.VM.save             a copy of it in the name of a VM, for the moment in which that wakes

The key (vcloud.plan.memory_image) says what a template is good for, the ID is drawn, so that a template that is made anew never touches the
disk of one that VMs still run on. A template is there when its save image is whole, which the image itself says. It is made by a VM that
libvirt destroys with the connection, under a lock per key: killed in the middle, nothing of it runs on, and the next one sweeps its volumes.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import libvirt

from vcloud.compile.guest.gate import DESCRIPTION
from vcloud.compile.libvirt.domain import render_domain
from vcloud.compile.libvirt.host import BootFiles, HostFacts
from vcloud.design.model import Uplink, Vm
from vcloud.errors import GuestError, HostError
from vcloud.hosts.agent import Agent
from vcloud.hosts.connection import Host, translated
from vcloud.hosts.lock import named_lock
from vcloud.hosts.pool import StoragePool
from vcloud.hosts.saveimage import MOST, WHOLE, Clone, NotASaveImageError, head_for, read_head
from vcloud.hosts.volume_reading import backings, head, usage
from vcloud.hosts.volumes import Base

PREFIX, COLD = "template-", "cold-"
DISK, MEMORY, CONSOLE = ".qcow2", ".save", ".log"
NAME = re.compile(r"template-(?P<image>.+)-(?P<key>[0-9a-f]{16})\.(?P<id>[0-9a-f]{8})\.(save|qcow2)")
LOCK = "vcloud-templates-lock"
SHORT_PATIENCE = 20
"""Seconds to wait for somebody else who begins a template or sweeps."""
PATIENCE = 300
"""Seconds to wait for somebody else who makes the same template."""
BOOT_TIMEOUT = 180
REASON = 1000
"""Bytes of a reason that are read."""
BOOTED = "command -v systemctl && systemctl is-system-running --wait"
"""Returns when systemd has started all that its default target wants; its exit code says how well."""
QUIET, LOOK, LOOKS = 0.15, 0.4, 20
"""A VM is quiet when it uses less than this share of a core for so many seconds; after so many looks it is taken as it is."""


class DamagedImageError(HostError):
    """A template that cannot be used, and never will be."""


class UnwakeableError(GuestError):
    """An image that cannot become a template, and never will: nothing in it answers, or it cannot be made to wait in its boot."""


@dataclass(frozen=True, slots=True)
class MemoryImage:
    """One template of a host, by the names of its volumes."""

    image: str
    key: str
    id: str
    size: int = 0
    """Bytes of its memory and its disk."""
    used: float = 0
    """When it was made or last woken from, in seconds since 1970 by the host's clock."""

    @property
    def stem(self) -> str:
        return f"{PREFIX}{self.image}-{self.key}.{self.id}"

    @property
    def memory(self) -> str:
        return self.stem + MEMORY

    @property
    def disk(self) -> str:
        return self.stem + DISK


class MemoryImages:
    """The templates of one host. Threads may share it."""

    def __init__(self, host: Host, pool: StoragePool) -> None:
        self.host = host
        self.pool = pool
        self._turn = threading.Lock()

    def list(self) -> tuple[MemoryImage, ...]:
        """Every template, the one that was used last first."""
        volumes = usage(self.pool, PREFIX)
        found = []
        for name, (size, used) in volumes.items():
            match = NAME.fullmatch(name) if name.endswith(MEMORY) else None
            disk = match and volumes.get(name.removesuffix(MEMORY) + DISK)
            if match and disk and head(self.pool, name, len(WHOLE)) == WHOLE:
                found.append(MemoryImage(match["image"], match["key"], match["id"], size + disk[0], used))
        return tuple(sorted(found, key=lambda template: -template.used))

    def make(self, vm: Vm, image: str, key: str, base: Base, cmdline: str, facts: HostFacts, uplink: Uplink) -> MemoryImage:
        """The template of that key, made now unless it is there. `vm` is what `saved_vm` gives, `image` the name of its image.

        Raises:
            HostError, GuestError: it cannot be made; nothing of it stays.
        """
        with named_lock(self.host, vm.domain, f"the template of '{image}'", "up", PATIENCE):
            there = [template for template in self.list() if template.key == key]
            if there:
                return there[0]
            self.sweep()
            self.pool.require_space(vm.memory, f"the template of '{image}'")
            template = MemoryImage(image, key, secrets.token_hex(4))
            try:
                self._boot_and_save(vm, template, base, cmdline, facts, uplink)
            except BaseException as error:
                with suppress(HostError):
                    self.pool.delete([template.memory, template.disk])
                if isinstance(error, UnwakeableError):
                    self.note_unwakeable(image, key, error.what)
                raise
            finally:
                with suppress(HostError):
                    self.pool.delete([template.stem + CONSOLE])
            return template

    def _boot_and_save(self, vm: Vm, template: MemoryImage, base: Base, cmdline: str, facts: HostFacts, uplink: Uplink) -> None:
        boot = BootFiles(self.pool.path(template.disk), self.pool.path(template.stem + CONSOLE), base.kernel, base.initrd, cmdline)
        xml = render_domain(vm, uplink, facts, boot, {}, {"role": "template"})
        with translated(f"the template of '{template.image}' could not be made on {self.host.name}"):
            with self._alone():  # until the VM runs, its disk looks like one that a killed run has left
                self.pool.make_overlay(template.disk, base.disk)
                domain = self.host.connection.createXML(xml, libvirt.VIR_DOMAIN_START_AUTODESTROY)
            try:
                agent = Agent(domain)
                _await_boot(domain, agent, gated=bool(facts.credentials))
                _settle(domain, agent)
                domain.save(self.pool.path(template.memory))
            except BaseException:
                with suppress(libvirt.libvirtError):
                    domain.destroy()
                raise
        self.pool.names(PREFIX)  # lets the pool see what libvirt has written into its folder

    def wake(self, template: MemoryImage, clone: Clone) -> None:
        """A running domain with the memory of a template, where one of that name is defined. It has no card but its template's, and no data disks yet.

        Raises:
            DamagedImageError: the template is damaged. HostError: there is no room, or libvirt breaks.
        """
        copy = f"wake.{clone.name}{MEMORY}"
        try:
            start = head_for(read_head(head(self.pool, template.memory, MOST)), clone).to_bytes()
        except NotASaveImageError as error:
            raise DamagedImageError(f"the template of '{template.image}' is damaged: {error}") from None
        self.pool.require_space(template.size, f"waking '{clone.name}'")
        try:
            self.pool.copy(template.memory, copy, start)
            self.host.connection.restore(self.pool.path(copy))
        except libvirt.libvirtError as error:
            raise DamagedImageError(f"nothing wakes from the template of '{template.image}': {error}") from None
        finally:
            self.pool.delete([copy])
        with suppress(HostError):  # others who wake from it at this moment will say that it was used
            self.pool.overwrite(template.memory, WHOLE)

    def note_unwakeable(self, image: str, key: str, why: str) -> None:
        """From now on no template is made for VMs of that kind. Where there is no room to write that down, the next run tries again."""
        with suppress(HostError):
            self.pool.put(f"{COLD}{image}-{key}", why.encode())

    def unwakeable(self) -> dict[str, str]:
        """Keys of VMs that cannot wake -> why."""
        return {name.rpartition("-")[2]: head(self.pool, name, REASON).decode(errors="replace") for name in self.pool.names(COLD)}

    def forget_unwakeable(self) -> None:
        """Forgets what was found out about images."""
        self.pool.delete(self.pool.names(COLD))

    def remove(self, templates: Collection[MemoryImage]) -> None:
        """Removes templates. A disk that VMs still run on stays until the last of them is gone."""
        self.pool.delete([template.memory for template in templates])
        self.sweep()

    def trim(self, keep: Collection[str] = ()) -> None:
        """Removes what was not used for longest, until all of it takes no more than the inventory allows; keys in `keep` stay."""
        room, old = self.host.ref.templates, []
        for template in sorted(self.list(), key=lambda template: template.key not in keep):  # stable: those that stay, then by use
            room -= template.size
            if room < 0 and template.key not in keep:
                old.append(template)
        if old:
            self.remove(old)

    def sweep(self) -> None:
        """Deletes the disks of removed templates that no VM runs on any more, and what killed runs have left."""
        if self._abandoned():
            with self._alone():
                self.pool.delete([name.removesuffix(DISK) + ending for name in self._abandoned() for ending in (DISK, MEMORY, CONSOLE)])

    def _abandoned(self) -> tuple[str, ...]:
        """Disks of templates that are neither whole nor being made, and that no VM runs on."""
        disks = {name: match["key"] for name in self.pool.names(PREFIX) if name.endswith(DISK) and (match := NAME.fullmatch(name))}
        if not disks:
            return ()
        running = self._running()  # before the look at what is whole: what is saved in between is then one or the other
        whole = {template.disk for template in self.list()}
        left = [name for name, key in disks.items() if name not in whole and not any(domain.endswith(f"-{key}") for domain in running)]
        used = backings(self.pool, "root.") if left else set()
        return tuple(name for name in left if self.pool.path(name) not in used)

    def _running(self) -> tuple[str, ...]:
        with translated(f"the domains of {self.host.name} could not be listed"):
            active = self.host.connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
            return tuple(domain.name() for domain in active)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One at a time, of this process's threads and of all operators."""
        with self._turn, named_lock(self.host, LOCK, "the list of templates", "up or down", SHORT_PATIENCE):
            yield


def _await_boot(domain: libvirt.virDomain, agent: Agent, *, gated: bool) -> None:
    """Until the VM's agent answers; of one that is `gated`, while no service has run yet.

    Raises GuestError; UnwakeableError for a gated one that runs and does not do as it should.
    """
    if not gated:
        agent.wait(BOOT_TIMEOUT)
        return
    try:
        agent.wait(BOOT_TIMEOUT)
        shown = agent.execute(["systemctl", "show", "--property=Description", "--value", "default.target"])
        agent.execute(["python3", "-c", "import json"])
    except GuestError as error:
        if not domain.isActive():
            raise
        raise UnwakeableError("its image has no guest agent that runs systemctl and python3") from error
    if shown.stdout.decode(errors="replace").strip() != DESCRIPTION:
        raise UnwakeableError("its image cannot be made to wait in its boot, which takes systemd 254 or later")


def _settle(domain: libvirt.virDomain, agent: Agent) -> None:
    """Lets a VM end what it does after its boot: whoever wakes from it would have to do it again.

    On a busy host a VM in the middle of its boot looks quiet: where there is a systemd, it is asked. What has no systemd (an appliance), or
    one that is never done, is taken as its use of the processor shows it.
    """
    with suppress(GuestError):
        agent.execute(["/bin/sh", "-c", BOOTED], timeout=BOOT_TIMEOUT)
    for _ in range(LOOKS):
        before = domain.info()[4]
        time.sleep(LOOK)
        if domain.info()[4] - before < QUIET * LOOK * 1e9:
            return
