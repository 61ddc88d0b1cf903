"""The mappings below `vms:` of a vApp file: a VM, its image, disks and files, and when it counts as
ready.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Self

from pydantic import (
    Field,
    PrivateAttr,
    Strict,
    ValidationInfo,
    model_validator,
)

from vcloud.documents.field import FieldError
from vcloud.spec import fields
from vcloud.spec.base import Spec
from vcloud.spec.isolation import VmIsolation
from vcloud.spec.surroundings import Surroundings


class Image(Spec):
    """What a VM is made from: a shipped recipe, a recipe's folder, a qcow2 file, or the URL of a
    qcow2 file.
    """

    short = "recipe"
    recipe: fields.RecipeRef = Field(
        "",
        description="A shipped image's name, or the folder of a recipe, relative to this file and below its folder.",
    )
    file: fields.LocalPath = Field(
        "", description="A qcow2 image, relative to this file and below its folder."
    )
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
            raise FieldError(
                "an image needs exactly one of recipe, file and url", "Write one of them."
            )
        if self.url and not self.sha256:
            raise FieldError(
                "an image from an address needs its sha256",
                "Add sha256: with the checksum that its publisher gives.",
            )
        if self.sha256 and self.recipe:
            raise FieldError(
                "a recipe has no sha256, because vcloud builds the image", "Remove sha256."
            )
        around: Surroundings | None = info.context
        if around is not None and not self.url:
            self._location = self._path(around)
        return self

    def _path(self, around: Surroundings) -> str:
        is_shipped = self.recipe and "/" not in self.recipe
        return (
            around.beside.recipe_path(self.recipe)
            if is_shipped
            else around.beside.path(self.recipe or self.file)
        )

    @property
    def location(self) -> str:
        """Absolute path of the recipe's folder or of the qcow2 file; empty for an image from an
        address.
        """
        return self._location


class Disk(Spec):
    """A data disk. It is kept when its VM is made anew."""

    short = "size"
    size: fields.DiskSize = Field(description="1G, 512M, or a number of MiB.", examples=["1G"])
    mount: fields.GuestPath = Field(
        "", description="Where the guest mounts it. Default: where the image's recipe says."
    )


class File(Spec):
    """A file that vcloud writes in the guest before its services start. It also says which units
    are reloaded or restarted when the file changes later.
    """

    short = "content"
    content: fields.Optional[fields.Content] = Field(None, description="The text of the file.")
    source: fields.SourcePath = Field("", description="A file in this folder that has the content.")
    mode: fields.Permissions = Field(0o644, description="Permissions, in quotes. Default: '0644'.")
    owner: fields.Owner = Field("root:root", description="user:group, by name. Default: root:root.")
    reload: fields.Optional[fields.ListOf[fields.Unit]] = Field(
        None,
        description="systemd units that are reloaded when the file changes. Default for reload and restart: the units that the image's recipe names for the folder.",
    )
    restart: fields.Optional[fields.ListOf[fields.Unit]] = Field(
        None, description="systemd units that are restarted when the file changes."
    )
    run: fields.Optional[fields.Script] = Field(
        None,
        description="A shell command that runs in the guest when the file is new and whenever it changes.",
    )
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

    tcp: fields.Optional[fields.Port] = Field(
        None, description="A port that must accept connections in the guest."
    )
    command: fields.Text = Field("", description="A shell command that must succeed in the guest.")
    timeout: fields.Duration = Field(120, description="Seconds, or 90s, 5m. Default: 120 seconds.")


class Vm(Spec):
    """A VM, or with `count` several equal ones."""

    image: Image = Field(
        description="A shipped image's name, a recipe's folder (./images/api), a qcow2 file, or a mapping.",
        examples=["nginx"],
    )
    zones: fields.ListOf[fields.ZoneRef] = Field(
        alias="zone",
        min_length=1,
        description="Its zones. Its default route is in the first one.",
        examples=["dmz"],
    )
    count: fields.Optional[fields.Count] = Field(
        None, description="How many VMs. They are called web-1, web-2, ..."
    )
    was: fields.Optional[fields.Part] = Field(
        None,
        description="The name that this VM had before. Its data disks are kept under the new name.",
    )
    cpus: Annotated[int, Strict()] = Field(1, ge=1, le=64, description="Virtual CPUs. Default: 1.")
    memory: fields.Optional[fields.Memory] = Field(
        None,
        description="384M, 1G, or a number of MiB. Default: what the image's recipe says, or 384M.",
    )
    root: fields.Optional[fields.DiskSize] = Field(
        None,
        description="The size of the root disk: 20G, or a number of MiB. It grows at the first boot. Default: that of the image (4G for a recipe).",
    )
    disks: dict[fields.DiskName, Disk] = Field(
        default_factory=dict, max_length=16, description="Data disks."
    )
    files: dict[fields.GuestPath, File] = Field(
        default_factory=dict,
        description="Files that vcloud writes in the guest before its services start.",
    )
    packages: tuple[fields.Package, ...] = Field(
        (), description="Debian packages to add to the image."
    )
    run: Annotated[tuple[fields.Script, ...], fields.OneOrMany(repeats=True)] = Field(
        (),
        description="Shell commands that run once, in a new guest. Write a command that must run again when a file changes into the run of that file.",
    )
    after: fields.ListOf[fields.VmRef] = Field(
        (), description="VMs that must be ready before this one starts."
    )
    ready: Ready = Field(default_factory=Ready, description="When this VM is ready.")
    isolation: VmIsolation = Field(
        default_factory=VmIsolation,
        description="What this VM shares with no other, in addition to the vApp's isolation.",
    )

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

    def earlier_names(self, tier: str, name: str, claimed: Collection[str] = ()) -> tuple[str, ...]:
        """The names that the VM `name` of this entry may have had before, the likeliest first. They
        come from `was`, and from the names that a VM has without `count` or with it. `claimed` are
        the names that any entry of the file gives in `was`; no other entry may use them.
        """
        number = name.removeprefix(tier).removeprefix("-") or "1"
        found = []
        for before in (self.was, tier):
            if before:
                single = [before] if number == "1" else []
                names = [f"{before}-{number}", *single] if self.count else [*single, f"{before}-1"]
                found += [other for other in names if before == self.was or other not in claimed]
        return tuple(other for other in dict.fromkeys(found) if other != name)

    def names(self, tier: str) -> tuple[str, ...]:
        """The names of the VMs that this entry, called `tier` in the file, makes: `db`, or `web-1`,
        `web-2` where the file gives a count. A count of 1 gives `web-1` as well, so a higher count
        renames no VM.
        """
        return (
            (tier,)
            if self.count is None
            else tuple(f"{tier}-{number}" for number in range(1, self.count + 1))
        )
