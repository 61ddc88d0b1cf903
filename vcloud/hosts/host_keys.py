"""The SSH host keys that the operator's known_hosts files name for a host, as sshd(8) describes
these files.

paramiko reads such files, too, but fails with a traceback on lines that OpenSSH understands or
ignores: markers, damaged keys and damaged hashes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import paramiko

REVOKED = "is a revoked host key"
"""What `refusals` recognises."""
_HASHED = "|1|"
_KRL = b"SSHKRL\n\0"
"""How a key revocation list begins (PROTOCOL.krl of OpenSSH)."""


@dataclass(frozen=True, slots=True)
class KnownKeys(paramiko.MissingHostKeyPolicy):
    """What is known about one host. As paramiko's policy it refuses every key that it does not
    know.
    """

    keys: dict[str, paramiko.PKey] = field(default_factory=dict)
    """Type of the key -> the first key of this type. paramiko compares with one key of each type."""
    revoked: set[bytes] = field(default_factory=set)
    """Keys that must not be trusted, whatever else the files say."""
    authorities: bool = False
    """Whether the files have authorities that may certify the host's keys. paramiko cannot judge
    their certificates.
    """

    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        del client
        if key.asbytes() in self.revoked:
            raise paramiko.SSHException(f"the key of {hostname} {REVOKED}")
        raise paramiko.SSHException(f"{hostname} not found in known_hosts")


def known_keys(paths: Iterable[Path], name: str) -> KnownKeys:
    """What these files say about a host. `name` is its address, or `[ADDRESS]:PORT` if the port is
    not 22. Files that are not there count as empty.

    Raises OSError for a file that cannot be read.
    """
    lines = [line for path in paths for line in _lines_about(path, name)]
    revoked = {
        key.asbytes()
        for marker, kind, written in lines
        if marker == "@revoked" and (key := _key(kind, written))
    }
    keys: dict[str, paramiko.PKey] = {}
    for marker, kind, written in lines:
        key = None if marker else _key(kind, written)
        if key is not None and key.asbytes() not in revoked:
            keys.setdefault(key.get_name(), key)
    return KnownKeys(keys, revoked, any(marker == "@cert-authority" for marker, _, _ in lines))


def without_revoked(known: KnownKeys, listed: Path) -> KnownKeys:
    """The same without the keys that a list of revoked keys has (ssh_config(5), RevokedHostKeys): a
    text of public keys, or a KRL, which ssh-keygen reads. Raises OSError for one that cannot be read.
    """
    content = listed.read_bytes()
    in_text = {
        key.asbytes()
        for fields in map(str.split, content.decode(errors="replace").splitlines())
        if len(fields) > 1 and (key := _key(fields[0], fields[1]))
    }
    good, revoked = {}, known.revoked | in_text
    for kind, key in known.keys.items():
        if key.asbytes() in revoked or (content.startswith(_KRL) and _is_in_krl(key, listed)):
            revoked.add(key.asbytes())
        else:
            good[kind] = key
    return KnownKeys(good, revoked, known.authorities)


def _is_in_krl(key: paramiko.PKey, listed: Path) -> bool:
    """A key of which ssh-keygen cannot tell counts as revoked."""
    with tempfile.NamedTemporaryFile("w", suffix=".pub") as file:
        file.write(f"{key.get_name()} {key.get_base64()}\n")
        file.flush()
        argv = ["ssh-keygen", "-Q", "-f", str(listed), file.name]
        return subprocess.run(argv, capture_output=True, check=False).returncode != 0


def _lines_about(path: Path, name: str) -> Iterator[tuple[str, str, str]]:
    """(marker or nothing, type of the key, key in base64) of each line about the host."""
    if not path.is_file():
        return
    for line in path.read_bytes().decode(errors="replace").splitlines():
        fields = line.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        if len(fields) >= 3 and not fields[0].startswith("#") and _fits(fields[0], name):
            yield marker, fields[1], fields[2]


def _fits(patterns: str, name: str) -> bool:
    """Whether a list of patterns means this name. One with `!` excludes what it means."""
    fits = False
    for pattern in patterns.split(","):
        if pattern.startswith("!"):
            if _means(pattern[1:], name):
                return False
        else:
            fits = fits or _means(pattern, name)
    return fits


def _means(pattern: str, name: str) -> bool:
    if pattern.startswith(_HASHED):
        return _is_hash_of(pattern, name)
    # Several stars in a row mean the same as one, and would only take time.
    parts = (re.escape(part) for part in re.split(r"\*+", pattern.lower()))
    return re.fullmatch(".*".join(parts).replace(r"\?", "."), name.lower()) is not None


def _is_hash_of(hashed: str, name: str) -> bool:
    """|1|SALT|HASH, both in base64."""
    try:
        salt, expected = (
            base64.b64decode(part, validate=True)
            for part in hashed.removeprefix(_HASHED).split("|")
        )
    # Also if there are not two parts.
    except (binascii.Error, ValueError):
        return False
    # OpenSSH hashes names in this way. It hides them from who reads the file, and protects nothing.
    return hmac.compare_digest(hmac.digest(salt, name.lower().encode(), hashlib.sha1), expected)


def _key(kind: str, written: str) -> paramiko.PKey | None:
    """None for a key that is damaged, or of a type that paramiko does not know: nobody is trusted
    by it.
    """
    try:
        return paramiko.PKey.from_type_string(kind, base64.b64decode(written, validate=True))
    # paramiko raises whatever its parsers meet in a damaged key.
    except Exception:
        return None
