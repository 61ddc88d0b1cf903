"""Says how to end the differences of a host's side: by a step of a plan, or by hand. Pure.

vcloud takes the least disruptive way. It restores what it gave to a host itself (isolation, filters,
ports, the flags of its bridges). It takes foreign devices and addresses off the bridges of the vApp,
but does not destroy them. It leaves rules, processes and stacked devices of others alone: it names
them, and calls the vApp protected only when they are gone.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from vcloud.plan.host_difference import LOST, HostDifference, HostKind, HostSide
from vcloud.plan.steps import FRESH, Drift, Step, Verb

Command = tuple[str, ...]
"""A program and its arguments. Names from the host are in it, each as one argument."""


class MendKind(StrEnum):
    """Ways to end a difference, from the least disruptive to the most disruptive."""

    UPDATE_CARD = "update card"
    """libvirt changes the running card to one without the isolated flag, and back again. The link
    stays up. (If libvirt gets the same definition, it changes nothing.)
    """
    BIND_FILTER = "bind filter"
    """Delete the card's binding to the vApp's network filter if there is one, and create that
    binding. The link stays up.
    """
    PIN = "pin"
    """libvirt pins the threads of the running VM to its cores, and those of other VMs elsewhere."""
    COMMAND = "command"
    """Root on the host runs `Mend.commands`, because libvirt has no call for it."""
    PLUG_CARD = "plug card"
    """Restart the VM. It gets a new tap with none of the wrong settings."""
    START_AGAIN = "start again"
    """Restart the VM: its new process has what its definition says."""
    START_NETWORK = "start network"
    """Make the network anew, and plug in all its cards again. Its new bridge has none of the wrong
    settings.
    """
    BY_HAND = "by hand"
    """It belongs to somebody else: vcloud only names it."""


@dataclass(frozen=True, slots=True)
class Mend:
    """A way to end a difference."""

    kind: MendKind
    commands: tuple[Command, ...] = ()
    """The commands in their order. For `BY_HAND`: the command for a person, if there is one."""


_SWITCHES: Final = {"true": "on", "false": "off", "forwarding": "3"}
"""The value of a port's flag in `ip -json` -> the value that ip-link(8) sets it with."""


def mend_of(difference: HostDifference) -> Mend:
    """The least disruptive way to end a difference."""
    vm, device, other = difference.vm, difference.device, difference.other
    if other == LOST:
        return Mend(MendKind.BY_HAND)
    match difference.kind:
        case HostKind.ISOLATION:
            return Mend(MendKind.UPDATE_CARD)
        case HostKind.FILTER:
            return Mend(MendKind.BIND_FILTER)
        case HostKind.CARD | HostKind.BRIDGE | HostKind.FLAGS if difference.wanted:
            return Mend(MendKind.COMMAND, tuple(_link_commands(difference)))
        case HostKind.PORT:
            return _command("ip", "link", "set", "dev", other, "nomaster")
        case HostKind.ADDRESS if ":" in other:
            # libvirt switches IPv6 off on the bridge. While it is on, the kernel makes a new
            # address each time the bridge goes up.
            return _command("sysctl", "-q", "-w", f"net/ipv6/conf/{device}/disable_ipv6=1")
        case HostKind.ADDRESS:
            return _command("ip", "address", "delete", other, "dev", device)
        case HostKind.ROUTE:
            return Mend(MendKind.COMMAND, tuple(_route_commands(device, other)))
        case HostKind.STATIC:
            return _command("bridge", "fdb", "delete", other, "dev", device, "master")
        case HostKind.QUEUE:
            queue = other.partition(" ")[0]
            place = queue if queue in ("clsact", "ingress") else "root"
            return _command("tc", "qdisc", "delete", "dev", device, place)
        case HostKind.PROGRAM if other == "xdp":
            return _command("ip", "link", "set", "dev", device, "xdp", "off")
        case HostKind.STACKED:
            return Mend(MendKind.BY_HAND, (("ip", "link", "delete", "dev", other),))
        case HostKind.SOCKET | HostKind.PROCESS:
            return Mend(MendKind.BY_HAND, (("kill", other),) if other not in ("", "0") else ())
        case HostKind.CORES:
            return Mend(MendKind.PIN)
        case HostKind.INTRUDER:
            return Mend(MendKind.PIN if vm else MendKind.BY_HAND)
        case HostKind.RULE | HostKind.REDIRECT | HostKind.MERGING:
            return Mend(MendKind.BY_HAND)
        case HostKind.LOCKING | HostKind.LABEL:
            return Mend(MendKind.START_AGAIN)
        case HostKind.KSM | HostKind.SMT:
            return Mend(MendKind.BY_HAND, (_of_kernel(difference.kind),))
    return Mend(MendKind.PLUG_CARD if vm else MendKind.START_NETWORK)


def _of_kernel(kind: HostKind) -> Command:
    setting = {
        HostKind.KSM: "echo 2 >/sys/kernel/mm/ksm/run",
        HostKind.SMT: "echo off >/sys/devices/system/cpu/smt/control",
    }
    return ("sh", "-c", setting[kind])


def _command(*argv: str) -> Mend:
    return Mend(MendKind.COMMAND, (argv,))


def _link_commands(difference: HostDifference) -> Iterator[Command]:
    """A port is put onto its bridge while it is down, so that it never forwards frames without its
    isolation.
    """
    link = ("ip", "link", "set", "dev", difference.device)
    match difference.wanted:
        case ("master", bridge, "isolated", isolated):
            yield (*link, "down")
            yield (*link, "master", bridge)
            yield (*link, "type", "bridge_slave", "isolated", isolated)
            yield (*link, "up")
        case ("backup_port", ""):
            yield (*link, "type", "bridge_slave", "nobackup_port")
        case (flag, value) if flag != "mtu":
            kind = "bridge_slave" if difference.vm else "bridge"
            yield (*link, "type", kind, flag, _SWITCHES.get(value, value))
        case words:
            yield (*link, *words)


def _route_commands(device: str, target: str) -> Iterator[Command]:
    """The commands use `flush`, because `delete` looks in the main table only, and fails if the
    route disappeared together with its address. A default route may be of either family.
    """
    for family in ("-4", "-6") if target == "default" else ("-6" if ":" in target else "-4",):
        yield ("ip", family, "route", "flush", "table", "all", "exact", target, "dev", device)


def verb_of(difference: HostDifference, *, as_root: bool) -> Verb | None:
    """The step that ends a difference; None if only a person can end it.

    If vcloud is not root on the host, a card on a wrong bridge is plugged in again by a restart of
    its VM, because such a card is cut off, or its traffic bypasses the appliances. No other
    difference justifies a restart.
    """
    match mend_of(difference).kind:
        case MendKind.UPDATE_CARD | MendKind.BIND_FILTER | MendKind.PIN:
            return Verb.MEND_VM
        case MendKind.COMMAND if as_root:
            return Verb.MEND_HOST
        case MendKind.PLUG_CARD | MendKind.START_AGAIN:
            return Verb.RESTART_VM
        case MendKind.START_NETWORK:
            return Verb.REMAKE_NETWORK
        case _:
            card = difference.kind is HostKind.CARD
            return Verb.RESTART_VM if card else None


def way_out(difference: HostDifference, *, as_root: bool) -> str:
    """How to end a difference, as a clause for the user."""
    if verb_of(difference, as_root=as_root):
        return "`vcloud up` repairs it"
    mend = mend_of(difference)
    commands = " && ".join(map(shlex.join, mend.commands))
    if mend.kind is MendKind.COMMAND:
        return f"as root on the host, run: {commands}"
    if difference.kind in (HostKind.RULE, HostKind.REDIRECT):
        return "vcloud does not change rules that others made: remove it as root on the host, or limit it to other devices"
    if difference.other == LOST:
        return "`vcloud doctor` looks at that host"
    if difference.kind in (HostKind.KSM, HostKind.SMT):
        return f"it concerns all that runs there, so vcloud leaves it alone: root on the host ends it with: {commands}"
    if difference.kind is HostKind.MERGING:
        return "its definition forbids it, so libvirt's daemon allows it to all that it starts: root on the host takes MemoryKSM= out of the daemon's systemd unit, restarts the daemon, and then the VM"
    thing = "device" if difference.kind is HostKind.STACKED else "process"
    step = f"run: {commands}" if commands else f"end the {thing}"
    return f"vcloud does not touch a {thing} of others: as root on the host, {step}"


def told_once(side: HostSide, drift: Iterable[Drift]) -> tuple[HostDifference, ...]:
    """The differences without those that libvirt's own state shows, too (`drift`). libvirt knows
    the rules of the filter, the cards that are bound to it, the cards that are plugged in, and the
    CPUs that are pinned.
    """
    drift = tuple(drift)
    told = {(found.card, kind) for found in drift if found.card for kind in found.tells}
    pinned = {found.subject for found in drift if found.pins}
    other_rules = any(found.mend is Verb.DEFINE_FILTER for found in drift)

    def is_told(difference: HostDifference) -> bool:
        if difference.kind is HostKind.CORES and difference.vm in pinned:
            return True
        if difference.kind in TOLD_BY_RULES:
            return True
        if difference.kind is HostKind.FILTER and other_rules:
            return True
        card = difference.other if difference.kind is HostKind.PORT else difference.device
        return (card, difference.kind) in told

    return tuple(difference for difference in side.differences if not is_told(difference))


TOLD_BY_RULES: Final = frozenset({HostKind.KSM, HostKind.SMT})
"""What the vApp's rules of placement tell, too: a host that breaks one is no host for it."""


def host_drift(side: HostSide, differences: Iterable[HostDifference]) -> Iterator[Drift]:
    """The differences that a step of a VM or of a network ends."""
    for difference in differences:
        verb = verb_of(difference, as_root=side.as_root)
        if verb in (Verb.MEND_VM, Verb.RESTART_VM):
            yield Drift(difference.vm, difference.what, verb)
        elif verb is Verb.REMAKE_NETWORK:
            yield Drift(difference.network, difference.what, verb)


def host_steps(
    side: HostSide, differences: Iterable[HostDifference], host: str, steps: Collection[Step]
) -> Iterator[Step]:
    """The step with the commands that root runs on the host. `steps` are those of the VMs and
    networks; a device that one of them makes anew needs no command.
    """
    found = [
        difference
        for difference in differences
        if verb_of(difference, as_root=side.as_root) is Verb.MEND_HOST
        and not _goes(difference, steps)
    ]
    if found:
        yield Step(
            Verb.MEND_HOST,
            host,
            "; ".join(difference.what for difference in found),
            commands=tuple(
                command for difference in found for command in mend_of(difference).commands
            ),
        )


def unmended(
    side: HostSide, differences: Iterable[HostDifference], steps: Collection[Step]
) -> tuple[str, ...]:
    """The differences that no step ends, each as a sentence with its way out."""
    return tuple(
        f"{difference.what}; {way_out(difference, as_root=side.as_root)}"
        for difference in differences
        if verb_of(difference, as_root=side.as_root) is None and not _goes(difference, steps)
    )


def left_after(side: HostSide, steps: Iterable[Step]) -> tuple[str, ...]:
    """What a run with these steps has left on the host, each as a sentence with its way out.

    A person is told the commands that root has tried in vain. After a run that did not look at the
    host first, nobody has tried any, and the next run does.
    """
    tried = {command for step in steps for command in step.commands}
    return tuple(
        f"{difference.what}; {way_out(difference, as_root=side.as_root and not tried.issuperset(mend_of(difference).commands))}"
        for difference in side.differences
    )


PLUGGED_IN: Final = FRESH | {Verb.RESTART_VM}
"""Steps after which a running VM has new taps."""


def _goes(difference: HostDifference, steps: Iterable[Step]) -> bool:
    """Whether a step makes the device or the process anew that the difference is about. This does not end a rule
    or a process of somebody else.
    """
    if mend_of(difference).kind is MendKind.BY_HAND and difference.kind is not HostKind.MERGING:
        return False
    # VMs of others stay where they are.
    if difference.kind is HostKind.INTRUDER:
        return False
    return any(
        step.subject == difference.vm and step.verb in PLUGGED_IN
        if difference.vm
        else step.subject == difference.network and step.verb is Verb.REMAKE_NETWORK
        for step in steps
    )
