"""Finds whether the VMs of a host run under KVM, or under TCG (emulation).

There are hosts where /dev/kvm exists and libvirt offers KVM, and yet every kernel hangs under it. So vcloud
boots a small VM under KVM once per host: the KVM test boot. The result is stored on the host. It counts as
long as libvirt, QEMU and the kernel of the host stay the same.
"""

from __future__ import annotations

import secrets
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import libvirt
from pydantic import TypeAdapter

from vcloud.compile.libvirt.domain import render_test_boot
from vcloud.compile.libvirt.host import HostFacts
from vcloud.errors import HostError
from vcloud.hosts.connection import Host, interruptible, message_of, translated
from vcloud.hosts.metadata import parse
from vcloud.hosts.pool import StoragePool
from vcloud.hosts.stream import CHUNK, stream_socket
from vcloud.hosts.uploads import any_upload
from vcloud.hosts.volume_reading import peek

VOLUME = "accelerator.json"
"""In the storage pool of the host, beside the images. It is a cache, like them."""
WORDS = b"vcloud-probe: user space reached"
"""What the init of shipped images prints if the kernel command line has `vcloud.probe` (images/base/initramfs/init.c)."""
PATIENCE = 2
"""KVM may take this many times as long as emulation. If KVM works, it needs a fifth of that time, or less."""
LONGEST = 300
"""Seconds after which the test boot ends. Emulation needs three seconds, and some minutes on a host that is itself emulated."""
KERNEL_SUFFIX, INITRD_SUFFIX = "", ".cpio"
LARGEST = 4096
"""Bytes that are read of the stored result."""
QUOTED = 120
"""Characters of libvirt's own message in a reason."""


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What the VMs of a host run on."""

    name: str
    """`kvm` or `tcg`."""
    reason: str
    """Why, as a clause: `a kernel boots under KVM`."""
    proven: bool = True
    """The result is about KVM itself, and is stored. Otherwise the test boot failed for another reason."""


@dataclass(frozen=True, slots=True)
class _Stored:
    """The content of `VOLUME`."""

    versions: str
    found: Accelerator


_STORED = TypeAdapter(_Stored)


def host_accelerator(host: Host) -> Accelerator:
    """The accelerator of a host, without uploading anything to it.

    It is the stored result or, if there is none, that of a test boot with a kernel that an earlier vApp has left
    on the host. If there is no such kernel, the answer is TCG, and is not stored.

    Raises:
        HostError: the versions of the host cannot be read, or libvirt fails.
    """
    known = remembered(host)
    if known:
        return known
    pool = StoragePool(host)
    kernel, initrd = (any_upload(pool, kind, suffix) for kind, suffix in (("kernel-", KERNEL_SUFFIX), ("initrd-", INITRD_SUFFIX)))
    if kernel and initrd:
        return find_accelerator(host, kernel, initrd)
    return _without_kvm(host) or Accelerator("tcg", "libvirt offers KVM, but the host has no kernel yet to test it with")


def remembered(host: Host) -> Accelerator | None:
    """The result of an earlier test boot on this host with the same libvirt, QEMU and kernel; None if there is none."""
    try:
        stored = _STORED.validate_json(peek(host, VOLUME, LARGEST))
    except ValueError:
        return None  # nothing is stored, or another release has stored it
    return stored.found if stored.versions == versions(host) else None


def find_accelerator(host: Host, kernel: str, initrd: str) -> Accelerator:
    """The accelerator of a host: the stored result, or that of a test boot, which is then stored.

    Args:
        host: an open host.
        kernel: path on the host of a shipped image's kernel.
        initrd: path on the host of its initramfs.

    Raises:
        HostError: the versions of the host cannot be read, or libvirt fails.
    """
    known = remembered(host)
    if known:
        return known
    kvm, tcg = (boot_xml(kernel, initrd, accelerator) for accelerator in ("kvm", "tcg"))
    found = _without_kvm(host) or interruptible(lambda: boot_both(host, kvm, tcg))
    if not found.proven:
        return found
    stored = _Stored(versions(host), found)
    with suppress(HostError):  # if it cannot be stored, the next run boots again
        StoragePool(host).put(VOLUME, _STORED.dump_json(stored))
    return found


def versions(host: Host) -> str:
    """The versions of libvirt, QEMU and the kernel of a host, as one text. Saved memory and the stored result depend on them.

    Raises:
        HostError: they cannot be read.
    """
    release = host.shell.run(["uname", "-r"])
    if release.code != 0:
        raise HostError(f"the kernel's version on {host.name} cannot be read: {release.stderr.decode(errors='replace').strip()}")
    with translated(f"the versions of {host.name} could not be read"):
        return f"libvirt {host.connection.getLibVersion()} qemu {host.connection.getVersion()} linux {release.stdout.decode().strip()}"


def _without_kvm(host: Host) -> Accelerator | None:
    """TCG, if libvirt does not offer KVM; None if only a test boot can tell."""
    with translated(f"the capabilities of {host.name} could not be read"):
        capabilities = parse(host.connection.getCapabilities())
    if capabilities.find("guest/arch[@name='x86_64']/domain[@type='kvm']") is None:
        return Accelerator("tcg", "libvirt offers no KVM there")
    return None


def boot_both(host: Host, kvm_xml: str, tcg_xml: str) -> Accelerator:
    """Boots a small VM under KVM and the same VM under TCG at the same time, and compares them. Both are removed in the end.

    This needs no guess at how long a boot may take: on any machine, however slow or busy, KVM is faster than
    emulation, or it is of no use. The result is only about KVM if the VM under TCG reaches user space. If the host
    has too little memory, or if the kernel boots nowhere, both VMs fail.
    """
    begun = time.monotonic()
    try:
        with _running(host, kvm_xml) as kvm, _running(host, tcg_xml) as tcg:
            return race(BootingVm(kvm), BootingVm(tcg), begun)
    except libvirt.libvirtError as error:
        return not_started(message_of(error), _starts(host, kvm_xml), _starts(host, tcg_xml))


def not_started(why: str, kvm: bool, tcg: bool) -> Accelerator:
    """What it means if one of the two VMs did not start, for the reason `why`.

    `kvm` and `tcg` say whether a VM alone starts under KVM and under TCG.
    """
    if tcg and not kvm:
        return Accelerator("tcg", f"/dev/kvm exists, but a test VM failed: {why[:QUOTED]}")
    return Accelerator("tcg", f"KVM could not be tested: {why[:QUOTED]}", proven=False)


def _starts(host: Host, xml: str) -> bool:
    """Whether QEMU starts for the domain. The VM is removed at once."""
    try:
        host.connection.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED | libvirt.VIR_DOMAIN_START_AUTODESTROY).destroy()
    except libvirt.libvirtError:
        return False
    return True


@dataclass
class BootingVm:
    """A VM that boots, as its console shows it."""

    console: socket.socket
    heard: bytes = b""
    ended: bool = False

    @property
    def booted(self) -> bool:
        """It has reached user space."""
        return WORDS in self.heard

    def read(self) -> None:
        """Reads what the console has printed. It must be ready to be read."""
        chunk = self.console.recv(CHUNK)
        self.heard += chunk
        self.ended = not chunk


def race(kvm: BootingVm, tcg: BootingVm, begun: float) -> Accelerator:
    """Reads the consoles of both VMs until it is clear whether KVM works.

    `begun` is when both were started, in seconds of the monotonic clock. Once the VM under TCG has reached user
    space, the VM under KVM has until `PATIENCE` times that duration.
    """
    deadline = begun + LONGEST
    while (left := deadline - time.monotonic()) > 0:
        booting = [vm for vm in (kvm, tcg) if not (vm.booted or vm.ended)]
        ready, _, _ = select.select([vm.console for vm in booting], [], [], left)
        for vm in (vm for vm in booting if vm.console in ready):
            vm.read()
        if kvm.booted:
            return Accelerator("kvm", "a kernel boots under KVM")
        if kvm.ended and (tcg.booted or tcg.ended):
            break
        if tcg in booting and tcg.booted:
            deadline = min(deadline, begun + PATIENCE * (time.monotonic() - begun))
    if not tcg.booted:
        return Accelerator("tcg", "KVM could not be tested: the kernel does not reach user space under emulation either", proven=False)
    if kvm.ended:
        return Accelerator("tcg", "/dev/kvm exists, but a test VM failed: it ended before it reached user space")
    return Accelerator("tcg", f"/dev/kvm exists, but a test VM failed: its kernel hangs, no user space after {deadline - begun:.0f} s")


@contextmanager
def _running(host: Host, xml: str) -> Iterator[socket.socket]:
    """The console of a VM that is started now and removed in the end."""
    # The VM is paused until the console is open, so that nothing it prints is lost. libvirt destroys it if this connection ends.
    domain = host.connection.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED | libvirt.VIR_DOMAIN_START_AUTODESTROY)

    def open_console(connection: libvirt.virConnect, stream: libvirt.virStream) -> None:
        connection.lookupByUUIDString(domain.UUIDString()).openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)

    try:
        with stream_socket(host, open_console) as console:
            domain.resume()
            yield console
    finally:
        with suppress(libvirt.libvirtError):
            domain.destroy()


def boot_xml(kernel: str, initrd: str, accelerator: str) -> str:
    """The domain of a KVM test boot, under a name of its own."""
    return render_test_boot(f"vcloud-probe-{secrets.token_hex(4)}", kernel, initrd, HostFacts(accelerator))
