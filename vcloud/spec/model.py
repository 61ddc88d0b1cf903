"""The model of the vApp file: one class per mapping of the file, one line per key. The mappings of
a VM are in `vm`.

Everything about a key comes from its line: its type in `fields` holds the check of the value, the
error message and the JSON schema (`vcloud schema`). An `Unenforced` mark makes `plan` and `up`
refuse the key. Checks that compare parts of the file (does `after: [db]` make a circle?) are in
`check`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, ClassVar, Self

from pydantic import (
    Field,
    PrivateAttr,
    Strict,
    model_validator,
)

from vcloud.documents.document import Document
from vcloud.documents.field import FieldError
from vcloud.documents.parameter import Parameter
from vcloud.spec import fields
from vcloud.spec.base import Spec
from vcloud.spec.fields import Unenforced
from vcloud.spec.isolation import Isolation
from vcloud.spec.types import derived_id, flow_id
from vcloud.spec.vm import Vm
from vcloud.values import (
    BUILT_IN_DETECTORS,
    Action,
    App,
    Denied,
    Mode,
    Network,
    Protocol,
    Service,
    app_of,
    is_outside,
    prefix_of,
)

MOST_ZONES = 100
"""The IPS has two NICs for each zone, and QEMU's machine has room for about 230 devices."""
MOST_DETECTORS = 200
"""Each detector becomes a dozen rules of the IPS, and every packet passes all rules."""
MOST_EXCEPTIONS = 200


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
    denied: Denied = Field(
        Denied.DROP,
        description="What the firewall does with packets of its VMs that no flow allows: drop (the default) sends no answer, reject answers at once.",
    )


class Tls(Spec):
    """What a TLS connection of a flow must show."""

    sni: fields.ListOf[fields.Sni] = Field(
        min_length=1, description="Server names that clients may ask for.", examples=["pay.example"]
    )


class Flow(Spec):
    """Traffic that is allowed. All other traffic is dropped."""

    others_words: ClassVar = {
        **dict.fromkeys(
            ("action", "policy", "verdict"),
            "Flows only allow, and what no flow allows is dropped. To allow, remove this key. To deny, remove "
            "the whole flow, and leave what it names out of the others: tcp/1-80 without tcp/22 is "
            "[tcp/1-21, tcp/23-80]. To reject and not drop, write denied: reject in the zone of the senders.",
        ),
        **dict.fromkeys(("port", "ports", "protocol", "proto"), "Write service: tcp/80."),
        **dict.fromkeys(("source", "src"), "Write from: with a VM, a zone or internet."),
        **dict.fromkeys(("destination", "dest", "dst"), "Write to: with a VM, a zone or internet."),
    }
    source: fields.EndRef = Field(
        alias="from",
        description="A VM, a zone, internet, or addresses outside like 192.168.7.0/24. vm:NAME or zone:NAME if both have the name.",
        examples=["internet"],
    )
    target: fields.EndRef = Field(
        alias="to", description="The other end, written like from.", examples=["web"]
    )
    services: fields.Services = Field(
        alias="service",
        min_length=1,
        description="tcp/80, udp/53, tcp/8000-8010, icmp, all, or a list.",
        examples=["tcp/80"],
    )
    publish: fields.Publish = Field(
        (),
        description="Port or range on the uplink, for flows from outside. Default: the service's own.",
    )
    app: fields.EachOf[App] = Field(
        (),
        description="The protocol that the flow carries, or one for each service. Default: by the port; other: not checked.",
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
        default_factory=lambda data: flow_id(data["source"], data["target"], data["services"]),
        description="A unique id. Default: made of from, to and service.",
    )

    @property
    def prefixes(self) -> tuple[Network | None, Network | None]:
        """The addresses outside that each end names; None for another end."""
        return prefix_of(self.source), prefix_of(self.target)

    @property
    def published(self) -> tuple[Service, ...]:
        """Ports on the uplink, one entry per service. Empty unless the flow comes from outside."""
        if not is_outside(self.source):
            return ()
        ports = self.publish * (len(self.services) if len(self.publish) == 1 else 1) or tuple(
            (item.first, item.last) for item in self.services
        )
        return tuple(
            Service(item.protocol, *range_)
            for item, range_ in zip(self.services, ports, strict=True)
        )

    @property
    def apps(self) -> tuple[App | None, ...]:
        """What each service carries, as written or by its port. None where nobody says it."""
        written = self.app * (len(self.services) if len(self.app) == 1 else 1)
        return tuple(
            app_of(service, written[number] if number < len(written) else None)
            for number, service in enumerate(self.services)
        )

    @property
    def apps_by_port(self) -> tuple[tuple[Service, App], ...]:
        """The services of which the port says what they carry, because the file does not."""
        return tuple(
            (service, app)
            for service, app in zip(self.services, self.apps, strict=True)
            if app is not None and not self.app
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
        1, description="How often it must leave on one connection. Default: once."
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
        None, description="How often it must leave on one connection. Default: once."
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

    @property
    def regex(self) -> str:
        """The pattern; empty for card numbers."""
        return self.detect.regex

    @property
    def count(self) -> int:
        return self.at_least or self.detect.at_least


class ControlException(Spec):
    """A control of a profile that does not count for the vApp until a day."""

    control: fields.Control = Field(
        description="Its id, in quotes where it is a number; with several profiles as pci-dss/1.4.4.",
        examples=["1.4.4"],
    )
    reason: fields.Words = Field(
        description="Why the vApp goes without.", examples=["moves in spring"]
    )
    approved_by: fields.Words = Field(
        description="Who has agreed to it.", examples=["the security office"]
    )
    expires: fields.Date = Field(
        description="The last day of the exception. After it the control counts again.",
        examples=["2026-12-31"],
    )


class Protection(Spec):
    """How the vApp must be protected."""

    profiles: fields.ListOf[fields.Profile] = Field(
        (),
        description="Regulations: pci-dss, pci-dss@4.0.1 for a fixed version, or a folder of your own.",
    )
    exceptions: tuple[ControlException, ...] = Field(
        (), max_length=MOST_EXCEPTIONS, description="Controls that do not count until a day."
    )
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
    remember: fields.ListOf[fields.DataClass] = Field(
        (),
        description="Those of the classes that stay closed to others after the vApp has gone, until `vcloud host scrub`.",
    )


class Strategy(StrEnum):
    """Which of several hosts a vApp gets that are alike otherwise."""

    SPREAD = "spread"
    PACK = "pack"


class Placement(Spec):
    """On which hosts the vApp may run."""

    hosts: fields.ListOf[fields.HostName] = Field(
        (), description="Names of hosts in the inventory. The vApp runs on one of these."
    )
    require: dict[fields.Label, fields.ListOf[fields.Text]] = Field(
        default_factory=dict,
        description="Labels and facts that a host must have. Of several values one is enough.",
        examples=[{"site": "eu"}],
    )
    forbid: dict[fields.Label, fields.ListOf[fields.Text]] = Field(
        default_factory=dict, description="Labels and facts that a host must not have."
    )
    prefer: dict[fields.Label, fields.ListOf[fields.Text]] = Field(
        default_factory=dict,
        description="Of the hosts that can run the vApp, it gets one with most of these labels and facts.",
    )
    strategy: Strategy = Field(
        Strategy.SPREAD,
        description="Then the host with most free memory (spread, the default), or least (pack).",
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
        description="Names and defaults. Any value can use ${name}; -P name=value sets it. {secret: true} in place of a default: the content of files can use it, and --param-file gives it.",
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
    tenancy: fields.Optional[Tenancy] = Field(
        None, description="Which other vApps may share its host."
    )
    placement: Placement = Field(
        default_factory=Placement, description="On which hosts the vApp may run."
    )
    isolation: Isolation = Field(
        default_factory=Isolation,
        description="What its VMs share with no other VM of their host.",
    )
    dr: Annotated[
        fields.Optional[Recovery],
        Unenforced("this release cannot replicate a vApp to another site"),
    ] = Field(None, description="How the vApp continues at another site.")
    _file: str = PrivateAttr(default="")
    _lines: Mapping[str, int] = PrivateAttr(default_factory=dict)
    _secrets: frozenset[str] = PrivateAttr(default=frozenset())
    _parameters: tuple[Parameter, ...] = PrivateAttr(default=())

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

    def holds_secret(self, path: str) -> bool:
        """Whether a secret stands at this dotted path or below."""
        return any(f"{one}.".startswith((f"{path}.", f"{path}[")) for one in self._secrets)

    @property
    def parameter_values(self) -> tuple[Parameter, ...]:
        """The parameters that are no secrets, with their values."""
        return self._parameters

    def locate(self, document: Document) -> Self:
        """Keeps the file's name, the line of each dotted path, where secrets stand, and the values of
        parameters. The loader calls this once.
        """
        self._file, self._lines = document.file, document.lines
        self._secrets, self._parameters = frozenset(document.secrets), document.parameters
        return self
