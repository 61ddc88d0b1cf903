"""Explains why vcloud could not open a host, and what to do about it, from the message of libvirt
or ssh.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from vcloud.errors import HostError
from vcloud.hosts.inventory import HostRef


def explain_refusal(ref: HostRef, text: str) -> HostError:
    """The error for a host that could not be opened. `text` is the message of libvirt or ssh."""
    message = " ".join(text.split())
    login = urlsplit(ref.uri)
    target = f"{login.username}@{login.hostname}" if login.username else str(login.hostname)
    remote = "+ssh" in login.scheme
    for marks, what, hint in _refusals(ref.name, target, remote):
        if any(mark in message for mark in marks):
            return HostError(what, hint)
    return HostError(f"{ref.name} cannot be opened ({ref.uri}): {message}", f"Try: virsh --connect '{ref.uri}' version.")


def _refusals(name: str, target: str, remote: bool) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Triples of (parts of libvirt's or ssh's message, what it means, the hint). The first triple
    with a matching part counts.

    The order matters: a general part such as "Permission denied" comes after the more specific
    "Permission denied (".
    """
    yield (
        # libvirt reads only 1,023 bytes of ssh's message and reports "Value too large" for a longer
        # one. Of ssh's messages, only the banner for a changed key is that long.
        ("REMOTE HOST IDENTIFICATION HAS CHANGED", "does not match", "Value too large for defined data type"),
        f"the SSH host key of {name} has changed",
        f"Somebody may be intercepting the connection. If the host was reinstalled, remove its old key: ssh-keygen -R {target.rpartition('@')[2]}.",
    )
    yield (
        ("Host key verification failed", "not found in known_hosts"),
        f"the SSH host key of {name} is unknown, and vcloud does not trust an unknown key",
        f"Log in once by `ssh {target}`. Compare the fingerprint that ssh shows with the one that the host's owner gives you.",
    )
    yield (
        ("Permission denied (", "Authentication failed", "Too many authentication failures", "No authentication methods available"),
        f"{name} refuses the SSH login {target}",
        f"Make `ssh {target} true` work first: load your key (ssh-add), or add it to the host's authorized_keys.",
    )
    yield (
        ("Could not resolve", "Name or service not known", "Temporary failure in name resolution"),
        f"the name of {name} cannot be resolved",
        "Correct the name in the URI or the inventory, or add a HostName for it to the ssh_config.",
    )
    yield (
        (
            "virt-ssh-helper: not found",
            "virt-ssh-helper: command not found",
            "'netcat' not found",
            "nc: command not found",
            "nc: not found",
        ),
        f"libvirt is not installed on {name}",
        "On that host: apt-get install libvirt-daemon-system qemu-system-x86.",
    )
    if remote:
        yield (
            (
                "Connection refused",
                "No route to host",
                "timed out",
                "Network is unreachable",
                "Connection closed by",
                "kex_exchange",
                "Connection reset",
            ),
            f"{name} does not answer ssh",
            f"Check that the host is up: ssh {target} true.",
        )
    yield (
        ("Permission denied", "polkit", "authentication unavailable", "access denied"),
        f"libvirt on {name} does not allow you to connect",
        "Add yourself to the group libvirt and log in again: sudo usermod -aG libvirt $USER.",
    )
    yield (
        ("Failed to connect socket", "No such file or directory", "Connection refused"),
        f"libvirt does not run on {name}",
        "On that host: sudo apt-get install libvirt-daemon-system qemu-system-x86 && sudo systemctl enable --now libvirtd.",
    )
    yield (
        ("no connection driver available", "URI scheme", "unable to parse URI", "unknown transport", "invalid argument"),
        f"the URI of {name} does not lead to a libvirt that vcloud can use",
        "Use qemu:///system or qemu+ssh://USER@HOST/system.",
    )
