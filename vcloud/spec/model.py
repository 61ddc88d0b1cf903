"""The model of the vApp file: one class per mapping of the file, one line per key.

A line is the single source of a key: its type in `fields` holds the check of the value, its message and its JSON schema
(`vcloud schema`), and an `Unenforced` mark makes `plan` and `up` refuse it. Checks that compare parts of the file (does
`after: [db]` make a circle?) are in `check`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    PrivateAttr,
    Strict,
    ValidationInfo,
    model_validator,
)
from pydantic_core import CoreSchema

from vcloud.documents.document import Position
from vcloud.documents.field import FieldError
from vcloud.spec import fields
from vcloud.spec.fields import Unenforced
from vcloud.spec.surroundings import Surroundings
from vcloud.spec.types import derived_id
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


class Spec(BaseModel):
    """A mapping of the file. It knows its position in the file, so that later messages can name it."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
    short: ClassVar[str] = ""
    """The field that gets the value if the file has a single value in place of the mapping."""
    may_be_null: ClassVar[bool] = False
    """Whether nothing at all is short for the empty mapping."""
    _position: Position = PrivateAttr(default=Position())

    @property
    def line(self) -> int:
        """Line in the file; 0 for a mapping that is not written there."""
        return self._position.line

    @property
    def path(self) -> str:
        """Dotted path in the file: `flows[3]`."""
        return self._position.path

    @classmethod
    def full(cls, value: object) -> object:
        """The mapping that a short form is short for."""
        if value is None and cls.may_be_null:
            return {}
        return {cls.short: value} if cls.short and isinstance(value, str | int) and not isinstance(value, bool) else value

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, value: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        made = handler(cls.full(value))
        made._position = getattr(value, "position", Position())
        return made

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The schema of the mapping and its short forms."""
        made = handler(schema)
        whole = handler.resolve_ref_schema(made)
        mapping = dict(whole)
        forms: list[dict[str, Any]] = []
        if cls.short:
            short = whole["properties"][cls.model_fields[cls.short].alias or cls.short]
            forms.append({key: value for key, value in short.items() if key not in ("default", "description")})
        if cls.may_be_null:
            forms.append({"type": "null"})
        if forms:
            whole.clear()
            whole |= {"anyOf": [*forms, mapping]}
        return made


class Zone(Spec):
    """An isolated layer-2 network of the vApp."""

    may_be_null = True
    open: Annotated[bool, Strict()] = Field(
        False, description="A plain segment: its VMs reach each other directly, not through the firewall."
    )
    holds: fields.ListOf[fields.DataClass] = Field((), description="Classes of data that this zone stores.")


class Image(Spec):
    """What a VM is made from: a shipped recipe, a recipe's folder, a qcow2 file, or the address of one."""

    short = "recipe"
    recipe: fields.RecipeRef = Field("", description="A shipped image's name, or the folder of a recipe, relative to this file.")
    file: fields.LocalPath = Field("", description="A qcow2 image, relative to this file.")
    url: fields.Url = Field("", description="The address of a qcow2 image (https only).")
    sha256: fields.Sha256 = Field("", description="Checksum of the qcow2 image; required with url.")
    _location: str = PrivateAttr(default="")

    @classmethod
    def full(cls, value: object) -> object:
        if isinstance(value, str) and value.endswith((".qcow2", ".img")):
            return {"file": value}
        return super().full(value)

    @model_validator(mode="after")
    def _one_of_them(self, info: ValidationInfo) -> Self:
        if sum(map(bool, (self.recipe, self.file, self.url))) != 1:
            raise FieldError("an image needs exactly one of recipe, file and url", "Write one of them.")
        if self.url and not self.sha256:
            raise FieldError("an image from an address needs its sha256", "Add sha256: with the checksum that its publisher gives.")
        if self.sha256 and self.recipe:
            raise FieldError("a recipe has no sha256, because vcloud builds the image", "Remove sha256.")
        around: Surroundings | None = info.context
        if around is not None and not self.url:
            self._location = self._path(around)
        return self

    def _path(self, around: Surroundings) -> str:
        is_shipped = self.recipe and "/" not in self.recipe
        return around.beside.recipe_path(self.recipe) if is_shipped else around.beside.path(self.recipe or self.file)

    @property
    def location(self) -> str:
        """Absolute path of the recipe's folder or of the qcow2 file; empty for an image from an address."""
        return self._location


class Disk(Spec):
    """A data disk. It is kept when its VM is made anew."""

    short = "size"
    size: fields.DiskSize = Field(description="1G, 512M, or a number of MiB.", examples=["1G"])
    mount: fields.GuestPath = Field("", description="Where the guest mounts it. Default: where the image's recipe says.")


class File(Spec):
    """A file that vcloud writes in the guest before its services start."""

    short = "content"
    content: fields.Optional[fields.Content] = Field(None, description="The text of the file.")
    source: fields.SourcePath = Field("", description="A file in this folder that has the content.")
    mode: fields.Permissions = Field(0o644, description="Permissions, in quotes. Default: '0644'.")
    owner: fields.Owner = Field("root:root", description="user:group, by name. Default: root:root.")
    _bytes: bytes = PrivateAttr(default=b"")

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.content is None) == (self.source == ""):
            raise FieldError("a file needs either content or source", "Write one of them.")
        return self

    @property
    def content_bytes(self) -> bytes:
        """What the guest gets. The content of a source is read when the vApp file is loaded."""
        return self._bytes if self.content is None else self.content.encode()

    def keep(self, source: bytes) -> None:
        """Keeps the content of the source. The loader calls this once."""
        self._bytes = source


class Ready(Spec):
    """When a VM is ready. Without a port and a command: when its services have started."""

    tcp: fields.Optional[fields.Port] = Field(None, description="A port that must accept connections in the guest.")
    command: fields.Text = Field("", description="A shell command that must succeed in the guest.")
    timeout: fields.Duration = Field(120, description="Seconds, or 90s, 5m. Default: 120 seconds.")


class Vm(Spec):
    """A VM, or with `count` several equal ones."""

    image: Image = Field(
        description="A shipped image's name, a recipe's folder (./images/api), a qcow2 file, or a mapping.",
        examples=["nginx"],
    )
    zones: fields.ListOf[fields.ZoneRef] = Field(
        alias="zone", min_length=1, description="Its zones. Its default route is in the first one.", examples=["dmz"]
    )
    count: fields.Optional[fields.Count] = Field(None, description="How many VMs. They are called web-1, web-2, ...")
    cpus: Annotated[int, Strict()] = Field(1, ge=1, le=64, description="Virtual CPUs. Default: 1.")
    memory: fields.Optional[fields.Memory] = Field(
        None, description="384M, 1G, or a number of MiB. Default: what the image's recipe says, or 384M."
    )
    disks: dict[fields.DiskName, Disk] = Field(default_factory=dict, max_length=16, description="Data disks.")
    files: dict[fields.GuestPath, File] = Field(
        default_factory=dict, description="Files that vcloud writes in the guest before its services start."
    )
    packages: tuple[fields.Package, ...] = Field((), description="Debian packages to add to the image.")
    run: Annotated[tuple[fields.Script, ...], fields.OneOrMany(repeats=True)] = Field(
        (), description="Shell commands that run once in the guest."
    )
    after: fields.ListOf[fields.VmRef] = Field((), description="VMs that must be ready before this one starts.")
    ready: Ready = Field(default_factory=Ready, description="When this VM is ready.")

    @property
    def image_name(self) -> str:
        """The image as the file names it."""
        return self.image.recipe or self.image.file or self.image.url

    @property
    def image_folder(self) -> str:
        """Absolute path of the recipe's folder; empty for a qcow2 image."""
        return self.image.location if self.image.recipe else ""

    @property
    def image_source(self) -> str:
        """Absolute path or address of the qcow2 image; empty for a recipe."""
        return "" if self.image.recipe else self.image.url or self.image.location

    @property
    def image_sha256(self) -> str:
        return self.image.sha256

    def names(self, tier: str) -> tuple[str, ...]:
        """The names of the VMs that this entry, called `tier` in the file, makes."""
        return (tier,) if self.count is None else tuple(f"{tier}-{number}" for number in range(1, self.count + 1))


class Tls(Spec):
    """What a TLS connection of a flow must show."""

    sni: fields.ListOf[fields.Sni] = Field(min_length=1, description="Server names that clients may ask for.", examples=["pay.example"])


class Flow(Spec):
    """Traffic that is allowed. All other traffic is dropped."""

    source: fields.EndRef = Field(
        alias="from", description="A VM, a zone or internet. vm:NAME or zone:NAME if both have the name.", examples=["internet"]
    )
    target: fields.EndRef = Field(alias="to", description="The other end, written like from.", examples=["web"])
    services: fields.ListOf[fields.ServiceField] = Field(
        alias="service", min_length=1, description="tcp/80, udp/53, tcp/8000-8010, icmp, or a list.", examples=["tcp/80"]
    )
    publish: fields.Publish = Field((), description="Port or range on the uplink, for flows from the internet. Default: the service's own.")
    carries: fields.ListOf[fields.DataClass] = Field((), description="Classes of data that this flow carries.")
    tls: Annotated[fields.Optional[Tls], Unenforced("this release cannot check the TLS server name of flow '{owner.id}'")] = Field(
        None, description="What TLS connections must show."
    )
    why: fields.Text = Field("", description="Why the flow is needed, for people.")
    id: fields.Id = Field(
        default_factory=lambda data: derived_id(data["source"], data["target"], *data["services"]),
        description="A unique id. Default: made of from, to and service.",
    )

    @property
    def published(self) -> tuple[Service, ...]:
        """Ports on the uplink, one entry per service. Empty unless the flow comes from the internet."""
        if self.source != INTERNET:
            return ()
        ports = self.publish * (len(self.services) if len(self.publish) == 1 else 1) or tuple(
            (item.first, item.last) for item in self.services
        )
        return tuple(Service(item.protocol, *range_) for item, range_ in zip(self.services, ports, strict=True))

    @property
    def uses_icmp(self) -> bool:
        return any(item.protocol is Protocol.ICMP for item in self.services)


class Ips(Spec):
    """The intrusion prevention system."""

    inspect: fields.ListOf[fields.ZoneRef] = Field(min_length=1, description="Zones whose traffic it inspects.", examples=["dmz"])
    mode: Mode = Field(Mode.PREVENT, description="prevent (the default) drops attacks, detect only logs them.")


class Data(Spec):
    """The data that a detector looks for."""

    short = "name"
    name: fields.Id = Field(description="card-number, or a name for the pattern.", examples=["card-number"])
    regex: fields.Regex = Field("", description="A regular expression that PCRE and Python read alike.")
    at_least: fields.AtLeast = Field(1, description="How often it must occur in one message. Default: once.")

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        if self.name in BUILT_IN_DETECTORS and self.regex:
            raise FieldError(f"'{self.name}' is built in and cannot have a regex", "Give the pattern another name.")
        if self.name not in BUILT_IN_DETECTORS and not self.regex:
            known = ", ".join(BUILT_IN_DETECTORS)
            raise FieldError(f"no built-in data is called '{self.name}'", f"Write {known}, or a mapping with a name and a regex.")
        return self


class Detector(Spec):
    """A leak detector: data that must not leave some zones."""

    detect: Data = Field(description="card-number, or {name, regex, at_least}.", examples=["card-number"])
    at_least: fields.Optional[fields.AtLeast] = Field(None, description="How often it must occur in one message. Default: once.")
    leaving: fields.ListOf[fields.ZoneRef] = Field(
        min_length=1, description="The data may not leave these zones. Between them it may go.", examples=["app"]
    )
    excepted: fields.ListOf[fields.FlowRef] = Field((), alias="except", description="Ids of flows on which the data may leave.")
    action: Action = Field(Action.BLOCK, description="block (the default) drops the message, alert only logs it.")
    id: fields.Id = Field(
        default_factory=lambda data: derived_id(data["detect"].name, "leaving", *data["leaving"]),
        description="A unique id. Default: made of detect and leaving.",
    )

    @model_validator(mode="after")
    def _one_number(self) -> Self:
        if self.at_least is not None and "at_least" in self.detect.model_fields_set:
            raise FieldError("at_least is written twice: here and under detect", "Keep one of them.")
        return self

    @model_validator(mode="after")
    def _is_countable(self) -> Self:
        if self.regex and self.count > 1:
            from vcloud.patterns.pattern import most_countable

            most = most_countable(self.regex)
            if self.count > most:
                raise FieldError(f"the IPS cannot count the pattern {self.count} times", f"Write at most {most}, or shorten the pattern.")
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

    profiles: Annotated[fields.ListOf[fields.Profile], Unenforced("this release has no profiles, so it cannot enforce '{value}'")] = Field(
        (), description="Regulations: pci-dss, or pci-dss@4.0.1 for a fixed version."
    )
    ips: fields.Optional[Ips] = Field(None, description="The intrusion prevention system.")
    dlp: tuple[Detector, ...] = Field((), max_length=MOST_DETECTORS, description="Leak detectors.")


class Tenancy(Spec):
    """Which other vApps may share a host with this one."""

    share: Share = Field(Share.LABELLED, description="labelled (the default): vApps with the labels below; dedicated: none; anyone: all.")
    together: tuple[dict[fields.Label, fields.Text], ...] = Field((), alias="with", description="Labels of vApps that may share its hosts.")
    never: tuple[dict[fields.Label, fields.Text], ...] = Field((), description="Labels of vApps that may not share its hosts.")
    conflicts: fields.ListOf[fields.DataClass] = Field((), description="Conflict classes. A host runs only one vApp of each class.")


class Placement(Spec):
    """Where the vApp may run."""

    require: dict[fields.Label, fields.Text] = Field(default_factory=dict, description="Labels that a host must have.")
    prefer: dict[fields.Label, fields.Text] = Field(default_factory=dict, description="Preferred host labels.")


class Recovery(Spec):
    """How the vApp continues at another site."""

    site: fields.Text = Field(description="The site that takes over.", examples=["backup"])
    rpo: fields.Duration = Field(description="The newest data that may be lost, as a duration.", examples=["15m"])
    rto: fields.Duration = Field(description="How long the recovery may take.", examples=["10m"])
    disks: fields.ListOf[fields.DiskRef] = Field((), description="Disks to replicate, like db.data.")


class Vapp(Spec):
    """An application of several VMs, and how it is protected."""

    version: fields.Version = Field(alias="vcloud", description="The version of the file format.", examples=[1])
    name: fields.VappName = Field(description="The vApp's name, unique in the lab.", examples=["shop"])
    owner: fields.Text = Field("", description="Who is responsible for the vApp.")
    labels: dict[fields.Label, fields.Text] = Field(default_factory=dict, description="Labels of the vApp.")
    parameters: dict[fields.ParameterName, fields.ParameterValue] = Field(
        default_factory=dict, description="Names and defaults. Any value can use ${name}; -P name=value sets it."
    )
    authorized_keys: fields.ListOf[fields.PublicKey] = Field((), description="OpenSSH public keys that may log in to every VM.")
    zones: dict[fields.Part, Zone] = Field(min_length=1, max_length=MOST_ZONES, description="The vApp's networks.", examples=[{"dmz": {}}])
    vms: dict[fields.Part, Vm] = Field(min_length=1, description="The vApp's VMs.", examples=[{"web": {"image": "nginx", "zone": "dmz"}}])
    flows: tuple[Flow, ...] = Field((), description="The allowed traffic.")
    protection: Protection = Field(default_factory=Protection, description="How the vApp is protected.")
    tenancy: Annotated[fields.Optional[Tenancy], Unenforced("this release cannot keep other vApps away from the hosts of this one")] = (
        Field(None, description="Which other vApps may share its hosts.")
    )
    placement: Annotated[
        fields.Optional[Placement], Unenforced("this release runs a vApp on the host it is given, and cannot choose one")
    ] = Field(None, description="Where the vApp may run.")
    dr: Annotated[fields.Optional[Recovery], Unenforced("this release cannot replicate a vApp to another site")] = Field(
        None, description="How the vApp continues at another site."
    )
    _file: str = PrivateAttr(default="")
    _lines: Mapping[str, int] = PrivateAttr(default_factory=dict)

    @property
    def file(self) -> str:
        """The path of the file as the user wrote it."""
        return self._file

    def line_of(self, path: str) -> int:
        """The line of a dotted path such as `vms.web.memory`. If it is not written: the line of what is around it, or 0."""
        while path and path not in self._lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self._lines.get(path, 0)

    def locate(self, file: str, lines: Mapping[str, int]) -> Self:
        """Keeps the file's name and the line of each dotted path. The loader calls this once."""
        self._file, self._lines = file, lines
        return self
