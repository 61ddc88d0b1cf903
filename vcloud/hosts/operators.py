"""The operators whom a host trusts: the keys that may sign terms of tenancy there
(`vcloud.enforce.hook_operators`). Only root of the host changes the list; the file can be read by all.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Final

from vcloud.enforce.hook_operators import OPERATORS
from vcloud.enforce.install import HOOK, OPERATOR_LINE
from vcloud.errors import HostError
from vcloud.hosts.connection import Host
from vcloud.hosts.operator_key import fingerprint_of, public_key_in
from vcloud.printable import on_one_line
from vcloud.untrusted import as_list, as_mapping, as_text, parse_json

LONGEST_LIST = 1 << 20
"""Bytes."""
MISSING = "missing"
READ = f"test -e {OPERATORS} || {{ echo {MISSING}; exit 0; }}; exec cat {OPERATORS}"


@dataclass(frozen=True, slots=True)
class Trusted:
    """One key of a host's list."""

    line: str
    """The public key as a line of OpenSSH's, with its comment."""
    fingerprint: str

    @property
    def comment(self) -> str:
        return on_one_line(" ".join(self.line.split()[2:]))


def trusted_on(host: Host) -> tuple[Trusted, ...] | None:
    """The operators of the host; None where it has no list, and so asks for no signatures. Raises
    HostError.
    """
    text = read_operators(host)
    return None if text is None else trusted_in(text)


_FINGERPRINTS: Final[weakref.WeakKeyDictionary[Host, frozenset[str] | None]] = (
    weakref.WeakKeyDictionary()
)


def trusted_fingerprints(host: Host) -> frozenset[str] | None:
    """The fingerprints of the operators of the host, which is asked once; None as in `trusted_on`.
    Raises HostError.
    """
    if host not in _FINGERPRINTS:
        found = trusted_on(host)
        _FINGERPRINTS[host] = None if found is None else frozenset(one.fingerprint for one in found)
    return _FINGERPRINTS[host]


def read_operators(host: Host) -> str | None:
    """The list of the host as it stands in the file; None where there is none. Raises HostError."""
    done = host.shell.run(["sh", "-c", READ])
    if done.code != 0 or len(done.stdout) > LONGEST_LIST:
        said = on_one_line(done.stderr.decode(errors="replace").strip())
        raise HostError(f"the operators of {host.name} cannot be read: {said}")
    text = done.stdout.decode(errors="replace")
    return None if text.strip() == MISSING else text


def trusted_in(text: str) -> tuple[Trusted, ...]:
    """The Ed25519 keys in a list of operators, also those in lines that root has written."""
    return tuple(found for line in text.splitlines() if (found := _trusted(line)))


def _trusted(line: str) -> Trusted | None:
    # Before the key may stand options, of which none contains the name of its kind.
    words = line.split()
    start = next((number for number, word in enumerate(words) if word == "ssh-ed25519"), None)
    if line.startswith("#") or not start:
        return None
    key = " ".join(words[start:])
    public = public_key_in(key)
    return Trusted(key, fingerprint_of(public)) if public is not None else None


def may_ask_for_signatures(host: Host) -> bool:
    """Whether the host has a list of operators, or cannot be asked."""
    try:
        return host.shell.run(["test", "-e", str(OPERATORS)]).code == 0
    except HostError:
        return True


def trust(host: Host, key: Trusted) -> None:
    """Adds an operator to the host's list. Raises HostError."""
    text = read_operators(host) or ""
    if key.fingerprint not in {one.fingerprint for one in trusted_in(text)}:
        end = "" if not text or text.endswith("\n") else "\n"
        _write(host, text + end + OPERATOR_LINE.format(key.line))


def revoke(host: Host, fingerprint: str) -> None:
    """Takes an operator off the host's list. All other lines stay as they are. Raises HostError."""
    lines = (read_operators(host) or "").splitlines(keepends=True)
    left = [
        line
        for line in lines
        if (found := _trusted(line)) is None or found.fingerprint != fingerprint
    ]
    if left != lines:
        _write(host, "".join(left))


def _write(host: Host, text: str) -> None:
    new = f"{OPERATORS}.new"
    _as_root(host, ["install", "-d", "-m", "755", str(OPERATORS.parent)])
    _as_root(host, ["install", "-m", "644", "/dev/stdin", new], text.encode())
    # In one step: the hook may read it at this moment.
    _as_root(host, ["mv", "-f", "-T", new, str(OPERATORS)])
    _FINGERPRINTS.pop(host, None)


def scrub(host: Host, name: str, *, only_look: bool) -> dict[str, list[str]]:
    """The class of conflict, or all where the name is empty -> the vApps of it that the host has
    carried and remembers. Unless `only_look`, the host forgets them. Raises HostError where it is
    not clean, or has no hook.
    """
    argv = [str(HOOK), name, "scrub", "list" if only_look else "begin"]
    done = host.shell.run(argv)
    if done.code != 0:
        said = on_one_line(done.stderr.decode(errors="replace").strip()).removeprefix("vcloud: ")
        raise HostError(
            f"what {host.name} remembers cannot be {'read' if only_look else 'forgotten'}: {said}",
            "It needs root there, and the hook: vcloud doctor --fix.",
        )
    return {
        one: [as_text(vapp) for vapp in as_list(vapps)]
        for one, vapps in as_mapping(parse_json(done.stdout)).items()
    }


def _as_root(host: Host, argv: list[str], stdin: bytes = b"") -> None:
    done = host.shell.run(argv, stdin=stdin)
    if done.code != 0:
        said = on_one_line(done.stderr.decode(errors="replace").strip())
        raise HostError(
            f"the operators of {host.name} could not be changed: {said}",
            "Only root of that host may do it: run the same command as root, or reach it as root (qemu+ssh://root@HOST/system).",
        )
