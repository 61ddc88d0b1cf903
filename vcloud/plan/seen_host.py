"""What programs of a host print about it, as values. Pure. The host may have written anything."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Final

from vcloud.documents.field import shown
from vcloud.plan.preparation import Release, SeenFile

STAT_FORMAT: Final = "%u %a %F:%n"
"""Of stat(1), for `files_in`."""
PACKAGE_FORMAT: Final = "${Package} ${db:Status-Abbrev}\\n"
"""Of dpkg-query(1), for `packages_in`."""
MOST_BYTES: Final = 1 << 20
"""Bytes of one program's output that are read."""
_WORD: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,40}")
_SEEN: Final = re.compile(r"(\d{1,10}) ([0-7]{1,5}) ([a-z -]{1,40}):(/.*)")
_DENIED: Final = re.compile(r"'(/[^']*)': Permission denied")
_DIGEST: Final = re.compile(r"([0-9a-f]{64})  (/.*)")
_PACKAGE: Final = re.compile(r"([a-z0-9][a-z0-9.+-]{1,80}) ([a-zA-Z]{2})[ a-zA-Z]?")
_LIMIT: Final = re.compile(r"(maxstartups|maxsessions) (\d{1,6})(?::\d{1,6}:\d{1,6})?")


def release_in(content: bytes) -> Release | None:
    """The distribution that /etc/os-release names (os-release(5)); None where it names none."""
    values: dict[str, str] = {}
    for line in _lines(content):
        key, sign, value = line.partition("=")
        if sign and key in ("ID", "VERSION_ID", "PRETTY_NAME"):
            try:
                words = shlex.split(value)
            except ValueError:
                continue
            values[key] = words[0] if len(words) == 1 else ""
    known, version = values.get("ID", ""), values.get("VERSION_ID", "")
    if not _WORD.fullmatch(known):
        return None
    version = version if _WORD.fullmatch(version) else ""
    return Release(known, version, shown(values.get("PRETTY_NAME") or f"{known} {version}".strip()))


def files_in(listed: bytes, digests: bytes, wanted: Iterable[str]) -> Mapping[str, SeenFile]:
    """The files of a listing in STAT_FORMAT, with the digests that sha256sum(1) prints. Lines about
    other paths than the wanted ones count for nothing.
    """
    by_path = {found[2]: found[1] for line in _lines(digests) if (found := _DIGEST.fullmatch(line))}
    known = frozenset(wanted)
    return {
        found[4]: SeenFile(
            found[3].replace("regular empty", "regular"),
            int(found[1]),
            int(found[2], 8),
            by_path.get(found[4], ""),
        )
        for line in _lines(listed)
        if (found := _SEEN.fullmatch(line)) and found[4] in known
    }


def hidden_in(said: bytes, wanted: Iterable[str]) -> frozenset[str]:
    """The wanted paths that stat(1) was not allowed to look at, by its words on stderr (LC_ALL=C)."""
    denied = {found[1] for line in _lines(said) if (found := _DENIED.search(line))}
    return frozenset(wanted) & denied


def uid_in(content: bytes) -> int:
    """The number that `id -u` prints; -1 where it prints none."""
    text = content[:20].decode(errors="replace").strip()
    return int(text) if re.fullmatch(r"[0-9]{1,10}", text) else -1


def packages_in(content: bytes) -> Mapping[str, str]:
    """Package -> the first two letters of its state, of a listing in PACKAGE_FORMAT."""
    return {found[1]: found[2] for line in _lines(content) if (found := _PACKAGE.fullmatch(line))}


def logins_in(content: bytes) -> tuple[int, int] | None:
    """MaxStartups and MaxSessions, of what `sshd -T` prints; None where it does not tell both."""
    found = {one[1]: int(one[2]) for line in _lines(content) if (one := _LIMIT.fullmatch(line))}
    if len(found) < 2:
        return None
    return found["maxstartups"], found["maxsessions"]


def _lines(content: bytes) -> list[str]:
    return content[:MOST_BYTES].decode(errors="replace").splitlines()
