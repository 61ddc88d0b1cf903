"""libvirt's XML of storage pools and volumes."""

from __future__ import annotations

from dataclasses import dataclass

from vcloud.compile.environment import render


@dataclass(frozen=True, slots=True)
class PoolView:
    """A folder on the host as a storage pool."""

    name: str
    folder: str
    mode: str
    """Permissions of the folder, in octal digits."""
    uuid: str = ""
    """Empty: libvirt makes one up."""


@dataclass(frozen=True, slots=True)
class VolumeView:
    """A volume that takes no space yet and that only its owner may read."""

    name: str
    capacity: int
    """Bytes."""
    format: str
    """`qcow2` or `raw`."""
    backing: str = ""
    """Absolute path of the backing file, a qcow2; empty: none."""


def render_pool(view: PoolView) -> str:
    return render("libvirt/pool.xml.j2", view=view)


def render_volume(view: VolumeView) -> str:
    return render("libvirt/volume.xml.j2", view=view)
