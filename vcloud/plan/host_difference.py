"""The ways in which a host's side of a vApp can differ from what vcloud made. Pure.

`vcloud.plan.host_side` finds the differences, and `vcloud.plan.host_mending` says how to end each.
To add a kind of difference, add its claim and the parts of a report that it needs (`NEEDS`) here, a
function that finds it to `host_side`, and a mend to `host_mending`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class HostKind(StrEnum):
    """The kinds of differences. The values are shown to users and used in data."""

    CARD = "card"
    BRIDGE = "bridge"
    ISOLATION = "isolation"
    FILTER = "filter"
    PORT = "foreign port"
    STACKED = "stacked device"
    ADDRESS = "host address"
    ROUTE = "host route"
    FLAGS = "bridge flags"
    STATIC = "static entry"
    QUEUE = "tc"
    REDIRECT = "redirect"
    PROGRAM = "bpf program"
    RULE = "foreign rule"
    SOCKET = "packet socket"
    PROCESS = "foreign process"
    CORES = "cores"
    INTRUDER = "foreign vm on cores"
    MERGING = "page sharing"
    LOCKING = "locked memory"
    LABEL = "security label"
    KSM = "ksm"
    SMT = "smt"


ON_DEMAND = frozenset(
    {
        HostKind.CORES,
        HostKind.INTRUDER,
        HostKind.MERGING,
        HostKind.LOCKING,
        HostKind.LABEL,
        HostKind.KSM,
        HostKind.SMT,
    }
)
"""What is looked at only where a vApp demands it (`vcloud.plan.host_isolation`)."""

LOST = "lost"
"""In `HostDifference.other`: the process of the VM was not found."""

CLAIMS: Mapping[HostKind, str] = {
    HostKind.CARD: "each card of a running VM is on the bridge of its network on the host",
    HostKind.BRIDGE: "each network has its bridge on the host",
    HostKind.ISOLATION: "ports of VMs are isolated on the host's bridges",
    HostKind.FILTER: "the host lets each VM send with its own MAC address only",
    HostKind.PORT: "the bridges of the vApp have no foreign ports",
    HostKind.STACKED: "no other device is stacked on a bridge or card of the vApp",
    HostKind.ADDRESS: "the host has no address on a network of the vApp",
    HostKind.ROUTE: "the host has no route into a network of the vApp",
    HostKind.FLAGS: "bridges and ports of the vApp have no other flags",
    HostKind.STATIC: "no static entry tells a bridge of the vApp where to send frames",
    HostKind.QUEUE: "tc handles no packets of the vApp",
    HostKind.REDIRECT: "neither tc nor nft sends frames of other devices to the vApp",
    HostKind.PROGRAM: "no BPF program handles packets of the vApp",
    HostKind.RULE: "no foreign nft or ebtables rule handles frames of the vApp",
    HostKind.SOCKET: "no program of the host reads or sends frames on devices of the vApp",
    HostKind.PROCESS: "no foreign process has cards or disks of the vApp open",
    HostKind.CORES: "each CPU of a VM with cores of its own runs on its core, and nothing of the VM elsewhere",
    HostKind.INTRUDER: "no VM of others may run on the cores of the vApp",
    HostKind.MERGING: "the kernel merges no memory of VMs that forbid it",
    HostKind.LOCKING: "the host keeps all memory of VMs whose memory is locked",
    HostKind.LABEL: "a security driver confines the process of each VM, apart from all others",
    HostKind.KSM: "the host merges no equal pages of processes",
    HostKind.SMT: "no core of the host runs two threads at a time",
}
"""Kind -> the claim that is true if there is no difference of this kind."""

NEEDS: Mapping[HostKind, frozenset[str]] = {
    **dict.fromkeys(HostKind, frozenset({"devices"})),
    HostKind.FILTER: frozenset({"rules"}),
    HostKind.ROUTE: frozenset({"devices", "routes"}),
    HostKind.STATIC: frozenset({"devices", "static"}),
    HostKind.QUEUE: frozenset({"devices", "queues"}),
    HostKind.REDIRECT: frozenset({"devices", "redirects", "forwards"}),
    HostKind.PROGRAM: frozenset({"devices", "programs"}),
    HostKind.RULE: frozenset({"rules", "hooks", "legacy rules"}),
    HostKind.PROCESS: frozenset(),
    **dict.fromkeys(
        (
            *(HostKind.CORES, HostKind.INTRUDER, HostKind.LOCKING, HostKind.LABEL),
            *(HostKind.KSM, HostKind.SMT),
        ),
        frozenset(),
    ),
    HostKind.MERGING: frozenset({"merging"}),
}
"""Kind -> the parts of a report that are needed to look for it (`HostReport.unseen`)."""


@dataclass(frozen=True, slots=True)
class HostDifference:
    """One difference between a host and what vcloud made there."""

    kind: HostKind
    what: str
    """The sentence for users, without a full stop. Parts of it come from the host."""
    vm: str = ""
    """The VM that differs, or whose card differs; empty if the difference is about a network or the
    host.
    """
    network: str = ""
    """libvirt's name of the network whose bridge or port differs."""
    device: str = ""
    """The device on the host that differs."""
    other: str = ""
    """The foreign object: a device, an address, a target, a process number."""
    wanted: tuple[str, ...] = ()
    """How the device must be, in the words of ip-link(8): `up`; `master BRIDGE isolated on`;
    `hairpin off`. Empty if ip-link(8) cannot repair it.
    """


@dataclass(frozen=True, slots=True)
class HostSide:
    """A host's side of one vApp."""

    differences: tuple[HostDifference, ...] = ()
    unseen: Mapping[HostKind, str] = field(default_factory=dict)
    """Kinds that could not be looked for, each with the reason."""
    hint: str = ""
    """How the user can make them visible."""
    as_root: bool = False
    """vcloud's own commands on the host run as root."""

    @property
    def caveat(self) -> str:
        """The text that a message about the vApp adds; empty if everything was looked at."""
        return "as far as libvirt tells; the host's side was not looked at" if self.unseen else ""

    @property
    def reason(self) -> str:
        """Why not everything was looked at; empty if everything was."""
        return "; ".join(sorted(set(self.unseen.values())))
