"""Finds out whether the VMs of a host run under KVM or under TCG (emulation).

There are hosts where /dev/kvm exists and libvirt offers KVM, and yet every kernel hangs under KVM.
So vcloud boots a small VM under KVM once per host: the KVM test boot. The result is stored on the
host. It is valid as long as the versions of libvirt, QEMU and the kernel of the host stay the same.
"""

from __future__ import annotations

import secrets
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from xml.etree.ElementTree import Element

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
from vcloud.hosts.volume_reading import read_start_without_pool

VOLUME = "accelerator.json"
"""The volume in the host's storage pool that stores the result."""
BOOTED_MESSAGE = b"vcloud-probe: user space reached"
"""The init program of shipped images prints this message if the kernel's command line has
`vcloud.probe`. It must be the same as in images/base/initramfs/init.c.
"""
SLOWDOWN_LIMIT = 2
"""KVM may take this many times as long as TCG. Where KVM works, it needs a fifth of TCG's time, or
less.
"""
TIMEOUT = 300
"""Seconds after which the test boot ends. A boot under TCG takes three seconds, or some minutes on
a host that is itself emulated.
"""
KERNEL_SUFFIX, INITRD_SUFFIX = "", ".cpio"
"""The endings of the names of uploaded kernels and initramfs files."""
RESULT_LIMIT = 4096
"""Bytes that are read of the stored result."""
QUOTE_LIMIT = 120
"""Characters of libvirt's message that a reason quotes."""


@dataclass(frozen=True, slots=True)
class Accelerator:
    """How the processors of a host's VMs run: under KVM or under TCG."""

    name: str
    """`kvm` or `tcg`."""
    reason: str
    """The reason as a clause, such as `a kernel boots under KVM`."""
    proven: bool = True
    """Whether the test boot showed if KVM works. If it failed for another reason, this is False,
    and the result is not stored.
    """


@dataclass(frozen=True, slots=True)
class _Stored:
    """The content of `VOLUME`."""

    versions: str
    found: Accelerator


_STORED = TypeAdapter(_Stored)


def host_accelerator(host: Host) -> Accelerator:
    """The accelerator of a host. This function uploads nothing to the host.

    The result is the stored one or, without it, that of a test boot with a kernel that an earlier
    vApp has left on the host. If the host has no such kernel, the result is TCG and is not stored.

    Raises:
        HostError: the versions of the host cannot be read, or libvirt fails.
    """
    stored = stored_accelerator(host)
    if stored:
        return stored
    pool = StoragePool(host)
    kernel, initrd = (
        any_upload(pool, kind, suffix)
        for kind, suffix in (("kernel-", KERNEL_SUFFIX), ("initrd-", INITRD_SUFFIX))
    )
    if kernel and initrd:
        return find_accelerator(host, kernel, initrd)
    return _without_kvm(host) or Accelerator(
        "tcg", "libvirt offers KVM, but the host has no kernel yet for a test boot"
    )


def stored_accelerator(host: Host) -> Accelerator | None:
    """The result of an earlier test boot on this host with the same versions of libvirt, QEMU and
    kernel. None if there is none.
    """
    try:
        stored = _STORED.validate_json(read_start_without_pool(host, VOLUME, RESULT_LIMIT))
    except ValueError:
        return None  # nothing is stored, or another release has stored it in another format
    return stored.found if stored.versions == host.versions else None


def find_accelerator(host: Host, kernel: str, initrd: str) -> Accelerator:
    """The accelerator of a host: the stored result, or that of a test boot, which is then stored.

    Args:
        host: an open host.
        kernel: path on the host of the kernel of a shipped image.
        initrd: path on the host of the initramfs of the same image.

    Raises:
        HostError: the versions of the host cannot be read, or libvirt fails.
    """
    stored = stored_accelerator(host)
    if stored:
        return stored
    kvm, tcg = (boot_xml(kernel, initrd, accelerator) for accelerator in ("kvm", "tcg"))
    # A test boot may take minutes, and it waits in calls that Ctrl-C does not reach.
    found = _without_kvm(host) or interruptible(lambda: boot_both(host, kvm, tcg))
    if not found.proven:
        return found
    result = _Stored(host.versions, found)
    # If the result cannot be stored, the next command makes another test boot.
    with suppress(HostError):
        StoragePool(host).put(VOLUME, _STORED.dump_json(result))
    return found


def _without_kvm(host: Host) -> Accelerator | None:
    """TCG if libvirt does not offer KVM. None if libvirt offers it, so that only a test boot can
    show whether it works.
    """
    if offers_kvm(read_capabilities(host)):
        return None
    return Accelerator("tcg", "libvirt does not offer KVM on this host")


def read_capabilities(host: Host) -> Element:
    """What libvirt says of the host and its guests. Raises HostError."""
    with translated(f"the capabilities of {host.name} could not be read"):
        return parse(host.connection.getCapabilities())


def offers_kvm(capabilities: Element) -> bool:
    """Whether libvirt offers KVM there, which does not mean that it works."""
    return capabilities.find("guest/arch[@name='x86_64']/domain[@type='kvm']") is not None


def boot_both(host: Host, kvm_xml: str, tcg_xml: str) -> Accelerator:
    """Boots a small VM under KVM and the same VM under TCG at the same time, and compares them.
    Removes both afterwards.

    This way nobody has to guess how long a boot may take. On any machine, however slow or busy, KVM
    is faster than TCG, or it is of no use. The VM under TCG is the control: if the host has too
    little memory or the kernel boots nowhere, this VM fails, too, and the result says nothing about
    KVM.
    """
    started = time.monotonic()
    try:
        with _started_vm(host, kvm_xml) as kvm, _started_vm(host, tcg_xml) as tcg:
            return compare_boots(BootingVm(kvm), BootingVm(tcg), started)
    except libvirt.libvirtError as error:
        # libvirt does not say which of the two VMs failed. So each one is started once more, alone.
        return explain_failed_start(
            message_of(error), _starts(host, kvm_xml), _starts(host, tcg_xml)
        )


def explain_failed_start(why: str, kvm: bool, tcg: bool) -> Accelerator:
    """The result if QEMU did not start for one of the two VMs, for the reason `why`.

    `kvm` and `tcg` say whether QEMU starts for one VM alone under KVM and under TCG.
    """
    if tcg and not kvm:
        return Accelerator("tcg", f"/dev/kvm exists, but a test VM failed: {why[:QUOTE_LIMIT]}")
    return Accelerator("tcg", f"KVM could not be tested: {why[:QUOTE_LIMIT]}", proven=False)


def _starts(host: Host, xml: str) -> bool:
    """Whether QEMU starts for the domain. The domain is destroyed at once."""
    try:
        # In the paused state no instruction of the guest runs: only the start of QEMU is tested.
        host.connection.createXML(
            xml, libvirt.VIR_DOMAIN_START_PAUSED | libvirt.VIR_DOMAIN_START_AUTODESTROY
        ).destroy()
    except libvirt.libvirtError:
        return False
    return True


@dataclass
class BootingVm:
    """A VM that boots, and the output of its console."""

    console: socket.socket
    output: bytes = b""
    ended: bool = False

    @property
    def booted(self) -> bool:
        """Whether the VM has reached user space."""
        return BOOTED_MESSAGE in self.output

    def read(self) -> None:
        """Reads the next output of the console. Call it only if there is some, because it would
        block otherwise.
        """
        chunk = self.console.recv(CHUNK)
        self.output += chunk
        self.ended = not chunk


def compare_boots(kvm: BootingVm, tcg: BootingVm, started: float) -> Accelerator:
    """Reads the consoles of both VMs until it is clear whether KVM works.

    `started` is the time when both VMs were started, in seconds of the monotonic clock. When the VM
    under TCG has reached user space, the VM under KVM gets `SLOWDOWN_LIMIT` times as long as that
    took.
    """
    deadline = started + TIMEOUT
    while (left := deadline - time.monotonic()) > 0:
        booting = [vm for vm in (kvm, tcg) if not (vm.booted or vm.ended)]
        ready, _, _ = select.select([vm.console for vm in booting], [], [], left)
        for vm in (vm for vm in booting if vm.console in ready):
            vm.read()
        if kvm.booted:
            return Accelerator("kvm", "a kernel boots under KVM")
        # The VM under KVM is lost. The VM under TCG must have an outcome, too, because it decides
        # what that means.
        if kvm.ended and (tcg.booted or tcg.ended):
            break
        # The condition holds in one round only: `booting` lacks a VM that has booted before.
        if tcg in booting and tcg.booted:
            deadline = min(deadline, started + SLOWDOWN_LIMIT * (time.monotonic() - started))
    if not tcg.booted:
        return Accelerator(
            "tcg",
            "KVM could not be tested: the kernel does not reach user space under emulation either",
            proven=False,
        )
    if kvm.ended:
        return Accelerator(
            "tcg", "/dev/kvm exists, but a test VM failed: it ended before it reached user space"
        )
    return Accelerator(
        "tcg",
        f"/dev/kvm exists, but a test VM failed: its kernel hangs, no user space after {deadline - started:.0f} s",
    )


@contextmanager
def _started_vm(host: Host, xml: str) -> Iterator[socket.socket]:
    """Starts a VM and gives its console. Destroys the VM afterwards."""
    # The VM is paused until its console is open, so that no output is lost. If this connection
    # ends, libvirt destroys the VM.
    domain = host.connection.createXML(
        xml, libvirt.VIR_DOMAIN_START_PAUSED | libvirt.VIR_DOMAIN_START_AUTODESTROY
    )

    def open_console(connection: libvirt.virConnect, stream: libvirt.virStream) -> None:
        connection.lookupByUUIDString(domain.UUIDString()).openConsole(
            None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE
        )

    try:
        with stream_socket(host, open_console) as console:
            domain.resume()
            yield console
    finally:
        with suppress(libvirt.libvirtError):
            domain.destroy()


def boot_xml(kernel: str, initrd: str, accelerator: str) -> str:
    """The XML of a domain for the KVM test boot. Its name is random, so that two operators can test
    at the same time.
    """
    return render_test_boot(
        f"vcloud-probe-{secrets.token_hex(4)}", kernel, initrd, HostFacts(accelerator)
    )
