"""The XML in which vcloud keeps data on a host: records, and the marks of a running VM."""

from __future__ import annotations

from collections.abc import Mapping

from vcloud.compile.environment import render
from vcloud.marks import NAMESPACE


def render_vm_marks(marks: Mapping[str, str]) -> str:
    """The element that replaces the marks in a VM's metadata. `marks` are its attributes."""
    return render("libvirt/vm-marks.xml.j2", marks=marks)


def render_secret(uuid: str, description: str) -> str:
    """A secret of libvirt's, without its value."""
    return render("libvirt/secret.xml.j2", uuid=uuid, description=description)


def render_record(name: str, uuid: str, attributes: Mapping[str, str], text: str) -> str:
    """A record: attributes and a text in the metadata of a network that is never started."""
    return render(
        "libvirt/record.xml.j2",
        namespace=NAMESPACE,
        name=name,
        uuid=uuid,
        attributes=attributes,
        text=text,
    )
