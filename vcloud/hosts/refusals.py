"""Explains why vcloud could not open a host, and what to do about it, from the message of libvirt
or ssh.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from vcloud.errors import HostError, SilentError
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.ssh_config import options_for


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason for which a host cannot be opened.

    In `what` and `hint`, `{name}` stands for the host's name, `{target}` for the login that ssh
    uses, `{address}` for the login without user, `{login}` for the command that logs in, `{known}` for
    the host in known_hosts.
    """

    parts: tuple[str, ...]
    """Parts of messages of libvirt or ssh. A message with any of them means this reason."""
    what: str
    hint: str
    only_remote: bool = False
    """The parts mean this reason only where the host is reached over ssh."""
    silent: bool = False
    """No answer came from the host. Its kernel, which refuses a connection, would be one."""


def explain_refusal(ref: HostRef, text: str) -> HostError:
    """The error for a host that could not be opened. `text` is the message of libvirt or ssh."""
    # libvirt adds how its own socket to ssh has ended, whatever ssh has said.
    message = " ".join(text.split()).removesuffix(": Connection reset by peer")
    login = urlsplit(ref.uri)
    address = str(login.hostname)
    named = {
        "name": ref.name,
        "address": address,
        "target": f"{login.username}@{address}" if login.username else address,
        "login": shlex.join(("ssh", *options_for(ref), address)),
        "known": shlex.quote(f"[{address}]:{login.port}" if login.port else address),
    }
    for refusal in REFUSALS:
        fits = any(part in message for part in refusal.parts)
        if fits and ("+ssh" in login.scheme or not refusal.only_remote):
            kind = SilentError if refusal.silent else HostError
            return kind(refusal.what.format_map(named), refusal.hint.format_map(named))
    return HostError(
        f"{ref.name} cannot be opened ({ref.uri}): {message}",
        f"Try: virsh --connect '{ref.uri}' version.",
    )


NOT_RUNNING: Final = (
    "libvirt does not run on {name}",
    "On that host: sudo apt-get install libvirt-daemon-system qemu-system-x86 && sudo systemctl enable --now libvirtd.",
)
NO_SSH: Final = (
    "{name} does not answer ssh",
    "Check that the host is up: ssh {target} true.",
)
REFUSALS: Final = (
    Refusal(
        # libvirt reads only 1,023 bytes of ssh's message and reports "Value too large" for a longer
        # one. Of ssh's messages, only the banner for a changed key is that long.
        (
            "REMOTE HOST IDENTIFICATION HAS CHANGED",
            "does not match",
            "Value too large for defined data type",
        ),
        "the SSH host key of {name} has changed",
        "Somebody may be intercepting the connection. If the host was reinstalled, remove its old key: ssh-keygen -R {known}. Then log in once by `{login}`, and compare the fingerprint.",
    ),
    Refusal(
        ("REVOKED HOST KEY", "is a revoked host key"),
        "the SSH host key of {name} is revoked in known_hosts",
        "Somebody may be intercepting the connection. Give the host a new key, and add that one to known_hosts.",
    ),
    Refusal(
        (
            "Host key verification failed",
            "not found in known_hosts",
        ),
        "the SSH host key of {name} is unknown, and vcloud does not trust an unknown key",
        "Log in once by `{login}`. Compare the fingerprint that ssh shows with the one that the host's owner gives you.",
    ),
    Refusal(
        (
            "Permission denied (",
            "Authentication failed",
            "Too many authentication failures",
            "No authentication methods available",
        ),
        "{name} refuses the SSH login {target}",
        "Make `ssh {target} true` work first: load your key (ssh-add), or add it to the host's authorized_keys.",
    ),
    Refusal(
        (
            "Could not resolve",
            "Name or service not known",
            "Temporary failure in name resolution",
        ),
        "the name of {name} cannot be resolved",
        "Correct the name in the URI or the inventory, or add a HostName for it to the ssh_config.",
    ),
    Refusal(
        (
            "virt-ssh-helper: not found",
            "virt-ssh-helper: command not found",
            "'netcat' not found",
            "nc: command not found",
            "nc: not found",
        ),
        "libvirt is not installed on {name}",
        "On that host: apt-get install libvirt-daemon-system qemu-system-x86.",
    ),
    Refusal(
        (
            "Permission denied",
            "polkit",
            "authentication unavailable",
            "access denied",
        ),
        "libvirt on {name} does not allow you to connect",
        "Add yourself to the group libvirt and log in again: sudo usermod -aG libvirt $USER.",
    ),
    Refusal(
        # The program that ssh has started on the host says this, so ssh works.
        (
            "Failed to connect socket",
            "virt-ssh-helper: cannot connect to",
            "nc: /",
            "nc: unix connect failed",
            "Ncat: ",
        ),
        *NOT_RUNNING,
    ),
    Refusal(("Connection refused",), *NO_SSH, only_remote=True),
    Refusal(
        (
            "No route to host",
            "timed out",
            "Network is unreachable",
            "Connection closed by",
            "kex_exchange",
            "Connection reset",
        ),
        *NO_SSH,
        only_remote=True,
        silent=True,
    ),
    Refusal(
        (
            "No such file or directory",
            "Connection refused",
        ),
        *NOT_RUNNING,
    ),
    Refusal(
        (
            "no connection driver available",
            "URI scheme",
            "unable to parse URI",
            "unknown transport",
            "invalid argument",
        ),
        "the URI of {name} does not lead to a libvirt that vcloud can use",
        "Use qemu:///system or qemu+ssh://USER@HOST/system.",
    ),
)
"""The first reason that fits a message counts. So a general part such as "Permission denied" comes
after the more specific "Permission denied (".
"""
