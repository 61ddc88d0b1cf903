"""Joins what the design of a vApp demands of a host with what a report says of the host. Pure.

The design knows every name on the host (`vcloud.design.names`). So only two more facts are needed:
which VMs run, and the bridge of the uplink.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from vcloud.compile.libvirt.devices import filter_of
from vcloud.compile.libvirt.network import vapp_networks
from vcloud.compile.libvirt.nwfilter import OPEN_RULES, FilterRule, closed_rules
from vcloud.design.model import Design, Nic, Vm
from vcloud.plan.host_difference import HostDifference, HostKind
from vcloud.plan.host_report import Device, HostReport, Process, Rule


@dataclass(frozen=True, slots=True)
class Card:
    """A NIC of a running VM as it must be on the host."""

    vm: Vm
    nic: Nic
    bridge: str
    """Empty: the uplink's bridge is not known."""
    filter: tuple[FilterRule, ...]
    """What frames the host lets it send; empty: all."""

    @property
    def shown(self) -> str:
        return f"the card of '{self.vm.name}' in {self.nic.zone} ({self.nic.tap})"


@dataclass(frozen=True)
class Look:
    """A report, and the parts of the vApp that the host should have."""

    design: Design
    running: frozenset[str]
    """Names of the VMs that run."""
    uplink_bridge: str
    """Empty: it is not known."""
    report: HostReport
    cores: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """VM -> the processor of each of its virtual CPUs, of the VMs that have cores of their own."""
    owned: frozenset[int] = frozenset()
    """All processors of these cores."""

    @cached_property
    def bridges(self) -> Mapping[str, str]:
        """Bridge -> the network of the vApp."""
        return {network.bridge: network.name for _, network in vapp_networks(self.design)}

    @cached_property
    def cards(self) -> tuple[Card, ...]:
        """The cards of the running VMs."""
        bridges = {network: bridge for bridge, network in self.bridges.items()}
        return tuple(
            Card(
                vm,
                nic,
                bridges.get(nic.network, "") if nic.network else self.uplink_bridge,
                self._rules_of(vm, nic),
            )
            for vm in self.design.vms
            if vm.name in self.running
            for nic in vm.nics
            if nic.zone
        )

    def _rules_of(self, vm: Vm, nic: Nic) -> tuple[FilterRule, ...]:
        if not filter_of(vm, nic):
            return ()
        return self._closed_rules if nic.isolated else OPEN_RULES

    @cached_property
    def _closed_rules(self) -> tuple[FilterRule, ...]:
        return closed_rules(self.design)

    @cached_property
    def taps(self) -> Mapping[str, Card]:
        return {card.nic.tap: card for card in self.cards}

    @cached_property
    def names(self) -> frozenset[str]:
        """The names of all bridges and taps of the vApp on the host."""
        return frozenset((*self.bridges, *self.taps))

    def shown(self, device: str) -> str:
        """A bridge or a card of the vApp, for a sentence."""
        card = self.taps.get(device)
        return card.shown if card else self.bridge_shown(device)

    def bridge_shown(self, bridge: str) -> str:
        network = self.bridges.get(bridge)
        if network:
            return f"the bridge of '{network}' ({bridge})"
        return f"the bridge {bridge}" if bridge else "no bridge"

    def differs(
        self,
        kind: HostKind,
        device: str,
        what: str,
        other: str = "",
        wanted: tuple[str, ...] = (),
    ) -> HostDifference:
        """A difference of a bridge or a card of the vApp."""
        card = self.taps.get(device)
        vm, network = (card.vm.name, card.nic.network) if card else ("", self.bridges[device])
        return HostDifference(
            kind, f"{self.shown(device)} {what}", vm, network, device, other, wanted
        )

    @cached_property
    def ours(self) -> tuple[Device, ...]:
        """The bridges and taps of the vApp that the report contains."""
        devices = self.report.devices
        return tuple(devices[name] for name in sorted(self.names) if name in devices)

    def follows(self, device: Device) -> bool:
        """Whether a device takes its MTU from others: a bridge from the port with the lowest MTU,
        and a card on the uplink from the uplink's bridge.
        """
        if device.name in self.bridges:
            ports = (port for port in self.report.devices.values() if port.master == device.name)
            return any(port.port.get("mtu") == device.bridge.get("mtu") for port in ports)
        return not self.taps[device.name].nic.network

    def rules_in(self, table: str, chain: str) -> list[Rule]:
        return [rule for rule in self.report.rules if (rule.table, rule.chain) == (table, chain)]

    @cached_property
    def entrances(self) -> frozenset[tuple[str, str]]:
        """(table, chain) of the chains that every frame enters when it comes in at a port."""
        return frozenset(
            (chain.table, chain.name) for chain in self.report.chains if chain.hook == "prerouting"
        )

    def filters(self, rule: Rule, card: Card) -> bool:
        """Whether the rule jumps to another chain for every frame that the card sends."""
        return (
            rule.whole
            and rule.verdict == "jump"
            and not rule.frames
            and rule.devices == (("iifname", card.nic.tap),)
            and (rule.table, rule.chain) in self.entrances
        )

    def is_harmless(self, rule: Rule) -> bool:
        """Whether the rule matches other devices only, has no verdict, or is the jump of a network
        filter. The rules of the filter are compared elsewhere (`_wrong_filters`).
        """
        if any(name not in self.names and "*" not in name for _, name in rule.devices):
            return True
        if rule.whole and not rule.verdict:
            return True
        return any(card.filter and self.filters(rule, card) for card in self.cards)

    @cached_property
    def own_processes(self) -> tuple[Process, ...]:
        """The QEMU processes of the running VMs."""
        found = (self.process_of(vm) for vm in self.design.vms if vm.name in self.running)
        return tuple(filter(None, found))

    def process_of(self, vm: Vm) -> Process | None:
        """The QEMU process of a VM. libvirt's pid file of the domain names it; without a pid file,
        its command line does.
        """
        pid = self.report.machines.get(vm.domain)
        return next(
            (
                process
                for process in self.report.processes
                if (process.pid == pid if pid is not None else process.name == vm.domain)
            ),
            None,
        )
