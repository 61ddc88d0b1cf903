"""The XML of a record: attributes and a text that vcloud keeps on a host, as the metadata of a
network that is never started.
"""

from __future__ import annotations

from collections.abc import Mapping

from vcloud.compile.environment import render
from vcloud.marks import NAMESPACE


def render_record(name: str, uuid: str, attributes: Mapping[str, str], text: str) -> str:
    return render(
        "libvirt/record.xml.j2",
        namespace=NAMESPACE,
        name=name,
        uuid=uuid,
        attributes=attributes,
        text=text,
    )
