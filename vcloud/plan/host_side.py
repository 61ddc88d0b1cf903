"""Finds differences between a host and what vcloud made there, where libvirt does not look:
bridges, ports, packet filters and processes. Pure. `host_isolation` finds those of processors and memory.

A network filter is recognised by what its rules do, not by the names of its chains, which libvirt
chooses. A rule of somebody else is a difference if it could handle a frame of the vApp: if it names
a device of the vApp, or no device at all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from vcloud.compile.libvirt.nwfilter import FilterRule
from vcloud.design.model import Design, Vm
from vcloud.design.names import root_volume, seed_volume
from vcloud.plan.host_difference import NEEDS, HostDifference, HostKind
from vcloud.plan.host_isolation import (
    intruders,
    merged_memory,
    merging_kernel,
    threaded_cores,
    unconfined,
    unlocked_memory,
    wrong_cores,
)
from vcloud.plan.host_look import Card, Look
from vcloud.plan.host_report import HostReport, Match, Process, Rule

MTU = "1500"
"""The MTU of the vApp's bridges and ports in bytes, because vcloud asks libvirt for no other."""
PORT_FLAGS: Mapping[str, str] = {
    "state": "forwarding",
    **dict.fromkeys(("learning", "flood", "mcast_flood", "bcast_flood"), "true"),
    **dict.fromkeys(
        (
            *("locked", "mab", "hairpin", "guard", "root_block", "fastleave", "proxy_arp"),
            *("proxy_arp_wifi", "vlan_tunnel", "mcast_to_unicast", "neigh_suppress"),
            "neigh_vlan_suppress",
        ),
        "false",
    ),
    "group_fwd_mask": "0",
    "backup_port": "",
    "mtu": MTU,
}
"""The flags that the kernel gives a new port. libvirt changes only `isolated`."""
BRIDGE_FLAGS: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *("vlan_filtering", "stp_state", "group_fwd_mask", "no_linklocal_learn"),
            *("nf_call_iptables", "nf_call_ip6tables", "nf_call_arptables"),
        ),
        "0",
    ),
    "ageing_time": "30000",
    "mtu": MTU,
}
"""The flags of a bridge that libvirt made."""
UNKNOWN_TABLE = "libvirt_nwfilter"
"""The beginning of the names of the tables that libvirt's nftables driver (without ebtables) makes."""
NFT_PROTOCOLS: Mapping[str, str] = {"arp": "arp", "ipv6": "ip6"}
"""libvirt's name of a protocol in an Ethernet frame -> nft's."""
LINK_LOCAL = "fe80:"
"""The kernel gives such an address to each tap. The host cannot be reached by it, because frames
that come in at a port go to the bridge.
"""


def host_differences(
    design: Design,
    running: Collection[str],
    uplink_bridge: str,
    report: HostReport,
    cores: Mapping[str, tuple[int, ...]] | None = None,
    owned: Collection[int] = (),
) -> tuple[HostDifference, ...]:
    """All differences of a host's side of a vApp, sorted by kind.

    Args:
        design: the vApp as the host has it (`Manifest.design`).
        running: names of its VMs that run, by libvirt.
        uplink_bridge: name of the bridge of the firewall's uplink. Empty if it is not known; then
            the bridge of the firewall's card there is not checked.
        report: what the reporter saw.
        cores: VM -> the processor of each of its virtual CPUs, as in the manifest.
        owned: all processors of these cores.
    """
    look = Look(design, frozenset(running), uplink_bridge, report, cores or {}, frozenset(owned))
    unseen = unseen_kinds(report)
    return tuple(
        difference
        for kind, find in LOOKS.items()
        if kind not in unseen
        for difference in find(look)
    )


def unseen_kinds(report: HostReport) -> Mapping[HostKind, str]:
    """The kinds that a report cannot show, each with the reason."""
    unseen = dict(report.unseen)
    if any(chain.table.startswith(UNKNOWN_TABLE) for chain in report.chains):
        unseen["rules"] = (
            "libvirt on this host filters packets in a way that this release of vcloud cannot read"
        )
    return {
        kind: "; ".join(sorted(unseen[part] for part in NEEDS[kind] & unseen.keys()))
        for kind in HostKind
        if NEEDS[kind] & unseen.keys()
    }


def _wrong_cards(look: Look) -> Iterator[HostDifference]:
    for card in look.cards:
        device, process = look.report.devices.get(card.nic.tap), look.process_of(card.vm)
        wanted: tuple[str, ...] = ()
        if device is None or device.kind != "tun":
            what = "is not there"
        elif card.bridge and device.master != card.bridge:
            what = (
                f"is on {look.bridge_shown(device.master)}, not on {look.bridge_shown(card.bridge)}"
            )
            isolated = "on" if card.nic.isolated else "off"
            wanted = ("master", card.bridge, "isolated", isolated)
        elif not device.up:
            what, wanted = "is down", ("up",)
        elif process is not None and device.name not in process.taps:
            what = "is not held by the VM's QEMU"
        else:
            continue
        yield look.differs(HostKind.CARD, card.nic.tap, what, wanted=wanted)


def _wrong_bridges(look: Look) -> Iterator[HostDifference]:
    for name in look.bridges:
        device = look.report.devices.get(name)
        if device is None or device.kind != "bridge":
            yield look.differs(HostKind.BRIDGE, name, "is not there")
        elif device.master:
            what = f"is itself a port of {device.master}"
            yield look.differs(HostKind.BRIDGE, name, what, wanted=("nomaster",))
        elif not device.up:
            yield look.differs(HostKind.BRIDGE, name, "is down", wanted=("up",))


def _wrong_isolation(look: Look) -> Iterator[HostDifference]:
    for card in look.cards:
        device = look.report.devices.get(card.nic.tap)
        if device and device.port and (device.port.get("isolated") == "true") != card.nic.isolated:
            what = "is not isolated" if card.nic.isolated else "is isolated, so VMs cannot reach it"
            yield look.differs(HostKind.ISOLATION, card.nic.tap, what)


def _wrong_filters(look: Look) -> Iterator[HostDifference]:
    for card in look.cards:
        if not card.filter:
            continue
        jump = next((rule for rule in look.report.rules if look.filters(rule, card)), None)
        if jump is None:
            yield look.differs(HostKind.FILTER, card.nic.tap, "is not filtered by the host")
        elif not _is_filter(look.rules_in(jump.table, jump.target), card):
            what = "is filtered by other rules than those of the vApp's network filter"
            yield look.differs(HostKind.FILTER, card.nic.tap, what)


def _is_filter(rules: Sequence[Rule], card: Card) -> bool:
    """Whether these rules are those of the card's network filter. Rules after its last one are never
    reached.
    """
    wanted = [(rule.verdict, _frames(rule, card.nic.mac)) for rule in card.filter]
    first = rules[: len(wanted)]
    return [(rule.verdict, rule.frames) for rule in first] == wanted and all(
        rule.whole and not rule.devices for rule in first
    )


def _frames(rule: FilterRule, mac: str) -> frozenset[Match]:
    """What a rule of a network filter asks of frames, in nft's words."""
    found: list[Match] = []
    if rule.forged:
        found.append(("saddr", "!=", mac))
    if rule.target:
        bits = bin(int(rule.mask.replace(":", ""), 16)).count("1") if rule.mask else 0
        found.append(("daddr", "==", f"{rule.target}/{bits}" if bits else rule.target))
    if rule.protocol:
        found.append(("type", "==", NFT_PROTOCOLS[rule.protocol]))
    return frozenset(found)


def _foreign_ports(look: Look) -> Iterator[HostDifference]:
    for device in look.report.devices.values():
        if device.master in look.bridges and device.name not in look.taps:
            holder = next(
                (item for item in look.report.processes if device.name in item.taps), None
            )
            kind = f", a {device.kind} device" if device.kind else ""
            by = f" of process {_shown(holder)}" if holder else ""
            what = f"has a foreign port: {device.name}{kind}{by}"
            yield look.differs(HostKind.PORT, device.master, what, device.name)


def _stacked_devices(look: Look) -> Iterator[HostDifference]:
    for device in look.report.devices.values():
        if device.lower in look.names and device.name not in look.names:
            what = f"has a device stacked on it: {device.name} ({device.kind})"
            yield look.differs(HostKind.STACKED, device.lower, what, device.name)


def _host_addresses(look: Look) -> Iterator[HostDifference]:
    for device in look.ours:
        for address in device.addresses:
            if device.name in look.bridges or not address.startswith(LINK_LOCAL):
                what = f"has an address of the host: {address}"
                yield look.differs(HostKind.ADDRESS, device.name, what, address)


def _host_routes(look: Look) -> Iterator[HostDifference]:
    for device, target in look.report.routes:
        if device in look.names:
            yield look.differs(
                HostKind.ROUTE, device, f"has a route of the host to {target}", target
            )


def _wrong_flags(look: Look) -> Iterator[HostDifference]:
    for device in look.ours:
        bridge = device.name in look.bridges
        flags, expected = (device.bridge, BRIDGE_FLAGS) if bridge else (device.port, PORT_FLAGS)
        for flag, value in expected.items():
            if flags.get(flag, value) != value and not (flag == "mtu" and look.follows(device)):
                what = f"has {flag} {flags[flag]}, not {value or 'none'}"
                yield look.differs(HostKind.FLAGS, device.name, what, flag, (flag, value))


def _static_entries(look: Look) -> Iterator[HostDifference]:
    for device, mac in look.report.static:
        if device in look.names:
            what = f"has a static forwarding entry for {mac}"
            yield look.differs(HostKind.STATIC, device, what, mac)


def _queues(look: Look) -> Iterator[HostDifference]:
    """A queueing discipline without a handle is the kernel's own and cannot have filters.
    `noqueue`, which libvirt gives to taps, cannot have filters either.
    """
    for device in look.ours:
        for queue in device.queues:
            kind, _, handle = queue.partition(" ")
            if kind != "noqueue" and (handle != "0:" or kind in ("ingress", "clsact")):
                what = f"has a queueing discipline of tc that can redirect packets: {queue}"
                yield look.differs(HostKind.QUEUE, device.name, what, queue)


def _redirects(look: Look) -> Iterator[HostDifference]:
    for device, by in look.report.redirects:
        if device in look.names:
            what = f"gets frames of other devices of the host, by {by}"
            yield look.differs(HostKind.REDIRECT, device, what, by)


def _programs(look: Look) -> Iterator[HostDifference]:
    for device in look.ours:
        for place in (*(("xdp",) if device.xdp else ()), *device.programs):
            what = f"has a BPF program that can redirect packets ({place})"
            yield look.differs(HostKind.PROGRAM, device.name, what, place)


def _foreign_rules(look: Look) -> Iterator[HostDifference]:
    """Foreign rules in base chains. A rule that jumps is reported in place of all rules of the
    chain that it jumps to.
    """
    report = look.report
    bases = {(chain.table, chain.name) for chain in report.chains if chain.hook}
    for chain in report.chains:
        if chain.hook and chain.policy not in ("", "accept"):
            what = f"nft's chain '{chain.table} {chain.name}' on the host has the policy {chain.policy} for all bridges"
            yield HostDifference(HostKind.RULE, what, other=chain.name)
    for rule in report.rules:
        if (rule.table, rule.chain) in bases and not look.is_harmless(rule):
            named = min(look.names & rule.words, default="")
            place = f"{rule.table} {rule.chain}"
            if named:
                what = f"is named by a foreign rule of nft's chain '{place}' on the host"
                yield look.differs(HostKind.RULE, named, what, place)
            else:
                what = f"nft's chain '{place}' on the host has a foreign rule for all bridges"
                yield HostDifference(HostKind.RULE, what, other=place)
    for device, hook in report.hooks:
        prefix, star, _ = device.partition("*")
        for name in sorted(look.names):
            if name == device or (star and name.startswith(prefix)):
                yield look.differs(HostKind.RULE, name, f"has a chain of nft: {hook}", hook)


def _packet_sockets(look: Look) -> Iterator[HostDifference]:
    for device, pid, program in look.report.sockets:
        who = f"process {pid} ({program})" if pid else "a process of another namespace"
        if device == "*":
            what = f"{who} reads the frames of all devices of the host"
            yield HostDifference(HostKind.SOCKET, what, other=str(pid))
        elif device in look.names:
            what = f"has a packet socket of {who}, which can read and send whole frames there"
            yield look.differs(HostKind.SOCKET, device, what, str(pid))


def _foreign_processes(look: Look) -> Iterator[HostDifference]:
    known = {process.pid for process in look.own_processes}
    taps = {nic.tap for vm in look.design.vms for nic in vm.nics}
    volumes = {name for vm in look.design.vms for name in _volumes(vm)}
    files = {
        disk.file
        for process in look.own_processes
        for disk in process.disks
        if disk.writes or disk.name in volumes
    }
    # The folder is compared, too, because any user of the host may have a file with the name of a
    # volume.
    folders = {
        disk.folder
        for process in look.own_processes
        for disk in process.disks
        if disk.name in volumes
    }
    for process in look.report.processes:
        if process.pid in known:
            continue
        held = sorted(taps.intersection(process.taps)) if process.here else []
        held += [
            disk.name
            for disk in process.disks
            if disk.file in files
            or (disk.here and disk.name in volumes and (not folders or disk.folder in folders))
        ]
        if held:
            what = f"process {_shown(process)} on the host is no VM of the vApp, but has opened {', '.join(held)}"
            yield HostDifference(HostKind.PROCESS, what, other=str(process.pid))


def _volumes(vm: Vm) -> Iterator[str]:
    yield root_volume(vm.domain)
    yield seed_volume(vm.domain)
    yield from (disk.volume for disk in vm.disks)


def _shown(process: Process) -> str:
    return f"{process.pid} ({process.name or process.program})"


LOOKS: Mapping[HostKind, Callable[[Look], Iterator[HostDifference]]] = {
    HostKind.CARD: _wrong_cards,
    HostKind.BRIDGE: _wrong_bridges,
    HostKind.ISOLATION: _wrong_isolation,
    HostKind.FILTER: _wrong_filters,
    HostKind.PORT: _foreign_ports,
    HostKind.STACKED: _stacked_devices,
    HostKind.ADDRESS: _host_addresses,
    HostKind.ROUTE: _host_routes,
    HostKind.FLAGS: _wrong_flags,
    HostKind.STATIC: _static_entries,
    HostKind.QUEUE: _queues,
    HostKind.REDIRECT: _redirects,
    HostKind.PROGRAM: _programs,
    HostKind.RULE: _foreign_rules,
    HostKind.SOCKET: _packet_sockets,
    HostKind.PROCESS: _foreign_processes,
    HostKind.CORES: wrong_cores,
    HostKind.INTRUDER: intruders,
    HostKind.MERGING: merged_memory,
    HostKind.LOCKING: unlocked_memory,
    HostKind.LABEL: unconfined,
    HostKind.KSM: merging_kernel,
    HostKind.SMT: threaded_cores,
}
