"""The operator's key, and the signatures that it makes (`vcloud.hosts.signing` says of what).

The key is an Ed25519 key of OpenSSH's. It lies in a file, or in ssh-agent where the file is its
public half. The first of these that is given says where: `operator_key` of the host in the
inventory, VCLOUD_OPERATOR_KEY, ~/.config/vcloud/operator if this file exists. Without a key nothing is
signed. The same key makes the same signature each time, so an `up` that changes nothing signs
nothing anew.
"""

from __future__ import annotations

import base64
import hashlib
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vcloud.errors import UsageError
from vcloud.hosts.inventory import HostRef, configuration_folder
from vcloud.signature import SSH_NAMESPACE

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

VARIABLE: Final = "VCLOUD_OPERATOR_KEY"
KIND: Final = b"ssh-ed25519"
MAGIC: Final = b"SSHSIG"
VERSION: Final = 1
LARGEST_KEY: Final = 16 << 10
"""Bytes."""


@dataclass(frozen=True, slots=True)
class Operator:
    """Who signs."""

    public: bytes
    """The public key as OpenSSH encodes it."""
    sign: Callable[[bytes], bytes]
    """Makes the 64 bytes of a signature. Raises UsageError where ssh-agent does not."""

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.public)

    @property
    def line(self) -> str:
        """The public key as a line of OpenSSH's."""
        return f"{KIND.decode()} {base64.b64encode(self.public).decode()}"


def fingerprint_of(public: bytes) -> str:
    """As OpenSSH prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(public).digest()).decode().rstrip("=")


def key_file(host: HostRef, environment: Mapping[str, str] = os.environ) -> Path | None:
    """The file of the operator's key for a host; None where none is given."""
    if host.operator_key is not None:
        return host.operator_key
    if named := environment.get(VARIABLE):
        return Path(named).expanduser()
    usual = configuration_folder(environment) / "operator"
    return usual if usual.is_file() else None


def load_operator(path: Path) -> Operator:
    """The key in a file, or the one of ssh-agent whose public half the file holds. Raises UsageError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    way_out = f"Make one: ssh-keygen -t ed25519 -f FILE. Then set {VARIABLE} to FILE."
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_KEY)
    except OSError as error:
        raise UsageError(
            f"the operator's key '{path}' cannot be read: {error.strerror}", way_out
        ) from None
    if text.startswith(KIND + b" "):
        return _of_agent(path, text)
    try:
        key = serialization.load_ssh_private_key(text, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # TypeError: it has a passphrase.
        hint = f"A key with a passphrase goes into ssh-agent (ssh-add {path}); then name its file {path}.pub."
        raise UsageError(f"the operator's key '{path}' cannot be used: {error}", hint) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"the operator's key '{path}' is none of Ed25519", way_out)
    raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return Operator(_text(KIND) + _text(raw), key.sign)


def _of_agent(path: Path, text: bytes) -> Operator:
    from paramiko import Agent, SSHException

    public = public_key_in(text.decode(errors="replace"))
    if public is None:
        raise UsageError(f"'{path}' holds no Ed25519 public key of OpenSSH's")
    add = f"Add it: ssh-add {path.with_suffix('')}."
    try:
        key = next((one for one in Agent().get_keys() if one.asbytes() == public), None)
    except SSHException as error:
        raise UsageError(f"ssh-agent does not answer: {error}", add) from None
    if key is None:
        raise UsageError(f"ssh-agent does not have the operator's key '{path}'", add)

    one_at_a_time = threading.Lock()

    def sign(message: bytes) -> bytes:
        try:
            with one_at_a_time:
                blob: object = key.sign_ssh_data(message)
        except (SSHException, OSError) as error:
            raise UsageError(f"ssh-agent does not sign: {error}", add) from None
        _, signature = _texts(bytes(blob) if isinstance(blob, bytes) else b"", 2)
        return signature

    return Operator(public, sign)


def public_key_in(line: str) -> bytes | None:
    """The Ed25519 public key in a line of OpenSSH's; None where it holds none."""
    parts = line.split()
    if len(parts) < 2 or parts[0] != KIND.decode():
        return None
    try:
        public = base64.b64decode(parts[1], validate=True)
        kind, raw = _texts(public, 2)
    except ValueError:
        return None
    return public if kind == KIND and len(raw) == 32 else None


def signature_of(operator: Operator, message: bytes) -> str:
    """OpenSSH's signature of a message, in base64."""
    blob = operator.sign(_to_be_signed(message))
    return base64.b64encode(
        MAGIC
        + VERSION.to_bytes(4, "big")
        + _text(operator.public)
        + _purpose()
        + _text(_text(KIND) + _text(blob))
    ).decode()


def signer_of_message(signature: str, message: bytes) -> str:
    """The fingerprint of the key that has made the signature (base64) of the message; empty where it is
    none, or one of something else.
    """
    from cryptography.exceptions import InvalidSignature

    try:
        public, raw = _parts_of(base64.b64decode(signature, validate=True))
        key = _verifier(public)
    except ValueError:
        return ""
    try:
        key.verify(raw, _to_be_signed(message))
    except InvalidSignature:
        return ""
    return fingerprint_of(public)


def _to_be_signed(message: bytes) -> bytes:
    return MAGIC + _purpose() + _text(hashlib.sha512(message).digest())


def _purpose() -> bytes:
    """The namespace, what is reserved, and the digest, as the format has them."""
    return _text(SSH_NAMESPACE.encode()) + _text(b"") + _text(b"sha512")


def _parts_of(blob: bytes) -> tuple[bytes, bytes]:
    """The public key and the signature in a blob of OpenSSH's. Raises ValueError."""
    head = MAGIC + VERSION.to_bytes(4, "big")
    if not blob.startswith(head):
        raise ValueError("no signature")
    public, namespace, reserved, digest, signature = _texts(blob[len(head) :], 5)
    kind, raw = _texts(signature, 2)
    if (namespace, reserved, digest, kind) != (SSH_NAMESPACE.encode(), b"", b"sha512", KIND):
        raise ValueError("a signature for something else")
    return public, raw


def _verifier(public: bytes) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    kind, raw = _texts(public, 2)
    if kind != KIND:
        raise ValueError("no Ed25519 key")
    return Ed25519PublicKey.from_public_bytes(raw)


def _text(content: bytes) -> bytes:
    """A `string` as SSH encodes it (RFC 4251, section 5)."""
    return len(content).to_bytes(4, "big") + content


def _texts(blob: bytes, count: int) -> list[bytes]:
    """The strings that a blob consists of. Raises ValueError where it is anything else."""
    found: list[bytes] = []
    rest = blob
    while rest:
        size = int.from_bytes(rest[:4], "big")
        if len(rest) < 4 + size or len(found) == count:
            raise ValueError("the encoding is wrong")
        found.append(rest[4 : 4 + size])
        rest = rest[4 + size :]
    if len(found) != count:
        raise ValueError("the encoding is wrong")
    return found
