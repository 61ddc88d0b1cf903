"""The model of the vApp file: one class per mapping of the file, one line per key. The mappings of
a VM are in `vm`.

A line is the single source of a key: its type in `fields` holds the check of the value, its message
and its JSON schema (`vcloud schema`), and an `Unenforced` mark makes `plan` and `up` refuse it.
Checks that compare parts of the file (does `after: [db]` make a circle?) are in `check`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Self

from pydantic import (
    Field,
    PrivateAttr,
    Strict,
    model_validator,
)

from vcloud.documents.field import FieldError
from vcloud.spec import fields
from vcloud.spec.base import Spec
from vcloud.spec.fields import Unenforced
from vcloud.spec.types import derived_id
from vcloud.spec.vm import Vm
from vcloud.values import BUILT_IN_DETECTORS, INTERNET, Action, Mode, Protocol, Service

MOST_ZONES = 100
"""The IPS has two NICs for each zone, and QEMU's machine has room for about 230 devices."""
MOST_DETECTORS = 200
"""Each becomes a dozen rules of the IPS, and every packet passes all rules."""


class Share(StrEnum):
    """Which other vApps may run on the vApp's hosts: those with certain labels, none, or all."""

    LABELLED = "labelled"
    DEDICATED = "dedicated"
    ANYONE = "anyone"


class Zone(Spec):
    """An isolated layer-2 network of the vApp."""

    may_be_null = True
    open: Annotated[bool, Strict()] = Field(
        False,
        description="A plain segment: its VMs reach each other directly, not through the firewall.",
    )
    holds: fields.ListOf[fields.DataClass] = Field(
        (), description="Classes of data that this zone stores."
    )


class Tls(Spec):
    """What a TLS connection of a flow must show."""

    sni: fields.ListOf[fields.Sni] = Field(
        min_length=1, description="Server names that clients may ask for.", examples=["pay.example"]
    )


class Flow(Spec):
    """Traffic that is allowed. All other traffic is dropped."""

    source: fields.EndRef = Field(
        alias="from",
        description="A VM, a zone or internet. vm:NAME or zone:NAME if both have the name.",
        examples=["internet"],
    )
    target: fields.EndRef = Field(
        alias="to", description="The other end, written like from.", examples=["web"]
    )
    services: fields.ListOf[fields.ServiceField] = Field(
        alias="service",
        min_length=1,
        description="tcp/80, udp/53, tcp/8000-8010, icmp, or a list.",
        examples=["tcp/80"],
    )
    publish: fields.Publish = Field(
        (),
        description="Port or range on the uplink, for flows from the internet. Default: the service's own.",
    )
    carries: fields.ListOf[fields.DataClass] = Field(
        (), description="Classes of data that this flow carries."
    )
    tls: Annotated[
        fields.Optional[Tls],
        Unenforced("this release cannot check the TLS server name of flow '{owner.id}'"),
    ] = Field(None, description="What TLS connections must show.")
    why: fields.Text = Field("", description="Why the flow is needed, for people.")
    id: fields.Id = Field(
        default_factory=lambda data: derived_id(data["source"], data["target"], *data["services"]),
        description="A unique id. Default: made of from, to and service.",
    )

    @property
    def published(self) -> tuple[Service, ...]:
        """Ports on the uplink, one entry per service. Empty unless the flow comes from the
        internet.
        """
        if self.source != INTERNET:
            return ()
        ports = self.publish * (len(self.services) if len(self.publish) == 1 else 1) or tuple(
            (item.first, item.last) for item in self.services
        )
        return tuple(
            Service(item.protocol, *range_)
            for item, range_ in zip(self.services, ports, strict=True)
        )

    @property
    def uses_icmp(self) -> bool:
        return any(item.protocol is Protocol.ICMP for item in self.services)


class Ips(Spec):
    """The intrusion prevention system."""

    inspect: fields.ListOf[fields.ZoneRef] = Field(
        min_length=1, description="Zones whose traffic it inspects.", examples=["dmz"]
    )
    mode: Mode = Field(
        Mode.PREVENT, description="prevent (the default) drops attacks, detect only logs them."
    )


class Data(Spec):
    """The data that a detector looks for."""

    short = "name"
    name: fields.Id = Field(
        description="card-number, or a name for the pattern.", examples=["card-number"]
    )
    regex: fields.Regex = Field(
        "", description="A regular expression that PCRE and Python read alike."
    )
    at_least: fields.AtLeast = Field(
        1, description="How often it must occur in one message. Default: once."
    )

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        if self.name in BUILT_IN_DETECTORS and self.regex:
            raise FieldError(
                f"'{self.name}' is built in and cannot have a regex",
                "Give the pattern another name.",
            )
        if self.name not in BUILT_IN_DETECTORS and not self.regex:
            known = ", ".join(BUILT_IN_DETECTORS)
            raise FieldError(
                f"no built-in data is called '{self.name}'",
                f"Write {known}, or a mapping with a name and a regex.",
            )
        return self


class Detector(Spec):
    """A leak detector: data that must not leave some zones."""

    detect: Data = Field(
        description="card-number, or {name, regex, at_least}.", examples=["card-number"]
    )
    at_least: fields.Optional[fields.AtLeast] = Field(
        None, description="How often it must occur in one message. Default: once."
    )
    leaving: fields.ListOf[fields.ZoneRef] = Field(
        min_length=1,
        description="The data may not leave these zones. Between them it may go.",
        examples=["app"],
    )
    excepted: fields.ListOf[fields.FlowRef] = Field(
        (), alias="except", description="Ids of flows on which the data may leave."
    )
    action: Action = Field(
        Action.BLOCK, description="block (the default) drops the message, alert only logs it."
    )
    id: fields.Id = Field(
        default_factory=lambda data: derived_id(data["detect"].name, "leaving", *data["leaving"]),
        description="A unique id. Default: made of detect and leaving.",
    )

    @model_validator(mode="after")
    def _one_number(self) -> Self:
        if self.at_least is not None and "at_least" in self.detect.model_fields_set:
            raise FieldError(
                "at_least is written twice: here and under detect", "Keep one of them."
            )
        return self

    @model_validator(mode="after")
    def _is_countable(self) -> Self:
        if self.regex and self.count > 1:
            from vcloud.patterns.pattern import most_countable

            most = most_countable(self.regex)
            if self.count > most:
                raise FieldError(
                    f"the IPS cannot count the pattern {self.count} times",
                    f"Write at most {most}, or shorten the pattern.",
                )
        return self

    @property
    def regex(self) -> str:
        """The pattern; empty for card numbers."""
        return self.detect.regex

    @property
    def count(self) -> int:
        return self.at_least or self.detect.at_least


class Protection(Spec):
    """How the vApp must be protected."""

    profiles: Annotated[
        fields.ListOf[fields.Profile],
        Unenforced("this release has no profiles, so it cannot enforce '{value}'"),
    ] = Field((), description="Regulations: pci-dss, or pci-dss@4.0.1 for a fixed version.")
    ips: fields.Optional[Ips] = Field(None, description="The intrusion prevention system.")
    dlp: tuple[Detector, ...] = Field((), max_length=MOST_DETECTORS, description="Leak detectors.")


class Tenancy(Spec):
    """Which other vApps may share a host with this one."""

    share: Share = Field(
        Share.LABELLED,
        description="labelled (the default): vApps with the labels below; dedicated: none; anyone: all.",
    )
    together: tuple[dict[fields.Label, fields.Text], ...] = Field(
        (), alias="with", description="Labels of vApps that may share its hosts."
    )
    never: tuple[dict[fields.Label, fields.Text], ...] = Field(
        (), description="Labels of vApps that may not share its hosts."
    )
    conflicts: fields.ListOf[fields.DataClass] = Field(
        (), description="Conflict classes. A host runs only one vApp of each class."
    )


class Placement(Spec):
    """Where the vApp may run."""

    require: dict[fields.Label, fields.Text] = Field(
        default_factory=dict, description="Labels that a host must have."
    )
    prefer: dict[fields.Label, fields.Text] = Field(
        default_factory=dict, description="Preferred host labels."
    )


class Recovery(Spec):
    """How the vApp continues at another site."""

    site: fields.Text = Field(description="The site that takes over.", examples=["backup"])
    rpo: fields.Duration = Field(
        description="The newest data that may be lost, as a duration.", examples=["15m"]
    )
    rto: fields.Duration = Field(description="How long the recovery may take.", examples=["10m"])
    disks: fields.ListOf[fields.DiskRef] = Field(
        (), description="Disks to replicate, like db.data."
    )


class Vapp(Spec):
    """An application of several VMs, and how it is protected."""

    version: fields.Version = Field(
        alias="vcloud", description="The version of the file format.", examples=[1]
    )
    name: fields.VappName = Field(
        description="The vApp's name, unique in the lab.", examples=["shop"]
    )
    owner: fields.Text = Field("", description="Who is responsible for the vApp.")
    labels: dict[fields.Label, fields.Text] = Field(
        default_factory=dict, description="Labels of the vApp."
    )
    parameters: dict[fields.ParameterName, fields.ParameterValue] = Field(
        default_factory=dict,
        description="Names and defaults. Any value can use ${name}; -P name=value sets it.",
    )
    authorized_keys: fields.ListOf[fields.PublicKey] = Field(
        (), description="OpenSSH public keys that may log in to every VM."
    )
    zones: dict[fields.Part, Zone] = Field(
        min_length=1,
        max_length=MOST_ZONES,
        description="The vApp's networks.",
        examples=[{"dmz": {}}],
    )
    vms: dict[fields.Part, Vm] = Field(
        min_length=1,
        description="The vApp's VMs.",
        examples=[{"web": {"image": "nginx", "zone": "dmz"}}],
    )
    flows: tuple[Flow, ...] = Field((), description="The allowed traffic.")
    protection: Protection = Field(
        default_factory=Protection, description="How the vApp is protected."
    )
    tenancy: Annotated[
        fields.Optional[Tenancy],
        Unenforced("this release cannot keep other vApps away from the hosts of this one"),
    ] = Field(None, description="Which other vApps may share its hosts.")
    placement: Annotated[
        fields.Optional[Placement],
        Unenforced("this release runs a vApp on the host it is given, and cannot choose one"),
    ] = Field(None, description="Where the vApp may run.")
    dr: Annotated[
        fields.Optional[Recovery],
        Unenforced("this release cannot replicate a vApp to another site"),
    ] = Field(None, description="How the vApp continues at another site.")
    _file: str = PrivateAttr(default="")
    _lines: Mapping[str, int] = PrivateAttr(default_factory=dict)

    @property
    def file(self) -> str:
        """The path of the file as the user wrote it."""
        return self._file

    def line_of(self, path: str) -> int:
        """The line of a dotted path such as `vms.web.memory`. If it is not written: the line of
        what is around it, or 0.
        """
        while path and path not in self._lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self._lines.get(path, 0)

    def locate(self, file: str, lines: Mapping[str, int]) -> Self:
        """Keeps the file's name and the line of each dotted path. The loader calls this once."""
        self._file, self._lines = file, lines
        return self
