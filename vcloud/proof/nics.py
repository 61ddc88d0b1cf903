"""The NICs from which probes are sent, and their addresses. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from vcloud.design.model import Design, Nic, Vm
from vcloud.proof.world import Address

MAX_PER_TIER = 2
"""At most so many replicas of a tier take part in probes that must be blocked. All replicas take
part in probes of declared flows.
"""


@dataclass(frozen=True, slots=True)
class VmNic:
    """A NIC of a workload VM. A VM may have several, each in another zone."""

    vm: Vm
    nic: Nic

    @property
    def key(self) -> str:
        """What ids of checks call it: the name of the VM, and its zone if the VM has several NICs."""
        return self.vm.name if len(self.vm.nics) == 1 else f"{self.vm.name}:{self.nic.zone}"

    @property
    def name(self) -> str:
        """As `key`, in the words of a claim."""
        return self.vm.name if len(self.vm.nics) == 1 else f"{self.vm.name} in zone {self.nic.zone}"


def sampled(design: Design) -> list[Vm]:
    """All VMs, but at most `MAX_PER_TIER` of each tier, because the number of pairs grows with the
    square of the VMs.
    """
    tiers: dict[str, list[Vm]] = {}
    for vm in design.workloads:
        tiers.setdefault(vm.tier, []).append(vm)
    return [vm for members in tiers.values() for vm in members[:MAX_PER_TIER]]


def sampled_nics(design: Design) -> list[VmNic]:
    """Every NIC of the `sampled` VMs."""
    return [VmNic(vm, nic) for vm in sampled(design) for nic in vm.nics]


def owner_of(design: Design, nic: Nic) -> Vm:
    """The workload VM that has this NIC."""
    return next(vm for vm in design.workloads if nic in vm.nics)


def address_of(nic: Nic, family: int) -> Address:
    """The address of a workload's or gateway's NIC. These NICs always have one in both versions of
    IP.
    """
    address = nic.address4 if family == 4 else nic.address6
    assert address is not None  # noqa: S101 - by construction in vcloud.design.resolve
    return address


def sent_from(nic: Nic | None, family: int) -> str:
    return str(address_of(nic, family)) if nic else "-"
