"""Memory images of a host. A memory image is the saved memory of a VM that has just booted. Other
VMs of the same kind wake from it.

template-IMAGE-KEY.ID.qcow2   the root disk of the saved VM; the root disks of woken VMs are overlays over it
template-IMAGE-KEY.ID.save    its saved memory
cold-IMAGE-KEY                why VMs of this kind can never wake
wake.VAPP.VM.save             a copy of the saved memory for one VM; it exists only while the VM wakes

Earlier releases called a memory image a template. The names of volumes still begin with
`template-`, because hosts have such volumes.

The key (vcloud.plan.memory_image) is a digest of everything that a VM must have in common with the
saved VM. The ID is random: a memory image that is made again gets a new disk, because VMs may still
run on the old disk.

A memory image exists when its save image is complete. The magic at the beginning of the file tells
that. The VM that is saved belongs to the libvirt connection: libvirt destroys it if the connection
ends. It is made under a lock for its key. So after a killed command no VM remains, and the next
command deletes the volumes (`sweep`).
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import libvirt

from vcloud.compile.guest.gate import DESCRIPTION
from vcloud.compile.libvirt.domain import render_domain
from vcloud.compile.libvirt.host import BootFiles, HostFacts
from vcloud.design.model import Uplink, Vm
from vcloud.errors import GuestError, HostError
from vcloud.hosts.agent import Agent
from vcloud.hosts.connection import Host, message_of, translated
from vcloud.hosts.cores import cores_of_vapps, keep_off
from vcloud.hosts.image_users import users_on
from vcloud.hosts.lock import named_lock
from vcloud.hosts.patience import boot_timeout
from vcloud.hosts.pool import StoragePool
from vcloud.hosts.saveimage import HEAD_LIMIT, MAGIC, Clone, NotASaveImageError, head_for, read_head
from vcloud.hosts.signing import signed
from vcloud.hosts.volume_reading import read_start, usage
from vcloud.hosts.volumes import Base
from vcloud.plan.host_images import (
    MEMORY_IMAGE_PREFIX,
    SAVED_DISK,
    SAVED_MEMORY,
    VOLUME,
    User,
    users_of,
)

UNWAKEABLE_PREFIX, CONSOLE = "cold-", ".log"
NAME = re.compile(
    r"template-(?P<image>.+)-(?P<key>[0-9a-f]{16})\.(?P<id>[0-9a-f]{8})\.(save|qcow2)"
)
LOCK = "vcloud-templates-lock"
"""The lock that a process holds while it begins or deletes memory images. Like the volumes, it has
kept its name from earlier releases.
"""
LIST_LOCK_TIMEOUT = 20
"""Seconds to wait while another process begins a memory image or deletes abandoned ones."""
MAKE_LOCK_TIMEOUT = 300
"""Seconds to wait while another process makes the same memory image."""
REASON_LIMIT = 1000
"""Bytes that are read of a stored reason."""
AWAIT_SYSTEMD = "command -v systemctl && systemctl is-system-running --wait"
"""A command that ends when systemd has started everything that its default target wants. Fails if
there is no systemd.
"""
IDLE_SHARE, SAMPLE_SECONDS, SAMPLES = 0.15, 0.4, 20
"""A VM counts as idle if it uses less than this share of a core during one sample of so many
seconds.

If it was not idle in any of so many samples, its memory is saved nevertheless.
"""


LOADING_FAILED = "load of migration failed"
"""QEMU's words for a saved memory that it cannot load."""


class DamagedImageError(HostError):
    """A memory image cannot be used. Another attempt would fail, too."""


class UnwakeableError(GuestError):
    """No memory image can be made from this image. Another attempt would fail, too.

    Either the image has no guest agent, or it cannot be made to wait during its boot.
    """


@dataclass(frozen=True, slots=True)
class MemoryImage:
    """One memory image of a host. `memory` and `disk` are the names of its volumes."""

    image: str
    """The name of the image that the saved VM was booted from."""
    key: str
    id: str
    size: int = 0
    """Bytes of the saved memory and the disk together."""
    used: float = 0
    """When the memory image was made, or when a VM last woke from it, in seconds since 1970 by the
    host's clock.
    """

    @property
    def stem(self) -> str:
        return f"{MEMORY_IMAGE_PREFIX}{self.image}-{self.key}.{self.id}"

    @property
    def memory(self) -> str:
        return self.stem + SAVED_MEMORY

    @property
    def disk(self) -> str:
        return self.stem + SAVED_DISK


class MemoryImages:
    """The memory images of one host. Threads may share an object."""

    def __init__(self, host: Host, pool: StoragePool) -> None:
        self.host = host
        self.pool = pool
        self._thread_lock = threading.Lock()

    def list(self) -> tuple[MemoryImage, ...]:
        """All memory images. The most recently used one comes first."""
        volumes = usage(self.pool, MEMORY_IMAGE_PREFIX)
        found = []
        for name, (size, used) in volumes.items():
            match = NAME.fullmatch(name) if name.endswith(SAVED_MEMORY) else None
            disk = match and volumes.get(name.removesuffix(SAVED_MEMORY) + SAVED_DISK)
            if match and disk and read_start(self.pool, name, len(MAGIC)) == MAGIC:
                found.append(
                    MemoryImage(match["image"], match["key"], match["id"], size + disk[0], used)
                )
        return tuple(sorted(found, key=lambda memory_image: -memory_image.used))

    def make(
        self,
        vm: Vm,
        image: str,
        key: str,
        base: Base,
        cmdline: str,
        facts: HostFacts,
        uplink: Uplink,
    ) -> MemoryImage:
        """Makes the memory image of that key and returns it. If the host has one already, that one
        is returned.

        Args:
            vm: the VM to boot, as `saved_vm` returns it.
            image: the name of the VM's image.
            key: the key of the memory image.
            base: the files of the image on the host.
            cmdline: the kernel's command line.
            facts: properties of the host that its domains depend on.
            uplink: the network on which firewalls of this host reach the internet.

        Raises:
            HostError, GuestError: the memory image cannot be made. Its volumes are deleted.
        """
        with named_lock(
            self.host, vm.domain, f"the memory image of '{image}'", "up", MAKE_LOCK_TIMEOUT
        ):
            # Another process may have made it while this one waited for the lock.
            existing = [memory_image for memory_image in self.list() if memory_image.key == key]
            if existing:
                return existing[0]
            self.sweep()  # volumes of killed runs take space that is needed now
            # A saved memory can be as large as the memory of the VM.
            self.pool.require_space(vm.memory, f"the memory image of '{image}'")
            memory_image = MemoryImage(image, key, secrets.token_hex(4))
            try:
                self._boot_and_save(vm, memory_image, base, cmdline, facts, uplink)
            # Also after Ctrl-C: half a memory image is of no use.
            except BaseException as error:
                with suppress(HostError):
                    self.pool.delete([memory_image.memory, memory_image.disk])
                if isinstance(error, UnwakeableError):
                    self.note_unwakeable(image, key, error.what)
                raise
            finally:
                with suppress(HostError):
                    self.pool.delete([memory_image.stem + CONSOLE])
            return memory_image

    def _boot_and_save(
        self,
        vm: Vm,
        memory_image: MemoryImage,
        base: Base,
        cmdline: str,
        facts: HostFacts,
        uplink: Uplink,
    ) -> None:
        boot = BootFiles(
            self.pool.path(memory_image.disk),
            self.pool.path(memory_image.stem + CONSOLE),
            base.kernel,
            base.initrd,
            cmdline,
        )
        # In marks, memory images keep their older name.
        xml = render_domain(vm, uplink, facts, boot, {}, {"role": "template"})
        with translated(
            f"the memory image of '{memory_image.image}' could not be made on {self.host.name}"
        ):
            # Until the VM runs, `sweep` would take its disk for the disk of a killed run.
            with self._list_lock():
                self.pool.make_overlay(memory_image.disk, base.disk)
                # `createXML` starts a transient domain: nothing of it is left on the host when it
                # ends.
                domain = self.host.connection.createXML(xml, libvirt.VIR_DOMAIN_START_AUTODESTROY)
            try:
                keep_off(self.host, vm.domain, cores_of_vapps(self.host, but=""))
                agent = Agent(domain)
                _await_agent(domain, agent, gated=bool(facts.credentials))
                _await_idle(domain, agent)
                # `save` also ends the VM. So the disk stays as the saved memory knows it.
                domain.save(self.pool.path(memory_image.memory))
            except BaseException:
                with suppress(libvirt.libvirtError):
                    domain.destroy()
                raise
        # Refreshes the pool, which has not noticed the file that libvirt wrote into its folder.
        self.pool.names(MEMORY_IMAGE_PREFIX)

    def wake(self, memory_image: MemoryImage, clone: Clone) -> None:
        """Starts a domain from a memory image. A domain of that name must be defined.

        The running domain has at most one NIC and no data disk: it has only the devices of the
        saved VM. The caller attaches the others.

        Raises:
            DamagedImageError: the memory image is damaged, or QEMU cannot load it.
            HostError: the pool has too little space, or libvirt fails.
        """
        copy = f"wake.{clone.name}{SAVED_MEMORY}"
        try:
            head = head_for(
                read_head(read_start(self.pool, memory_image.memory, HEAD_LIMIT)), clone
            )
            new_head = replace(head, xml=signed(self.host.operator, head.xml)).to_bytes()
        except NotASaveImageError as error:
            raise DamagedImageError(
                f"the memory image of '{memory_image.image}' is damaged: {error}"
            ) from None
        self.pool.require_space(memory_image.size, f"waking '{clone.name}'")
        try:
            self.pool.copy(memory_image.memory, copy, new_head)
            self.host.connection.restore(self.pool.path(copy))
        except libvirt.libvirtError as error:
            # On a host without enough memory, for example, the memory image is as good as before.
            kind = DamagedImageError if LOADING_FAILED in str(error) else HostError
            raise kind(
                f"'{clone.name}' could not wake from the memory image of '{memory_image.image}': {message_of(error)}"
            ) from None
        finally:
            # By now the VM has read its memory, or it never will. An error of the block says more
            # than one of this, and the next attempt replaces the copy.
            with suppress(HostError):
                self.pool.delete([copy])
        # Writes the bytes that are there already. This sets the time of the last write, which
        # `trim` goes by. If another process does the same at this moment, one of the two may fail;
        # the time is set all the same.
        with suppress(HostError):
            self.pool.overwrite(memory_image.memory, MAGIC)

    def note_unwakeable(self, image: str, key: str, why: str) -> None:
        """Stores that VMs of this kind can never wake, so that no memory image is tried for them
        again.

        If the host has no space left to store this, the next run tries to make the memory image
        again.
        """
        with suppress(HostError):
            self.pool.put(f"{UNWAKEABLE_PREFIX}{image}-{key}", why.encode())

    def unwakeable(self) -> dict[str, str]:
        """The keys of VMs that can never wake -> the reason."""
        return {
            name.rpartition("-")[2]: read_start(self.pool, name, REASON_LIMIT).decode(
                errors="replace"
            )
            for name in self.pool.names(UNWAKEABLE_PREFIX)
        }

    def forget_unwakeable(self) -> None:
        """Deletes the stored reasons why VMs cannot wake. Memory images are then tried for them
        again.
        """
        self.pool.delete(self.pool.names(UNWAKEABLE_PREFIX))

    def remove(self, memory_images: Collection[MemoryImage]) -> None:
        """Removes memory images. If VMs still run on the disk of one, the disk stays until the last
        of these VMs is deleted.
        """
        self.pool.delete([memory_image.memory for memory_image in memory_images])
        self.sweep()

    def trim(self, keep: Collection[str] = ()) -> None:
        """Removes the least recently used memory images until all take no more space than the
        inventory allows.

        Memory images whose keys are in `keep` stay.
        """
        left, surplus = self.host.ref.memory_image_space, []
        # `sorted` is stable: first come those that stay, then the others, the most recently used
        # one first.
        for memory_image in sorted(
            self.list(), key=lambda memory_image: memory_image.key not in keep
        ):
            left -= memory_image.size
            if left < 0 and memory_image.key not in keep:
                surplus.append(memory_image)
        if surplus:
            self.remove(surplus)

    def sweep(self) -> None:
        """Deletes the disks of removed memory images that no VM uses any more, and the volumes of
        killed runs.
        """
        # The first look needs no lock, and mostly finds nothing. The second one is under the lock,
        # because another process may have begun with one of the disks in between.
        if self._abandoned():
            with self._list_lock():
                self.pool.delete(
                    [
                        name.removesuffix(SAVED_DISK) + ending
                        for name in self._abandoned()
                        for ending in (SAVED_DISK, SAVED_MEMORY, CONSOLE)
                    ]
                )

    def _abandoned(self) -> tuple[str, ...]:
        """The disks that do not belong to a complete memory image, that no running command is
        making, and that no VM uses.
        """
        disks = {
            name: match["key"]
            for name in self.pool.names(MEMORY_IMAGE_PREFIX)
            if name.endswith(SAVED_DISK) and (match := NAME.fullmatch(name))
        }
        if not disks:
            return ()
        # The running domains must be listed before the complete memory images. A VM whose memory is
        # saved in between is then in the first list. In the other order it would be in neither, and
        # its disk would be deleted.
        running = self._running()
        complete = {memory_image.disk for memory_image in self.list()}
        left = [
            name
            # The name of a VM that is being saved ends with the key (`plan.memory_image.saved_vm`).
            for name, key in disks.items()
            if name not in complete and not any(domain.endswith(f"-{key}") for domain in running)
        ]
        if not left:
            return ()
        try:
            texts = users_on(self.host, self.pool)
        except HostError:
            return ()  # where nobody can tell who uses them, they stay
        # What libvirt tells of a volume has its own name.
        own = {name: User(VOLUME, name) for name in left}
        return tuple(name for name in left if not users_of(name, texts) - {own[name]})

    def _running(self) -> tuple[str, ...]:
        with translated(f"the domains of {self.host.name} could not be listed"):
            active = self.host.connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
            return tuple(domain.name() for domain in active)

    @contextmanager
    def _list_lock(self) -> Iterator[None]:
        """Excludes all other threads of this process and all other operators."""
        with (
            self._thread_lock,
            named_lock(
                self.host, LOCK, "the list of memory images", "up or down", LIST_LOCK_TIMEOUT
            ),
        ):
            yield


def _await_agent(domain: libvirt.virDomain, agent: Agent, *, gated: bool) -> None:
    """Waits until the VM's agent answers. If the VM is `gated`, it then waits in its boot, before
    any service has started.

    Raises GuestError. Raises UnwakeableError for a gated VM that runs, but has no suitable agent or
    does not wait in its boot.
    """
    if not gated:
        agent.wait(boot_timeout())
        return
    try:
        agent.wait(boot_timeout())
    except GuestError as error:
        if not domain.isActive():
            raise
        raise UnwakeableError(
            f"no guest agent of its image has answered within {boot_timeout()} s"
        ) from error
    try:
        shown = agent.execute(
            ["systemctl", "show", "--property=Description", "--value", "default.target"]
        )
        # A VM that wakes needs python3 (`compile.guest.gate.wake_program`). Without python3,
        # `execute` raises GuestError.
        if agent.execute(["python3", "-c", "import json"]).code != 0:
            raise GuestError("its python3 does not start")
    except GuestError as error:
        if not domain.isActive():
            raise
        raise UnwakeableError(
            "the guest agent of its image does not run systemctl and python3"
        ) from error
    # An older systemd ignores the gate, and by now has started the services of the image.
    if shown.stdout.decode(errors="replace").strip() != DESCRIPTION:
        raise UnwakeableError(
            "its image cannot be made to wait during its boot; it needs systemd 254 or later"
        )


def _await_idle(domain: libvirt.virDomain, agent: Agent) -> None:
    """Waits until a VM has finished the work of its boot. Otherwise every VM that wakes from its
    memory would have to do this work.

    On a busy host a VM looks idle in the middle of its boot, so systemd is asked first. An
    appliance has no systemd, and some systems never finish. For these, the use of the processor
    decides.
    """
    with suppress(GuestError):
        agent.execute(["/bin/sh", "-c", AWAIT_SYSTEMD], timeout=boot_timeout())
    for _ in range(SAMPLES):
        before = domain.info()[4]  # processor time in nanoseconds
        time.sleep(SAMPLE_SECONDS)
        if domain.info()[4] - before < IDLE_SHARE * SAMPLE_SECONDS * 1e9:
            return
