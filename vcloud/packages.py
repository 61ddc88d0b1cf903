"""The packages of an image, as lines `NAME=VERSION`, and how two lists of them differ."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

SHOWN = 3
"""How many packages a sentence names. The others it only counts."""


@dataclass(frozen=True, slots=True)
class PackageChange:
    """One package that two images do not have in the same version."""

    name: str
    before: str
    """Versions, in most cases one, separated by blanks. Empty where the image does not have it."""
    after: str

    def __str__(self) -> str:
        if not self.before:
            return f"+ {self.name} {self.after}"
        return f"{self.name} {self.before} -> {self.after}" if self.after else f"- {self.name}"


def packages_digest(lines: Sequence[str]) -> str:
    """SHA-256 in hex of a list of packages; empty for an empty list, of which nobody knows what is in
    the image.
    """
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest() if lines else ""


def package_changes(before: Collection[str], after: Collection[str]) -> tuple[PackageChange, ...]:
    """The packages that differ between two lists. Those in another version come first, then those
    that came, then those that went; each in alphabetical order.
    """
    old, new = _versions(before), _versions(after)
    changes = [
        PackageChange(name, old.get(name, ""), new.get(name, ""))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    return tuple(sorted(changes, key=lambda change: (not change.after, not change.before)))


def told(changes: Sequence[PackageChange]) -> str:
    """`12 packages differ (openssl 3.5.1-1 -> 3.5.4-1, ...)`. Empty where nothing differs."""
    if not changes:
        return ""
    named = ", ".join(map(str, changes[:SHOWN])) + ", ..." * (len(changes) > SHOWN)
    count = "1 package differs" if len(changes) == 1 else f"{len(changes)} packages differ"
    return f"{count} ({named})"


def _versions(lines: Collection[str]) -> dict[str, str]:
    """Name -> version. dpkg can have one package in several versions, of several architectures."""
    found: dict[str, list[str]] = {}
    for line in sorted(lines):
        name, _, version = line.partition("=")
        found.setdefault(name, []).append(version)
    return {name: " ".join(versions) for name, versions in found.items()}
