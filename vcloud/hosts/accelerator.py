"""KVM where a real kernel reaches user space under it, TCG where none does.

That /dev/kvm exists and that libvirt offers KVM prove little: there are hosts where both is so and every kernel hangs. So a small VM is
started once per host, and the answer is kept there until libvirt, QEMU or the host's kernel is another one.
"""

from __future__ import annotations

import secrets
import threading
from contextlib import suppress
from dataclasses import dataclass

import libvirt

from vcloud.design.addressing import uuid_of
from vcloud.errors import HostError
from vcloud.hosts.connection import Host, interruptible, message_of, translated
from vcloud.hosts.metadata import Record, parse, read_record, write_record
from vcloud.hosts.pool import Pool
from vcloud.hosts.stream import receive

RECORD = "vcloud-host"
WORDS = b"vcloud-probe: user space reached"
"""What the shipped images' init says when the kernel command line has `vcloud.probe` (images/base/initramfs/init.c)."""
DEADLINE = 90
"""Seconds from power-on to those words. A working KVM takes less than one; one that is itself emulated takes ten, and forty on a busy machine."""
KERNEL_SUFFIX, INITRD_SUFFIX = "", ".cpio"


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What a host's VMs run on."""

    name: str
    """`kvm` or `tcg`."""
    reason: str
    """Why, as a clause: `a kernel boots under KVM`."""


def probe_host(host: Host) -> Accelerator:
    """The host's accelerator: what is remembered, else what a kernel that an earlier vApp has left there tells.

    A host that offers KVM and has no kernel yet counts as one without; that answer is not remembered.

    Raises:
        HostError: the host's version cannot be read or libvirt breaks.
    """
    known = remembered(host)
    if known:
        return known
    pool = Pool(host)
    kernel, initrd = (pool.any_upload(kind, suffix) for kind, suffix in (("kernel-", KERNEL_SUFFIX), ("initrd-", INITRD_SUFFIX)))
    if kernel and initrd:
        return probe(host, kernel, initrd)
    return _without_trial(host) or Accelerator("tcg", "libvirt offers KVM, but there is no kernel on the host yet to try it with")


def remembered(host: Host) -> Accelerator | None:
    """The answer of an earlier trial on this host with the same libvirt, QEMU and kernel."""
    with translated(f"what {host.name} remembers could not be read"):
        record = read_record(host, RECORD)
    if record is None or record.attributes.get("versions") != _versions(host):
        return None
    return Accelerator(record.attributes.get("accelerator", "tcg"), record.text)


def probe(host: Host, kernel: str, initrd: str) -> Accelerator:
    """Asks the host, and by a trial if need be; remembers the answer there.

    Args:
        host: an open host.
        kernel: path on the host of a shipped image's kernel.
        initrd: likewise.

    Raises:
        HostError: the answer cannot be kept.
    """
    known = remembered(host)
    if known:
        return known
    found = _without_trial(host) or interruptible(lambda: trial(host, trial_xml(kernel, initrd)))
    attributes = {"versions": _versions(host), "accelerator": found.name}
    with translated(f"the accelerator of {host.name} could not be remembered"):
        write_record(host, Record(RECORD, uuid_of("host"), attributes, found.reason))
    return found


def _versions(host: Host) -> str:
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


def trial(host: Host, xml: str) -> Accelerator:
    """Starts a small VM and hears whether it reaches user space. Nothing of it stays."""
    try:
        # Paused at first, so that no word is said before somebody listens; destroyed by libvirt when this connection ends.
        flags = libvirt.VIR_DOMAIN_START_PAUSED | libvirt.VIR_DOMAIN_START_AUTODESTROY
        domain = host.connection.createXML(xml, flags)
    except libvirt.libvirtError as error:
        return Accelerator("tcg", f"KVM is offered, but QEMU does not start under it: {message_of(error)[:120]}")
    try:
        return _listen(host, domain)
    except libvirt.libvirtError as error:
        return Accelerator("tcg", f"KVM fails: {message_of(error)}")
    finally:
        with suppress(libvirt.libvirtError):
            domain.destroy()


def _listen(host: Host, domain: libvirt.virDomain) -> Accelerator:
    """Hears the VM out, until it has said the words, it has ended, or the time is up. Its stream ends with it."""
    stream = host.connection.newStream()
    domain.openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
    heard = bytearray()
    done = threading.Event()
    listener = threading.Thread(target=_hear, args=(stream, heard, done), daemon=True)
    listener.start()
    domain.resume()
    ended = done.wait(DEADLINE)
    with suppress(libvirt.libvirtError):
        stream.abort()
    if WORDS in heard:
        return Accelerator("kvm", "a kernel boots under KVM")
    if ended:
        return Accelerator("tcg", "KVM is there, but a VM under it ends before it reaches user space")
    return Accelerator("tcg", f"KVM is there, but a kernel under it does not reach user space within {DEADLINE} s")


def _hear(stream: libvirt.virStream, heard: bytearray, done: threading.Event) -> None:
    try:
        while WORDS not in heard and (chunk := receive(stream)):
            heard += chunk
    finally:
        done.set()


def trial_xml(kernel: str, initrd: str) -> str:
    """The least that a kernel needs, with the CPU that vcloud's VMs have under KVM."""
    return f"""\
<domain type='kvm'>
  <name>vcloud-probe-{secrets.token_hex(4)}</name>
  <memory unit='MiB'>256</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>console=ttyS0 quiet panic=-1 vcloud.probe</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <cpu mode='host-passthrough'/>
  <on_reboot>destroy</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <controller type='usb' model='none'/>
    <serial type='pty'><target port='0'/></serial>
    <console type='pty'><target type='serial' port='0'/></console>
    <video><model type='none'/></video>
    <memballoon model='none'/>
  </devices>
</domain>
"""
