"""A profile as values: its controls, and what each demands of a vApp."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import Final

from vcloud.spec.types import derived_id
from vcloud.values import Action, App, Mode, Service


class Status(StrEnum):
    """What vcloud does for a control."""

    ENFORCED = "enforced"
    """Its demands are held: a file that breaks one is refused, what one adds is rendered."""
    SUPPORTS = "supports"
    """What vcloud does helps to meet it, and checks of `verify` are evidence for it, but the control
    asks for more. If it has demands, they are held as those of an enforced one.
    """
    MANUAL = "manual"
    """Nothing that vcloud does meets it, for a reason that the profile says."""
    NOT_COVERED = "not covered"
    """It is not about networks. The profile names it so that nobody takes silence for coverage."""


class Evidence(StrEnum):
    """The strongest thing that shows that a control is held."""

    FILE = "file"
    """The vApp file: `validate` refuses one that breaks the control."""
    LOADED = "loaded"
    """What the host tells, and what the appliances report to have loaded."""
    PACKETS = "packets"
    """Packets that `verify` sends."""


class Scope(StrEnum):
    """The zones that a demand is about."""

    HOLDING = "holding"
    """Those that hold the profile's classes of data."""
    TOUCHING = "touching"
    """Those, and every zone at an end of a flow that carries such data."""
    EVERY = "every"


class Reach(StrEnum):
    """Where traffic goes that a demand is about."""

    OUTSIDE = "outside"
    """To machines outside the vApp."""
    ANYWHERE = "anywhere"
    """Also to other zones of the vApp."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a control asks for. `data` are the classes of data that the profile protects; none: all
    classes.
    """

    data: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FlowsSay(Demand):
    """Every flow says these keys in the file: `why`, `id`."""

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Insecure(Demand):
    """A flow at an end of which is such data has none of these services. Other flows that have one of
    `services` are inspected by the IPS.
    """

    services: tuple[Service, ...]
    beside_data: tuple[Service, ...]


@dataclass(frozen=True, slots=True)
class NotPublished(Demand):
    """No flow from outside leads to a VM with a NIC in these zones."""

    zones: Scope


@dataclass(frozen=True, slots=True)
class NotOpen(Demand):
    """None of these zones is `open`: all packets between their VMs cross the firewall."""

    zones: Scope


@dataclass(frozen=True, slots=True)
class NotBeside(Demand):
    """No VM with a NIC in these zones has one in another zone to which a flow from outside leads."""

    zones: Scope


@dataclass(frozen=True, slots=True)
class Encrypted(Demand):
    """A flow that carries such data to or from the outside carries one of these protocols, and the
    IPS holds it to that.
    """

    apps: tuple[App, ...]


@dataclass(frozen=True, slots=True)
class FewPorts(Demand):
    """A flow that begins in these zones names at most so many ports of each protocol."""

    zones: Scope
    to: Reach
    most: int


@dataclass(frozen=True, slots=True)
class Web(Demand):
    """What the outside reaches by HTTP is inspected for attacks on web applications."""

    mode: Mode


@dataclass(frozen=True, slots=True)
class Inspect(Demand):
    """The IPS inspects these zones, in this mode or a stricter one."""

    zones: Scope
    mode: Mode


@dataclass(frozen=True, slots=True)
class Leaks(Demand):
    """A leak detector at the border of these zones. It excepts the flows that say that they carry
    such data.
    """

    detect: str
    """The name of built-in data or, with a pattern, of own data."""
    regex: str
    zones: Scope
    to: Reach
    at_least: int
    action: Action


@dataclass(frozen=True, slots=True)
class HostHas(Demand):
    """The host has one of these values of a label or a fact."""

    label: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True, order=True)
class ControlRef:
    """A control of a profile, in one version of the profile."""

    profile: str
    version: str
    control: str

    @property
    def stable_id(self) -> str:
        """What loaded text names the control by. It does not change with the version, so that a new
        version that demands the same reloads nothing.
        """
        plain = re.sub("[^a-z0-9]+", "-", f"{self.profile}-{self.control}".lower())
        return derived_id(plain.strip("-"))

    def __str__(self) -> str:
        return f"{self.profile}@{self.version} {self.control}"


@dataclass(frozen=True, slots=True)
class Control:
    """One control of a profile."""

    id: str
    says: str
    """In vcloud's own words."""
    status: Status
    reason: str = ""
    """Why a control is not enforced; what is weaker or stricter than the control says."""
    evidence: Evidence | None = None
    needs: tuple[str, ...] = ()
    """Capabilities of vcloud that enforcing it takes (`CAPABILITIES`)."""
    demands: tuple[Demand, ...] = ()
    proved_by: tuple[str, ...] = ()
    """What a check of `verify` proves (`Check.proves`): an id, or the beginning of ids and `*`.
    `own` is the detector that the control asks for, and the flows that it holds to a protocol.
    """
    begins: date | None = None
    """The first day on which the control counts; None: from the beginning of the version."""

    def counts_on(self, day: date) -> bool:
        return self.begins is None or day >= self.begins


@dataclass(frozen=True, slots=True)
class Profile:
    """One version of a profile."""

    name: str
    version: str
    title: str
    begins: date
    """The first day on which it is in force."""
    ends: date | None
    """The last day on which it is in force; None: not known yet."""
    extends: str
    """The profile whose controls count as well, as a vApp file would name it; or empty."""
    protects: tuple[str, ...]
    """Classes of data. None: all classes that the vApp file names."""
    controls: tuple[Control, ...]
    digest: str
    """SHA-256 in hex of its file."""
    draft: bool = False
    """It is no law yet: a name without a version never means it."""

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def told(self) -> str:
        """The label, and whether it is a draft."""
        return f"{self.label}{', a draft that is no law' * self.draft}"

    def in_force_on(self, day: date) -> bool:
        return self.begins <= day and (self.ends is None or day <= self.ends) and not self.draft

    def control(self, name: str) -> Control | None:
        return next((one for one in self.controls if one.id == name), None)

    def ref(self, control: Control) -> ControlRef:
        return ControlRef(self.name, self.version, control.id)


CAPABILITIES: Final = {
    "file": "checks of the vApp file",
    "firewall": "a firewall that drops what no flow allows, and false sources",
    "ips": "an IPS in the path of packets",
    "ips.app": "an IPS that holds a flow to its protocol",
    "ips.web": "rules against attacks on web applications, where the IPS can read them",
    "leaks": "leak detectors in the path of packets",
    "host.facts": "rules for the host that a host can break",
}
"""What this release can do for a control. One that needs anything else is refused."""


@dataclass(frozen=True, slots=True)
class Applied:
    """A profile that counts for a vApp."""

    name: str
    version: str
    digest: str
    floats: bool
    """The file names no version, so another one counts when it comes into force."""
    draft: bool = False
    """It is no law yet (`Profile.draft`)."""

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def told(self) -> str:
        """The label, and whether it is a draft."""
        return f"{self.label}{', a draft that is no law' * self.draft}"


@dataclass(frozen=True, slots=True)
class InForce:
    """A control that counts for a vApp."""

    ref: ControlRef
    status: Status
    proved_by: tuple[str, ...]
    evidence: Evidence | None = None


@dataclass(frozen=True, slots=True)
class Waiver:
    """An exception: a control that does not count until a day."""

    control: ControlRef
    reason: str
    approved_by: str
    expires: date
    """The last day on which it counts."""

    def counts_on(self, day: date) -> bool:
        return day <= self.expires


@dataclass(frozen=True, slots=True)
class AddedDetector:
    """A leak detector that a control adds."""

    id: str
    kind: str
    regex: str
    at_least: int
    zones: tuple[str, ...]
    excepted: tuple[str, ...]
    action: Action
    control: ControlRef


@dataclass(frozen=True, slots=True)
class AddedHostRule:
    """A rule for the host that a control adds."""

    label: str
    values: tuple[str, ...]
    control: ControlRef


@dataclass(frozen=True, slots=True)
class Hardening:
    """What profiles add to a vApp on a day. `day` is None where the file names no profile."""

    day: date | None = None
    profiles: tuple[Applied, ...] = ()
    controls: tuple[InForce, ...] = ()
    waivers: tuple[Waiver, ...] = ()
    inspected: tuple[tuple[str, ControlRef], ...] = ()
    """(zone, the control that asks for its inspection)."""
    mode: Mode | None = None
    """The least strict mode of the IPS that the controls allow."""
    detectors: tuple[AddedDetector, ...] = ()
    host_rules: tuple[AddedHostRule, ...] = field(default=())


NOTHING = Hardening()
