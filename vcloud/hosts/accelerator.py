"""KVM where a real kernel reaches user space under it, TCG where none does.

That /dev/kvm exists and that libvirt offers KVM prove little: there are hosts where both is so and every kernel hangs. So a small VM is
started once per host, and the answer is kept there until libvirt, QEMU or the host's kernel is another one.
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
from vcloud.hosts.pool import StoragePool, peek
from vcloud.hosts.stream import CHUNK, stream_socket

VOLUME = "accelerator.json"
"""In the host's pool, beside the images: what is known of it is a cache, as they are."""
WORDS = b"vcloud-probe: user space reached"
"""What the shipped images' init says when the kernel command line has `vcloud.probe` (images/base/initramfs/init.c)."""
PATIENCE = 2
"""How long KVM may take, in the times of emulation; a working one needs a fifth, or less."""
LONGEST = 300
"""Seconds after which nothing is waited for. Emulation takes three, and some minutes on a host that is itself emulated."""
KERNEL_SUFFIX, INITRD_SUFFIX = "", ".cpio"
LARGEST = 4096
"""Bytes of what is kept."""
WORDY = 120
"""Characters of libvirt's own words in a reason."""


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What a host's VMs run on."""

    name: str
    """`kvm` or `tcg`."""
    reason: str
    """Why, as a clause: `a kernel boots under KVM`."""
    proven: bool = True
    """The reason speaks of KVM itself. What is not proven is not remembered."""


@dataclass(frozen=True, slots=True)
class _Kept:
    versions: str
    found: Accelerator


_KEPT = TypeAdapter(_Kept)


def probe_host(host: Host) -> Accelerator:
    """The host's accelerator: what is remembered, else what a kernel that an earlier vApp has left there tells.

    A host that offers KVM and has no kernel yet counts as one without; that answer is not remembered.

    Raises:
        HostError: the host's version cannot be read or libvirt breaks.
    """
    known = remembered(host)
    if known:
        return known
    pool = StoragePool(host)
    kernel, initrd = (pool.any_upload(kind, suffix) for kind, suffix in (("kernel-", KERNEL_SUFFIX), ("initrd-", INITRD_SUFFIX)))
    if kernel and initrd:
        return probe(host, kernel, initrd)
    return _without_trial(host) or Accelerator("tcg", "libvirt offers KVM, but there is no kernel on the host yet to try it with")


def remembered(host: Host) -> Accelerator | None:
    """The answer of an earlier trial on this host with the same libvirt, QEMU and kernel."""
    try:
        kept = _KEPT.validate_json(peek(host, VOLUME, LARGEST))
    except ValueError:
        return None  # nothing is kept, or by another release
    return kept.found if kept.versions == versions(host) else None


def probe(host: Host, kernel: str, initrd: str) -> Accelerator:
    """Asks the host, and by a trial if need be; remembers there what that proves of KVM.

    Args:
        host: an open host.
        kernel: path on the host of a shipped image's kernel.
        initrd: likewise.

    Raises:
        HostError: the host's versions cannot be read or libvirt breaks.
    """
    known = remembered(host)
    if known:
        return known
    kvm, tcg = (trial_xml(kernel, initrd, accelerator) for accelerator in ("kvm", "tcg"))
    found = _without_trial(host) or interruptible(lambda: trial(host, kvm, tcg))
    if not found.proven:
        return found
    kept = _Kept(versions(host), found)
    with suppress(HostError):  # where it cannot be kept it is tried again the next time
        StoragePool(host).put(VOLUME, _KEPT.dump_json(kept))
    return found


def versions(host: Host) -> str:
    """What a VM's saved memory, and what is known of KVM, depend on: libvirt, QEMU and the kernel of the host, as one text.

    Raises:
        HostError: they cannot be read.
    """
    release = host.shell.run(["uname", "-r"])
    if release.code != 0:
        raise HostError(f"the kernel's version on {host.name} cannot be read: {release.stderr.decode(errors='replace').strip()}")
    with translated(f"the versions of {host.name} could not be read"):
        return f"libvirt {host.connection.getLibVersion()} qemu {host.connection.getVersion()} linux {release.stdout.decode().strip()}"


def _without_trial(host: Host) -> Accelerator | None:
    with translated(f"the capabilities of {host.name} could not be read"):
        capabilities = parse(host.connection.getCapabilities())
    if capabilities.find("guest/arch[@name='x86_64']/domain[@type='kvm']") is None:
        return Accelerator("tcg", "libvirt offers no KVM there")
    return None


def trial(host: Host, kvm_xml: str, tcg_xml: str) -> Accelerator:
    """Races a small VM under KVM against the same one under TCG to user space. Nothing of them stays.

    So no time has to be guessed: KVM is faster than emulation on any machine, however slow or busy, or it is of no use. It is given up
    when emulation has been there for as long as it took to get there. And only where emulation starts, and gets there, has KVM shown what
    it is: for want of memory, or with a kernel that boots nowhere, both fail.
    """
    begun = time.monotonic()
    try:
        with _running(host, kvm_xml) as kvm, _running(host, tcg_xml) as tcg:
            return race(Runner(kvm), Runner(tcg), begun)
    except libvirt.libvirtError as error:
        return unraced(message_of(error), _starts(host, kvm_xml), _starts(host, tcg_xml))


def unraced(why: str, kvm: bool, tcg: bool) -> Accelerator:
    """What it means that there was no race for the reason `why`, by whether a VM starts under `kvm` and under `tcg`."""
    if tcg and not kvm:
        return Accelerator("tcg", f"KVM is offered, but QEMU does not start under it: {why[:WORDY]}")
    return Accelerator("tcg", f"KVM could not be tried: {why[:WORDY]}", proven=False)


def _starts(host: Host, xml: str) -> bool:
    try:
        host.connection.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED | libvirt.VIR_DOMAIN_START_AUTODESTROY).destroy()
    except libvirt.libvirtError:
        return False
    return True


@dataclass
class Runner:
    """A VM of the race, by its console."""

    console: socket.socket
    heard: bytes = b""
    ended: bool = False

    @property
    def there(self) -> bool:
        return WORDS in self.heard

    def hear(self) -> None:
        chunk = self.console.recv(CHUNK)
        self.heard += chunk
        self.ended = not chunk


def race(kvm: Runner, tcg: Runner, begun: float) -> Accelerator:
    """Who reaches user space, by what the consoles say. `begun` is when they started, in seconds of the monotonic clock."""
    deadline = begun + LONGEST
    while (left := deadline - time.monotonic()) > 0:
        listening = [runner for runner in (kvm, tcg) if not (runner.there or runner.ended)]
        ready, _, _ = select.select([runner.console for runner in listening], [], [], left)
        for runner in (runner for runner in listening if runner.console in ready):
            runner.hear()
        if kvm.there:
            return Accelerator("kvm", "a kernel boots under KVM")
        if kvm.ended and (tcg.there or tcg.ended):
            break
        if tcg in listening and tcg.there:
            deadline = min(deadline, begun + PATIENCE * (time.monotonic() - begun))
    if not tcg.there:
        return Accelerator("tcg", "KVM could not be tried: the kernel does not reach user space under emulation either", proven=False)
    if kvm.ended:
        return Accelerator("tcg", "KVM is there, but a VM under it ends before it reaches user space")
    return Accelerator("tcg", f"KVM is there, but a kernel hangs under it: no user space in {deadline - begun:.0f} s")


@contextmanager
def _running(host: Host, xml: str) -> Iterator[socket.socket]:
    """A VM of the race, as its console."""
    # Paused at first, so that no word is said before somebody listens; destroyed by libvirt when this connection ends.
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


def trial_xml(kernel: str, initrd: str, accelerator: str) -> str:
    """The domain of a KVM test boot, under a name of its own."""
    return render_test_boot(f"vcloud-probe-{secrets.token_hex(4)}", kernel, initrd, HostFacts(accelerator))
