"""Seals what vcloud stores on a host and only operators may read.

Anybody whom libvirt lets in for reading only can read the metadata of domains and networks. A
manifest holds commands, patterns of data and digests of secrets; a short secret can be guessed by
its digest. So these parts are encrypted with a key that libvirt keeps as a secret of its own:
libvirt tells its value to nobody who may only read, and keeps it in a file of root.

The key is the host's. It is made when something is sealed for the first time, and stays.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import threading
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import libvirt

from vcloud.compile.libvirt.record import render_secret
from vcloud.design.addressing import uuid_of
from vcloud.errors import HostError
from vcloud.hosts.connection import Host, found_or_none, message_of, translated
from vcloud.hosts.lock import named_lock
from vcloud.hosts.metadata import record_of
from vcloud.marks import DIGESTS, SEALED_DIGESTS, VmMarks, vm_marks

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

UUID: Final = uuid_of("sealing key")
"""Of libvirt's secret."""
LOCK: Final = "vcloud-sealing-lock"
SEALED: Final = "sealed"
"""An attribute of a record: its text is sealed."""
KEY_BYTES: Final = 64
LOCK_TIMEOUT: Final = 30
"""Seconds to wait while another process makes the key."""


class Sealing:
    """Seals and opens texts with the key of one host. Threads may share an object."""

    def __init__(self, host: Host) -> None:
        # Weakly: `_KNOWN` must not keep a host alive.
        self._at = weakref.ref(host)
        self._found: bytes | None = None
        self._unsupported = ""
        """What libvirt says if it keeps no secrets on this host."""
        self._lock = threading.Lock()

    @property
    def _host(self) -> Host:
        host = self._at()
        assert host is not None  # noqa: S101 - whoever asks has it open
        return host

    def sealed(self, content: bytes, about: str) -> str:
        """The encrypted content, in base64. The same content has the same form each time. What was
        sealed `about` one thing cannot be opened as being about another one.

        Raises HostError if libvirt keeps no secrets.
        """
        return base64.b64encode(
            _cipher(self._key_or_new()).encrypt(content, [about.encode()])
        ).decode()

    def opened(self, text: str, about: str) -> bytes | None:
        """What was sealed. None if it was sealed with another key, or somebody has changed it."""
        from cryptography.exceptions import InvalidTag

        key = self._key()
        try:
            return (
                _cipher(key).decrypt(base64.b64decode(text, validate=True), [about.encode()])
                if key
                else None
            )
        except (binascii.Error, ValueError, InvalidTag):
            return None

    def sealed_marks(self, marks: VmMarks) -> dict[str, str]:
        """The mark of a domain as XML attributes, with its digests sealed."""
        attributes = marks.attributes()
        if marks.digests is None:
            return attributes
        digests = " ".join(attributes.pop(key) for key in DIGESTS)
        return attributes | {SEALED_DIGESTS: self.sealed(digests.encode(), _about(attributes))}

    def opened_marks(self, attributes: Mapping[str, str] | None) -> VmMarks:
        """The mark that these attributes of a domain are. Digests that cannot be opened count as
        missing.
        """
        if attributes is None or SEALED_DIGESTS not in attributes:
            return vm_marks(attributes)
        content = self.opened(attributes[SEALED_DIGESTS], _about(attributes)) or b""
        digests = content.decode(errors="replace").split(" ")
        return vm_marks({**attributes, **dict(zip(DIGESTS, digests, strict=False))})

    def _key(self) -> bytes | None:
        """The host's key; None if it has none yet."""
        with self._lock:
            if self._found is None:
                self._found = self._read()
            return self._found

    def _key_or_new(self) -> bytes:
        return self._key() or self._make()

    def _read(self) -> bytes | None:
        try:
            value = self._host.opened.secretLookupByUUIDString(UUID).value()
        except libvirt.libvirtError as error:
            # NO_SECRET: there is none, or it has no value yet. NO_SUPPORT: libvirt keeps no secrets.
            if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
                self._unsupported = message_of(error)
                return None
            if error.get_error_code() == libvirt.VIR_ERR_NO_SECRET:
                return None
            raise HostError(
                f"the key of vcloud's records could not be read on {self._host.name}: {message_of(error)}"
            ) from None
        return value if len(value) == KEY_BYTES else None

    def _make(self) -> bytes:
        what = "the key of vcloud's records"
        with named_lock(self._host, LOCK, what, "up", LOCK_TIMEOUT):
            if found := self._key():
                return found
            self._refuse_without_secrets()
            self._refuse_lost()
            key = secrets.token_bytes(KEY_BYTES)
            xml = render_secret(UUID, "vcloud: the key of what it stores on this host")
            try:
                self._host.connection.secretDefineXML(xml).setValue(key)
            except libvirt.libvirtError as error:
                raise HostError(
                    f"{what} could not be made on {self._host.name}: {message_of(error)}",
                    "libvirt must be able to keep secrets there: apt-get install libvirt-daemon-driver-secret.",
                ) from None
        with self._lock:
            self._found = key
        return key

    def _refuse_without_secrets(self) -> None:
        """Raises HostError where the host's libvirt keeps no secrets at all. Its key is not lost then."""
        if self._unsupported:
            raise HostError(
                f"libvirt on {self._host.name} keeps no secrets, and so no key of what vcloud stores there: {self._unsupported}",
                "On that host, as root: apt-get install libvirt-daemon-driver-secret, then restart libvirtd.",
            )

    def _refuse_lost(self) -> None:
        """Raises HostError where something on the host is sealed, so that it had a key before. A
        second key would take the place of the first one when that is brought back.
        """
        with translated(f"the vApps of {self._host.name} could not be listed"):
            networks = self._host.connection.listAllNetworks()
            records = [found for one in networks if (found := found_or_none(record_of, one))]
        names = [record.name for record in records if SEALED in record.attributes]
        if names:
            raise HostError(
                f"{self._host.name} has lost the key of what vcloud stores there: {', '.join(sorted(names))}",
                "Bring back the host's /etc/libvirt/secrets from a backup, or remove these vApps with their disks (vcloud down).",
            )


_KNOWN: Final[weakref.WeakKeyDictionary[Host, Sealing]] = weakref.WeakKeyDictionary()


def sealing_of(host: Host) -> Sealing:
    """The sealing of a host, which reads the host's key once."""
    return _KNOWN.setdefault(host, Sealing(host))


def _about(attributes: Mapping[str, str]) -> str:
    return f"{attributes.get('vapp')}.{attributes.get('name')}"


def _cipher(key: bytes) -> AESSIV:
    # 0.05 s of import that commands without a vApp can do without.
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

    return AESSIV(key)
