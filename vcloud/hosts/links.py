"""How a host is reached, and whether that is encrypted."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from vcloud.hosts.inventory import HostRef


def link_of(ref: HostRef) -> tuple[str, bool | None]:
    """How a host is reached, as a clause, and whether that is encrypted; None on this machine."""
    parts = urlsplit(ref.uri)
    transport = parts.scheme.partition("+")[2] or ("tls" if parts.hostname else "unix")
    if transport == "unix":
        return "this machine", None
    given = parse_qs(parts.query, keep_blank_values=True)
    # libssh and libssh2 have a parameter of their own, whose usual value is `normal`.
    if {*given.get("known_hosts_verify", ())} - {"normal"}:
        return f"{transport}, and not every key of the host is refused (known_hosts_verify)", False
    if "no_verify" in given:
        return f"{transport}, and nobody looks at the host's key (no_verify)", False
    if transport in ("ssh", "libssh", "libssh2", "tls"):
        return f"{transport}, encrypted", True
    return f"{transport}, not encrypted", False
