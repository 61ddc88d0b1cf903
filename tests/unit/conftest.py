"""libvirt's test driver keeps no secrets. Here it does, as the drivers of real hosts do; tests/lab
asks a real one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

import libvirt
import pytest


class NoSecretError(libvirt.libvirtError):
    def get_error_code(self) -> int:
        return libvirt.VIR_ERR_NO_SECRET


@dataclass
class Secret:
    content: bytes | None = None

    def setValue(self, value: bytes) -> None:  # noqa: N802 - libvirt's name
        self.content = value

    def value(self) -> bytes:
        if self.content is None:
            raise NoSecretError("secret does not have a value")
        return self.content


KEPT: dict[str, Secret] = {}
"""libvirt's test driver keeps what it has as long as the process lives, and so do its secrets."""


@pytest.fixture(autouse=True, scope="module")
def kept_secrets() -> Iterator[dict[str, Secret]]:
    """UUID -> secret, of the host of all unit tests. Tests of other folders, which the same worker may
    run before and afterwards, have real hosts with real secrets.
    """
    kept = KEPT

    def find(_: libvirt.virConnect, uuid: str) -> Secret:
        if uuid not in kept:
            raise NoSecretError("no secret with matching uuid")
        return kept[uuid]

    def define(_: libvirt.virConnect, xml: str) -> Secret:
        root = ElementTree.fromstring(xml)  # noqa: S314 - vcloud rendered it
        assert (root.get("private"), root.get("ephemeral")) == ("no", "no")
        return kept.setdefault(str(root.findtext("uuid")), Secret())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(libvirt.virConnect, "secretLookupByUUIDString", find)
        patch.setattr(libvirt.virConnect, "secretDefineXML", define)
        yield kept
