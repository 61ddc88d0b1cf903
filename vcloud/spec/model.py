"""What a user may write: one class per mapping of the vApp file.

The classes are the single source of the JSON schema (`vcloud schema`) and of the checks that need no other part of the file.
Checks across the file (does `after: [db]` make a circle?) live in `check`; positions and YAML's traps in `document`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
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

from vcloud.documents.document import Place
from vcloud.documents.field import FieldError
from vcloud.spec import types
from vcloud.spec.fields import (
    AtLeast,
    Content,
    Count,
    DataClass,
    DiskName,
    DiskRef,
    DiskSize,
    Duration,
    EndRef,
    FlowRef,
    Given,
    GuestPath,
    Id,
    Label,
    LocalPath,
    Memory,
    OneOrMany,
    Owner,
    Package,
    ParameterName,
    ParameterValue,
    Part,
    Permissions,
    Port,
    Profile,
    PublicKey,
    Publish,
    RecipeRef,
    Regex,
    Script,
    ServiceField,
    Sha256,
    Sni,
    SourcePath,
    Surroundings,
    Text,
    Url,
    VappName,
    Version,
    VmRef,
    ZoneRef,
)
from vcloud.values import INTERNET, Action, Mode, Protocol, Service

CARD_NUMBER = "card-number"
MOST_ZONES = 100
"""The IPS has two cards for each, and QEMU's machine has room for some 230 devices."""
MOST_DETECTORS = 200
"""Each is a dozen rules of the IPS, which all packets pass."""


class Share(StrEnum):
    """Whom a vApp's hosts may also serve: vApps with certain labels, none, or all."""

    LABELLED = "labelled"
    DEDICATED = "dedicated"
    ANYONE = "anyone"


class Spec(BaseModel):
    """A mapping of the file. Knows where it stands, for all who must point back to it."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
    short: ClassVar[str] = ""
    """The field that a single value in place of the mapping stands for."""
    _place: Place = PrivateAttr(default=Place())

    @property
    def line(self) -> int:
        """Line in the file; 0 for what is not written there."""
        return self._place.line

    @property
    def path(self) -> str:
        """Dotted path in the file: `flows[3]`."""
        return self._place.path

    @classmethod
    def full(cls, value: object) -> object:
        """The mapping that a short form stands for."""
        return {cls.short: value} if cls.short and isinstance(value, str | int) and not isinstance(value, bool) else value

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, value: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        made = handler(cls.full(value))
        made._place = getattr(value, "place", Place())
        return made

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The mapping, or the short form."""
        made = handler(schema)
        whole = handler.resolve_ref_schema(made)
        if cls.short:
            short = whole["properties"][cls.model_fields[cls.short].alias or cls.short]
            mapping = dict(whole)
            whole.clear()
            whole |= {"anyOf": [{key: value for key, value in short.items() if key not in ("default", "description")}, mapping]}
        return made


class Zone(Spec):
    """An isolated layer-2 network of the vApp."""

    open: Annotated[bool, Strict()] = Field(False, description="A plain segment: its VMs meet directly, past the firewall.")
    holds: Annotated[tuple[DataClass, ...], OneOrMany()] = Field((), description="Classes of data that live here.")

    @classmethod
    def full(cls, value: object) -> object:
        return {} if value is None else value


class Image(Spec):
    """What a VM starts from: a shipped recipe, a recipe's folder, or a qcow2 file or address."""

    short = "recipe"
    recipe: RecipeRef = Field("", description="A shipped image's name, or the folder of a recipe, relative to this file.")
    file: LocalPath = Field("", description="A qcow2 image, relative to this file.")
    url: Url = Field("", description="Where a qcow2 image is fetched from (https only).")
    sha256: Sha256 = Field("", description="Of the qcow2 image; necessary with url.")
    _folder: Path = PrivateAttr(default=Path())

    @classmethod
    def full(cls, value: object) -> object:
        if isinstance(value, str) and value.endswith((".qcow2", ".img")):
            return {"file": value}
        return super().full(value)

    @model_validator(mode="after")
    def _one_of_them(self, info: ValidationInfo) -> Self:
        if sum(map(bool, (self.recipe, self.file, self.url))) != 1:
            raise FieldError("an image is one of recipe, file and url", "Give one of them.")
        if self.url and not self.sha256:
            raise FieldError("an image from an address needs its sha256", "Add sha256: as its publisher gives it.")
        if self.sha256 and self.recipe:
            raise FieldError("a recipe has no sha256: vcloud builds it", "Remove sha256.")
        around: Surroundings | None = info.context
        if around is not None:
            self._folder = around.recipes_folder if self.recipe and "/" not in self.recipe else around.folder
        return self

    @property
    def location(self) -> Path | None:
        """Absolute path of the recipe's folder or of the qcow2; None for one that is fetched."""
        return None if self.url else (self._folder / (self.recipe or self.file)).absolute()


class Disk(Spec):
    """A data disk; it outlives its VM's root disk."""

    short = "size"
    size: DiskSize = Field(description="1G, 512M, or a number of MiB.")
    mount: GuestPath = Field("", description="Where the guest mounts it; otherwise where the image says.")


class File(Spec):
    """A file that the guest gets before its services start."""

    short = "content"
    content: Annotated[Content | None, Given()] = Field(None, description="The text of the file.")
    source: SourcePath = Field("", description="A file beside this one whose content is taken.")
    mode: Permissions = Field(0o644, description="Permissions, in quotes; otherwise '0644'.")
    owner: Owner = Field("root:root", description="user:group, by name; otherwise root:root.")
    _bytes: bytes = PrivateAttr(default=b"")

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.content is None) == (self.source == ""):
            raise FieldError("a file has either content or a source", "Give one of them.")
        return self

    @property
    def content_bytes(self) -> bytes:
        """What the guest gets. Of a source, what was read when the file was loaded."""
        return self._bytes if self.content is None else self.content.encode()

    def keep(self, source: bytes) -> None:
        """Holds what the source contains; called once, by the loader."""
        self._bytes = source


class Ready(Spec):
    """When a VM counts as ready; with nothing asked for, when its services have been started."""

    tcp: Annotated[Port | None, Given()] = Field(None, description="A port that must accept connections in the guest.")
    command: Text = Field("", description="A shell command that must succeed in the guest.")
    timeout: Duration = Field(120, description="Seconds, or 90s, 5m; otherwise 120 seconds.")


class Vm(Spec):
    """A VM, or with `count` several alike."""

    image: Image = Field(description="A shipped image's name, a recipe's folder (./images/api), a qcow2 file, or a mapping.")
    zones: Annotated[tuple[ZoneRef, ...], OneOrMany()] = Field(
        alias="zone", min_length=1, description="The zones it is in; the first has its default route."
    )
    count: Annotated[Count | None, Given()] = Field(None, description="How many; they are called web-1, web-2, ...")
    cpus: Annotated[int, Strict()] = Field(1, ge=1, le=64, description="Virtual CPUs; otherwise 1.")
    memory: Annotated[Memory | None, Given()] = Field(
        None, description="384M, 1G, or a number of MiB; otherwise what the image's recipe says, or 384M."
    )
    disks: dict[DiskName, Disk] = Field(default_factory=dict, max_length=16, description="Data disks.")
    files: dict[GuestPath, File] = Field(default_factory=dict, description="Files that the guest gets before its services start.")
    packages: tuple[Package, ...] = Field((), description="Debian packages on top of the image's.")
    run: Annotated[tuple[Script, ...], OneOrMany(repeats=True)] = Field((), description="Shell lines that run in the guest once.")
    after: Annotated[tuple[VmRef, ...], OneOrMany()] = Field((), description="VMs that must be ready first.")
    ready: Ready = Field(default_factory=Ready, description="When this VM counts as ready.")

    @property
    def image_name(self) -> str:
        """As the file writes it."""
        return self.image.recipe or self.image.file or self.image.url

    @property
    def image_folder(self) -> str:
        """Absolute path of the recipe; empty for a qcow2."""
        return str(self.image.location) if self.image.recipe else ""

    @property
    def image_source(self) -> str:
        """Absolute path or address of the qcow2; empty for a recipe."""
        return "" if self.image.recipe else self.image.url or str(self.image.location)

    @property
    def image_sha256(self) -> str:
        return self.image.sha256

    def names(self, tier: str) -> tuple[str, ...]:
        """The VMs that this stands for under the name `tier`."""
        return (tier,) if self.count is None else tuple(f"{tier}-{number}" for number in range(1, self.count + 1))


class Tls(Spec):
    """What a TLS connection must show."""

    sni: Annotated[tuple[Sni, ...], OneOrMany()] = Field(min_length=1, description="Server names that may be asked for.")


def derived_id(*parts: object) -> str:
    """An id for what has none, from what it says; long ones end in a hash."""
    text = re.sub("[^a-z0-9]+", "-", "-".join(map(str, parts)))
    if len(text) <= types.ID_LENGTH:
        return text
    from hashlib import sha256

    return f"{text[: types.ID_LENGTH - 9]}-{sha256(text.encode()).hexdigest()[:8]}"


class Flow(Spec):
    """Traffic that is wanted. What no flow names is dropped."""

    source: EndRef = Field(alias="from", description="A VM, a zone or internet; vm:NAME or zone:NAME where both have the name.")
    target: EndRef = Field(alias="to", description="As from.")
    services: Annotated[tuple[ServiceField, ...], OneOrMany()] = Field(
        alias="service", min_length=1, description="tcp/80, udp/53, tcp/8000-8010, icmp, or a list."
    )
    publish: Publish = Field((), description="Port or range on the uplink, for flows from the internet; otherwise the service's own.")
    carries: Annotated[tuple[DataClass, ...], OneOrMany()] = Field((), description="Classes of data that this flow transports.")
    tls: Annotated[Tls | None, Given()] = None
    why: Text = Field("", description="For people: what it is for.")
    id: Id = Field(
        default_factory=lambda data: derived_id(data["source"], data["target"], *data["services"]),
        description="Unique; otherwise made of from, to and service.",
    )

    @property
    def published(self) -> tuple[Service, ...]:
        """Ports on the uplink, one entry per service; empty unless the flow comes from the internet."""
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

    inspect: Annotated[tuple[ZoneRef, ...], OneOrMany()] = Field(min_length=1, description="Zones whose traffic it sees.")
    mode: Mode = Field(Mode.PREVENT, description="prevent (the default) drops what it finds, detect only logs it.")


class Data(Spec):
    """What a detector looks for."""

    short = "name"
    name: Id = Field(description="card-number, or a name for the pattern.")
    regex: Regex = Field("", description="A pattern as PCRE and Python read it alike.")
    at_least: AtLeast = Field(1, description="How often it must occur in one message; otherwise once.")

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        if self.name == CARD_NUMBER and self.regex:
            raise FieldError(f"'{CARD_NUMBER}' is built in and has no regex", "Give the pattern another name.")
        if self.name != CARD_NUMBER and not self.regex:
            raise FieldError(f"no data called '{self.name}' is known", f"Write {CARD_NUMBER}, or a mapping with a name and a regex.")
        return self


class Detector(Spec):
    """Data that must not leave."""

    detect: Data = Field(description="card-number, or {name, regex, at_least}.")
    at_least: Annotated[AtLeast | None, Given()] = Field(None, description="How often it must occur in one message; otherwise once.")
    leaving: Annotated[tuple[ZoneRef, ...], OneOrMany()] = Field(
        min_length=1, description="The zones, as one, that the data may not leave."
    )
    excepted: Annotated[tuple[FlowRef, ...], OneOrMany()] = Field((), alias="except", description="Ids of flows on which it may leave.")
    action: Action = Field(Action.BLOCK, description="block (the default) drops the message, alert only logs it.")
    id: Id = Field(
        default_factory=lambda data: derived_id(data["detect"].name, "leaving", *data["leaving"]),
        description="Unique; otherwise made of detect and leaving.",
    )

    @model_validator(mode="after")
    def _one_number(self) -> Self:
        if self.at_least is not None and "at_least" in self.detect.model_fields_set:
            raise FieldError("at_least is given twice", "Keep one of them.")
        return self

    @model_validator(mode="after")
    def _is_countable(self) -> Self:
        if self.regex and self.count > 1:
            from vcloud.patterns.pattern import most_countable

            most = most_countable(self.regex)
            if self.count > most:
                raise FieldError(f"the IPS cannot count the pattern {self.count} times", f"Ask for at most {most}, or shorten the pattern.")
        return self

    @property
    def regex(self) -> str:
        """Empty for card numbers."""
        return self.detect.regex

    @property
    def count(self) -> int:
        return self.at_least or self.detect.at_least


class Protection(Spec):
    """How the vApp must be protected."""

    profiles: Annotated[tuple[Profile, ...], OneOrMany()] = Field(
        (), description="Regulations: pci-dss, or pci-dss@4.0.1 to pin a version."
    )
    ips: Annotated[Ips | None, Given()] = None
    dlp: tuple[Detector, ...] = Field((), max_length=MOST_DETECTORS, description="Data-leakage detectors.")


class Tenancy(Spec):
    """Who may share a host with the vApp."""

    share: Share = Share.LABELLED
    together: tuple[dict[Label, Text], ...] = Field((), alias="with", description="Labels of vApps that may share its hosts.")
    never: tuple[dict[Label, Text], ...] = Field((), description="Labels of vApps that may not.")
    conflicts: Annotated[tuple[DataClass, ...], OneOrMany()] = Field(
        (), description="Classes of conflict: of each, a host serves one vApp."
    )


class Placement(Spec):
    """Where the vApp may run."""

    require: dict[Label, Text] = Field(default_factory=dict, description="Labels that a host must have.")
    prefer: dict[Label, Text] = Field(default_factory=dict, description="Labels that a host had better have.")


class Recovery(Spec):
    """How the vApp continues elsewhere."""

    site: Text = Field(description="The site that takes over.")
    rpo: Duration = Field(description="How much may be lost: 15m.")
    rto: Duration = Field(description="How long it may take: 10m.")
    disks: Annotated[tuple[DiskRef, ...], OneOrMany()] = Field((), description="Disks that go along: db.data.")


class Vapp(Spec):
    """An application of several VMs, and how it is protected."""

    version: Version = Field(alias="vcloud", description="The version of this format.")
    name: VappName = Field(description="Unique in the lab.")
    owner: Text = ""
    labels: dict[Label, Text] = Field(default_factory=dict)
    parameters: dict[ParameterName, ParameterValue] = Field(
        default_factory=dict, description="Names and defaults; used as ${name} in any value, set with -P name=value."
    )
    authorized_keys: Annotated[tuple[PublicKey, ...], OneOrMany()] = Field(
        (), description="OpenSSH public keys that may log in to every VM."
    )
    zones: dict[Part, Zone] = Field(min_length=1, max_length=MOST_ZONES)
    vms: dict[Part, Vm] = Field(min_length=1)
    flows: tuple[Flow, ...] = ()
    protection: Protection = Field(default_factory=Protection)
    tenancy: Annotated[Tenancy | None, Given()] = None
    placement: Annotated[Placement | None, Given()] = None
    dr: Annotated[Recovery | None, Given()] = None
    _file: str = PrivateAttr(default="")
    _lines: Mapping[str, int] = PrivateAttr(default_factory=dict)

    @property
    def file(self) -> str:
        """The path of the file as it was given."""
        return self._file

    def line_of(self, path: str) -> int:
        """The line of a dotted path such as `vms.web.memory`, or of the closest thing around it; 0 when nothing of it is written."""
        while path and path not in self._lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self._lines.get(path, 0)

    def locate(self, file: str, lines: Mapping[str, int]) -> Self:
        """Takes note of where things stand; called once, by the loader."""
        self._file, self._lines = file, lines
        return self
