"""Finds where the processors and the memory of a vApp's VMs are shared otherwise than its file demands,
by what the reporter saw of the running processes. Pure. What nobody demands is not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from vcloud.design.isolation import Isolation
from vcloud.design.model import Design, Vm
from vcloud.plan.host_difference import LOST, ON_DEMAND, HostDifference, HostKind
from vcloud.plan.host_look import Look
from vcloud.plan.host_report import Guest
from vcloud.values import KSM, SMT, processors_shown

APPARMOR = re.compile(r"libvirt-([0-9a-f-]{36}) \(enforce\)")
"""The label that libvirt gives a VM's process with AppArmor (its drivers' page, QEMU, sVirt)."""
SELINUX = re.compile(r"[^:]+:[^:]+:svirt(?:_tcg)?_t:s0:(c\d+,c\d+)")
"""With SELinux. The two categories are those of one VM."""
ENFORCING = "1"
VIRTUAL_CPU = re.compile(r"CPU (\d{1,5})/(?:KVM|TCG)")
"""How QEMU calls the thread of a virtual CPU."""


def demanded_kinds(design: Design) -> frozenset[HostKind]:
    """The kinds of differences that are none unless the vApp demands something of its processors and
    memory, and it does.
    """
    host = {rule.label for rule in design.placement.rules if rule.path}
    return frozenset(
        kind
        for kind, demand in {
            HostKind.CORES: any(vm.isolation.own_cpus for vm in design.vms),
            HostKind.INTRUDER: any(vm.isolation.own_cpus for vm in design.vms),
            HostKind.MERGING: any(vm.isolation.no_page_sharing for vm in design.vms),
            HostKind.LOCKING: any(vm.isolation.locked_memory for vm in design.vms),
            HostKind.LABEL: any(vm.isolation.svirt for vm in design.vms),
            HostKind.KSM: KSM in host,
            HostKind.SMT: SMT in host,
        }.items()
        if demand
    )


def kinds_of(design: Design) -> frozenset[HostKind]:
    """All kinds of differences that a vApp can have."""
    return frozenset(HostKind) - ON_DEMAND | demanded_kinds(design)


def _looked_at(
    look: Look,
    kind: HostKind,
    demands: Callable[[Isolation], bool],
    wrong: Callable[[Vm, Guest], str],
) -> Iterator[HostDifference]:
    """What is wrong with the running VMs that have a demand. `wrong` says it, and is empty if nothing
    is. A process that is not found is wrong, because nobody can tell what it shares.
    """
    guests = {guest.pid: guest for guest in look.report.guests}
    for vm in look.design.vms:
        if vm.name not in look.running or not demands(vm.isolation):
            continue
        process = look.process_of(vm)
        guest = guests.get(process.pid) if process else None
        if guest is None:
            what = f"the process of '{vm.name}' was not found on the host"
            yield HostDifference(kind, what, vm.name, other=LOST)
        elif what := wrong(vm, guest):
            yield HostDifference(kind, what, vm.name)


def wrong_cores(look: Look) -> Iterator[HostDifference]:
    """VMs that run elsewhere than on their cores."""

    def wrong(vm: Vm, guest: Guest) -> str:
        return _off_its_cores(vm, guest, look.cores.get(vm.name, ()))

    yield from _looked_at(look, HostKind.CORES, lambda one: one.own_cpus, wrong)


def _off_its_cores(vm: Vm, guest: Guest, cores: tuple[int, ...]) -> str:
    """Where a VM may run and must not; empty if nowhere. By what they may use, and not by their
    names, all threads are judged: QEMU itself chooses the names.
    """
    if not cores:
        return f"'{vm.name}' has no cores of its own yet"
    found = {
        int(match[1]): thread.processors
        for thread in guest.threads
        if (match := VIRTUAL_CPU.fullmatch(thread.name))
    }
    for number, core in enumerate(cores):
        if number not in found:
            return f"CPU {number} of '{vm.name}' has no thread of its own on the host"
        if found[number] != {core}:
            where = processors_shown(found[number])
            return f"CPU {number} of '{vm.name}' may run on the host's processors {where}, and must run on {core}"
    beyond = frozenset().union(*(one.processors for one in guest.threads)) - {*cores}
    if beyond:
        return f"a thread of '{vm.name}' may run on the host's processors {processors_shown(beyond)}, which are not its own"
    return ""


def intruders(look: Look) -> Iterator[HostDifference]:
    """QEMU processes of others that may use cores of the vApp. libvirt can keep its own domains off
    them, as a mend of one of the VMs that have cores.
    """
    names = {process.pid: process.name or process.program for process in look.report.processes}
    domains = {pid: name for name, pid in look.report.machines.items()}
    own = {process.pid for process in look.own_processes}
    mended = next((name for name in look.cores if name in look.running), "")
    for guest in look.report.guests if look.owned else ():
        used = frozenset().union(*(one.processors for one in guest.threads)) & look.owned
        if used and guest.pid not in own:
            who = domains.get(guest.pid) or names.get(guest.pid, "")
            what = f"'{who}' (process {guest.pid}) may run on the host's processors {processors_shown(used)}, which are the vApp's own"
            vm = mended if guest.pid in domains else ""
            yield HostDifference(HostKind.INTRUDER, what, vm, other=str(guest.pid))


def merged_memory(look: Look) -> Iterator[HostDifference]:
    """VMs whose memory may be merged."""

    def wrong(vm: Vm, guest: Guest) -> str:
        what = f"the kernel may merge memory of '{vm.name}' with that of others"
        return what if guest.merges else ""

    yield from _looked_at(look, HostKind.MERGING, lambda one: one.no_page_sharing, wrong)


def unlocked_memory(look: Look) -> Iterator[HostDifference]:
    """VMs whose memory is not wholly locked."""

    def wrong(vm: Vm, guest: Guest) -> str:
        have = f"{guest.locked >> 20} of {vm.memory >> 20} MiB are locked"
        return f"of the memory of '{vm.name}', {have}" if guest.locked < vm.memory else ""

    yield from _looked_at(look, HostKind.LOCKING, lambda one: one.locked_memory, wrong)


def unconfined(look: Look) -> Iterator[HostDifference]:
    """VMs that no security driver keeps apart from others."""
    labels: Mapping[int, str] = {guest.pid: guest.label for guest in look.report.guests}

    def wrong(vm: Vm, guest: Guest) -> str:
        why = _why_unconfined(vm, guest, labels, look.report.kernel.selinux)
        return f"the process of '{vm.name}' {why}" if why else ""

    yield from _looked_at(look, HostKind.LABEL, lambda one: one.svirt, wrong)


def _why_unconfined(vm: Vm, guest: Guest, labels: Mapping[int, str], selinux: str) -> str:
    """What is wrong with the label of a process; empty if nothing is."""
    if not guest.label:
        return "has no security label"
    if found := APPARMOR.fullmatch(guest.label):
        return "" if found[1] == vm.uuid else "has the AppArmor profile of another VM"
    if not SELINUX.fullmatch(guest.label):
        return f"has the security label '{guest.label}', which is none of sVirt's"
    if selinux != ENFORCING:
        return "has a label of SELinux, which only logs on that host"
    if any(label == guest.label for pid, label in labels.items() if pid != guest.pid):
        return "has the same label of SELinux as another QEMU"
    return ""


def merging_kernel(look: Look) -> Iterator[HostDifference]:
    """A kernel that merges equal pages, or still holds merged ones."""
    kernel = look.report.kernel
    if HostKind.KSM in demanded_kinds(look.design):
        if kernel.ksm == "1":
            yield HostDifference(HostKind.KSM, "the kernel of the host merges equal pages (KSM)")
        elif kernel.ksm_pages not in ("", "0"):
            what = f"the kernel of the host still holds {kernel.ksm_pages} merged pages (KSM)"
            yield HostDifference(HostKind.KSM, what)


def threaded_cores(look: Look) -> Iterator[HostDifference]:
    """Cores that run two threads at a time."""
    if HostKind.SMT in demanded_kinds(look.design) and look.report.kernel.smt == "1":
        yield HostDifference(HostKind.SMT, "cores of the host run two threads at a time (SMT)")
