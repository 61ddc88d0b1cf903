"""The names that libvirt's own client configuration gives to URIs (`uri_aliases`, libvirt's page "URI
format").

Root has /etc/libvirt/libvirt.conf, everybody else ~/.config/libvirt/libvirt.conf, as in libvirt.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from vcloud.documents.field import shown
from vcloud.errors import UsageError

OF_ROOT: Final = Path("/etc/libvirt/libvirt.conf")
LARGEST: Final = 1 << 20
"""Bytes."""
_ALIAS: Final = re.compile(r"[A-Za-z0-9_-]+")
_TOKEN: Final = re.compile(
    r"""(?P<gap>\s+|\#[^\n]*)|(?P<word>[A-Za-z_][A-Za-z0-9_]*)|(?P<number>-?\d+)"""
    r"""|(?P<mark>[=\[\],])|(?P<long>\"\"\"(?s:.*?)\"\"\")|(?P<text>"[^"\n]*"|'[^'\n]*')"""
)


def uri_named(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """The URI that a text means: itself, or that of the alias of this name. A text without a colon
    that is no alias is returned as it is. Raises UsageError where the configuration cannot be read.
    """
    if ":" in text:
        return text
    return aliases(_file(environment)).get(text, text)


def aliases(path: Path) -> dict[str, str]:
    """Alias -> URI, of a client configuration of libvirt; empty where there is no such file.

    Raises UsageError where it cannot be read, or its aliases have not the form ["NAME=URI"].
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST).decode(errors="replace")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read: {error.strerror}") from None
    found: dict[str, str] = {}
    for entry in _entries(content, path):
        alias, sign, uri = entry.partition("=")
        if not sign or not _ALIAS.fullmatch(alias) or ":" not in uri:
            raise UsageError(
                f"'{path}' has the URI alias '{shown(entry)}', which is none",
                'Write "NAME=URI", with letters, digits, _ and - in the name.',
            )
        found.setdefault(alias, uri)
    return found


def _file(environment: Mapping[str, str]) -> Path:
    if os.geteuid() == 0:
        return OF_ROOT
    configs = environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME", "/")) / ".config"
    return Path(configs) / "libvirt" / "libvirt.conf"


def _entries(content: str, path: Path) -> list[str]:
    """The texts in the list `uri_aliases`."""
    tokens = _tokens(content, path)
    for number, (kind, value) in enumerate(tokens):
        if (kind, value) == ("word", "uri_aliases") and tokens[number + 1 : number + 2] == [
            ("mark", "=")
        ]:
            rest = tokens[number + 2 :]
            if not rest or rest[0] != ("mark", "["):
                break
            end = next((at for at, one in enumerate(rest) if one == ("mark", "]")), None)
            inner = [one for one in rest[1:end] if one != ("mark", ",")]
            if end is None or any(kind != "text" for kind, _ in inner):
                break
            return [value for _, value in inner]
    else:
        return []
    raise UsageError(
        f"`uri_aliases` in '{path}' is no list of texts", 'Write uri_aliases = ["NAME=URI"].'
    )


def _tokens(content: str, path: Path) -> list[tuple[str, str]]:
    tokens, place = [], 0
    while place < len(content):
        found = _TOKEN.match(content, place)
        if found is None:
            line = content.count("\n", 0, place) + 1
            raise UsageError(f"{path}:{line}: libvirt's configuration cannot be understood here")
        place, kind, value = found.end(), found.lastgroup or "", found[0]
        if kind == "long":
            tokens.append(("text", value[3:-3]))
        elif kind != "gap":
            tokens.append((kind, value[1:-1] if kind == "text" else value))
    return tokens
