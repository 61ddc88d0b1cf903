"""`vcloud render`: all generated files, to read them, to review them, and to check them with other
tools.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from pathlib import Path

from vcloud.compile.artifacts import compile_vapp, rendered_files
from vcloud.compile.libvirt.host import BootFiles, HostFacts
from vcloud.design.model import Design, Uplink, Vm
from vcloud.design.names import console_volume, root_volume, seed_volume
from vcloud.documents.given import Given
from vcloud.errors import UsageError
from vcloud.pipeline import design_of, load_file

LIST = ".vcloud-render"
"""Lists the files that a run has written to a folder, so that the next run can remove them."""
# Somebody may have edited the list. So only paths that vcloud writes are removed, and none with a
# part `..`.
_ARTEFACT = re.compile(
    r"(?:domains|networks|filters|identities|cloud-init|firewall|ips)(?:/(?!\.\.?(?:/|$))[A-Za-z0-9_.-]+)+"
)
POOL = "/var/lib/libvirt/images/vcloud"
UPLINK = Uplink(
    network="uplink",
    bridge="",
    address4=IPv4Interface("198.18.0.2/16"),
    gateway4=IPv4Address("198.18.0.1"),
    address6=IPv6Interface("2001:db8:198:18::2/64"),
    gateway6=IPv6Address("2001:db8:198:18::1"),
)
"""In place of the uplink that a host chooses: addresses of the ranges reserved for tests (RFC 2544)
and documentation (RFC 3849).
"""


@dataclass(frozen=True, slots=True)
class ImageNames:
    """What the rendered files say about the images of a vApp's VMs."""

    digests: Mapping[str, str]
    """VM -> digest of its image."""
    cmdline: str
    """Kernel command line of vcloud's own images."""


def render_to(
    path: Path,
    parameters: Given,
    out: Path,
    accelerator: str,
    images_of: Callable[[Design], ImageNames],
    day: date | None = None,
) -> int:
    """Writes all generated files of a vApp below `out`, and returns their number. Paths on the host
    and the uplink are examples, and `(secret)` stands for each secret. `day` is as in `vcloud.pipeline.secured`.

    Files that an earlier run wrote there and this one does not are removed; a user's own files
    stay. Raises UsageError if the folder cannot be written.
    """
    design = design_of(load_file(path, parameters, secrets=False), day=day)
    images = images_of(design)
    boots = {vm.name: _boot_files(vm, images) for vm in design.vms}
    facts = HostFacts("tcg" if accelerator == "auto" else accelerator)
    disks = {disk.volume: f"{POOL}/{disk.volume}" for vm in design.vms for disk in vm.disks}
    files = list(rendered_files(compile_vapp(design, UPLINK), facts, boots, disks))
    try:
        _remove_others(out, {name for name, _ in files})
        for name, content in (*files, (LIST, "".join(f"{name}\n" for name, _ in files).encode())):
            target = out / name
            target.parent.mkdir(parents=True, exist_ok=True)
            # Before the content: files for guests may hold secrets.
            target.touch(mode=0o600)
            target.write_bytes(content)
    except OSError as error:
        raise UsageError(f"'{out}' cannot be written: {error.strerror}") from None
    return len(files)


def _remove_others(out: Path, kept: Collection[str]) -> None:
    """Removes the files that an earlier run has listed, except those in `kept`, and then the
    folders that are empty.
    """
    former = out / LIST
    names = (
        former.read_text(encoding="utf-8", errors="replace").splitlines()
        if former.is_file()
        else []
    )
    for name in names:
        if name in kept or not _ARTEFACT.fullmatch(name) or not (out / name).is_file():
            continue
        (out / name).unlink()
        # From the innermost folder outwards. The last parent, left out here, is the folder `out`
        # itself.
        for folder in Path(name).parents[:-1]:
            # It may not be empty.
            with suppress(OSError):
                (out / folder).rmdir()


def _boot_files(vm: Vm, images: ImageNames) -> BootFiles:
    disk, console = f"{POOL}/{root_volume(vm.domain)}", f"{POOL}/{console_volume(vm.domain)}"
    if not vm.image.recipe:
        return BootFiles(disk, console, seed=f"{POOL}/{seed_volume(vm.domain)}")
    name = f"{Path(vm.image.recipe).name}-{images.digests[vm.name][:12]}"
    return BootFiles(
        disk, console, f"{POOL}/kernel-{name}", f"{POOL}/initrd-{name}.cpio", images.cmdline
    )
