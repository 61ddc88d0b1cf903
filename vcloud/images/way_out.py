"""The only network access of a build: a proxy for HTTP and SOCKS, at a port of the build's loopback.

The build's commands run in a network namespace without any card. The proxy connects them to public
addresses and to the package archives of this machine, but not to this machine or its local networks.
The proxy looks up names itself, so that the answer cannot change between the check and the
connection.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import SplitResult, unquote, urlsplit

from vcloud.design.internet import LOCAL4, LOCAL6, TRANSLATED
from vcloud.iproute import ADDRESSES, ROUTES, cards_in, networks_without_router
from vcloud.programs import search_path
from vcloud.untrusted import UnreadableError
from vcloud.values import Network

PORT = 3128
"""The proxy's port on the build's loopback."""
LIST_ARCHIVES = ("apt-get", "indextargets", "--format", "$(SITE)")
"""Prints the addresses of the package archives of a system."""
DEFAULT_PORTS = {"http": 80, "https": 443}
CONNECT_TIMEOUT, IDLE_TIMEOUT = 30, 300
"""Seconds."""
LARGEST_HEAD = 65536
"""Bytes that the head of a request may have."""
BLOCK = 1 << 18
MOST_IGNORED = 64
"""At most so many blocks of a refused client are read and thrown away."""
MOST_CONNECTIONS = 64
HOST, METHOD = re.compile(r"[A-Za-z0-9._:-]{1,253}"), re.compile(r"[A-Za-z-]{1,32}")
"""What a request may name. The proxy of this machine must not read a second request in the first."""
SOCKS, SOCKS_CONNECT, SOCKS_IPV4, SOCKS_NAME, SOCKS_IPV6 = 5, 1, 1, 3, 4
"""RFC 1928."""
SOCKS_REFUSED = 2
"""Not allowed by ruleset."""


class RefusedConnectionError(Exception):
    """The build may not connect there, or no server answers."""


@dataclass(frozen=True)
class Policy:
    """The addresses that a build may reach."""

    archives: frozenset[tuple[str, int]] = frozenset()
    """Names and ports of the package archives. They may have any address."""
    local: bool = False
    """Whether every name may have an address of a local network. This is for mmdebstrap, which
    chooses its archives itself; no command of a recipe runs then.
    """
    near: tuple[Network, ...] = ()
    """The networks in which this machine has an address, also public ones."""
    upstream: SplitResult | None = None
    """The HTTP proxy that this machine itself uses. Then that proxy looks up the names."""

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables for commands that use HTTP."""
        return _variables(f"http://127.0.0.1:{PORT}")

    @property
    def variables_for_apt(self) -> dict[str, str]:
        """The same for apt, which keeps its connections open if it uses SOCKS. But with a proxy of
        the machine apt uses HTTP, because such a proxy often refuses CONNECT to port 80.
        """
        return self.variables if self.upstream else _variables(f"socks5h://127.0.0.1:{PORT}")

    def connect(self, host: str, port: int) -> socket.socket:
        """A connection to a host. Raises RefusedConnectionError."""
        refuse_word(HOST, host)
        if self.upstream:
            return self._through_upstream(host, port)
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise RefusedConnectionError(f"{host} cannot be looked up: {error}") from None
        trusted = (host.lower(), port) in self.archives
        allowed = [item for item in found if trusted or self._may_reach(str(item[4][0]))]
        if not allowed:
            raise RefusedConnectionError(f"{host} is not a public address")
        self.refuse_port(host, port)
        for family, kind, number, _, address in allowed:
            peer = socket.socket(family, kind, number)
            try:
                peer.settimeout(CONNECT_TIMEOUT)
                peer.connect(address)
            except OSError:
                peer.close()
            else:
                peer.settimeout(IDLE_TIMEOUT)
                return peer
        raise RefusedConnectionError(f"{host} does not answer")

    def _may_reach(self, address: str) -> bool:
        return is_elsewhere(address) if self.local else is_public(address, self.near)

    def refuse_port(self, host: str, port: int) -> None:
        """Raises RefusedConnectionError for a port that belongs neither to HTTP or HTTPS nor to an
        archive.
        """
        if not (
            self.local or port in DEFAULT_PORTS.values() or (host.lower(), port) in self.archives
        ):
            raise RefusedConnectionError(f"port {port} of {host} is neither of HTTP nor of HTTPS")

    def _through_upstream(self, host: str, port: int) -> socket.socket:
        if not _may_be_public(host) and (host.lower(), port) not in self.archives:
            raise RefusedConnectionError(f"{host} is not a public address")
        self.refuse_port(host, port)
        peer = self.dial_upstream()
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        peer.sendall(
            f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{self.credentials}\r\n".encode()
        )
        head, _ = read_head(peer)
        if head.split(b" ", 2)[1:2] != [b"200"]:
            peer.close()
            raise RefusedConnectionError(f"the proxy of this machine refuses {target}")
        return peer

    def dial_upstream(self) -> socket.socket:
        """A connection to the proxy of this machine. Raises RefusedConnectionError."""
        proxy = self.upstream or SplitResult("", "", "", "", "")
        place = (proxy.hostname or "", proxy.port or DEFAULT_PORTS["http"])
        try:
            peer = socket.create_connection(place, CONNECT_TIMEOUT)
        except OSError as error:
            raise RefusedConnectionError(f"the proxy of this machine: {error}") from None
        peer.settimeout(IDLE_TIMEOUT)
        return peer

    @property
    def credentials(self) -> str:
        """The header line with the user and password for the proxy of this machine; empty if it
        needs none.
        """
        if self.upstream is None or not self.upstream.username:
            return ""
        pair = f"{unquote(self.upstream.username)}:{unquote(self.upstream.password or '')}"
        return f"Proxy-Authorization: Basic {base64.b64encode(pair.encode()).decode()}\r\n"


def refuse_word(form: re.Pattern[str], word: str) -> None:
    """Raises RefusedConnectionError for a host or a method that no client writes so."""
    if not form.fullmatch(word):
        raise RefusedConnectionError(f"{word[:80]!a} is not a public address or a method of HTTP")


def _variables(proxy: str) -> dict[str, str]:
    return dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY"), proxy)


def is_public(text: str, near: Iterable[Network] = ()) -> bool:
    """Whether an address is public: neither private or reserved, nor of this machine, nor in one of
    the networks `near`.
    """
    address = _address(text)
    if address is None or not address.is_global or not is_elsewhere(text):
        return False
    if address.version == 6 and address in TRANSLATED:
        return is_public(str(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)), near)
    local = (*LOCAL4, *LOCAL6, *near)
    return not any(address in one for one in local if one.version == address.version)


def is_elsewhere(text: str) -> bool:
    """Whether an address belongs to another machine, in a local network or elsewhere."""
    address = _address(text)
    return address is not None and not (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or _is_own(str(address))
    )


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # ::ffff:127.0.0.1 is 127.0.0.1.
    return getattr(address, "ipv4_mapped", None) or address


def _is_own(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _may_be_public(host: str) -> bool:
    """Whether a host may be public, as far as that can be said without looking up its name."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return False
    try:
        # This includes the short forms of an address that getaddrinfo accepts: 127.1 or 2130706433.
        return is_public(socket.inet_ntoa(socket.inet_aton(name)))
    except OSError:
        return is_public(name) if ":" in name else True


def machine_policy(sites: Iterable[str] = (), *, local: bool = False) -> Policy:
    """The policy for builds on this machine. `sites` are the URLs of further archives."""
    proxy = os.environ.get("http_proxy") or os.environ.get("https_proxy") or _apt_proxy()
    parts = urlsplit(proxy) if proxy else None
    return Policy(
        archives=frozenset(places((*sites, *_said(*LIST_ARCHIVES).split()))),
        local=local,
        near=tuple(_networks()),
        upstream=parts if parts and parts.scheme == "http" and parts.hostname else None,
    )


def _networks() -> Iterator[Network]:
    """The networks that this machine reaches without a router."""
    with contextlib.suppress(UnreadableError):
        for card in cards_in(_said(*ADDRESSES).encode()):
            yield from card.networks
    for routes in ROUTES:
        with contextlib.suppress(UnreadableError):
            yield from networks_without_router(_said(*routes).encode())


def _apt_proxy() -> str:
    said = _said("apt-config", "dump", "--format", "%v%n", "Acquire::http::Proxy").splitlines()
    return said[0] if said else ""


def places(sites: Iterable[str]) -> Iterator[tuple[str, int]]:
    """The hosts and ports in the URLs of archives. URLs of other protocols than HTTP and HTTPS are
    left out.
    """
    for site in map(urlsplit, sites):
        if site.scheme in DEFAULT_PORTS and site.hostname:
            yield site.hostname, site.port or DEFAULT_PORTS[site.scheme]


def _said(*command: str) -> str:
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PATH": search_path()},
        ).stdout
    except OSError:
        return ""


@dataclass
class WayOut:
    """The proxy. As a context manager, it runs until the block ends. `listener` is a listening
    socket in the build's network namespace.
    """

    listener: socket.socket
    policy: Policy
    _places: threading.Semaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(MOST_CONNECTIONS)
    )

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._places.acquire()
                client, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            with client, contextlib.suppress(OSError, ValueError):
                client.settimeout(IDLE_TIMEOUT)
                if client.recv(1, socket.MSG_PEEK) == bytes([SOCKS]):
                    _serve_socks(client, self.policy)
                else:
                    _serve_http(client, self.policy)
        finally:
            self._places.release()


def _serve_socks(client: socket.socket, policy: Policy) -> None:
    _, methods = _exactly(client, 2)
    _exactly(client, methods)
    client.sendall(bytes([SOCKS, 0]))
    _, command, _, kind = _exactly(client, 4)
    if kind == SOCKS_NAME:
        host = _exactly(client, _exactly(client, 1)[0]).decode("ascii")
    elif kind in (SOCKS_IPV4, SOCKS_IPV6):
        host = str(ipaddress.ip_address(_exactly(client, 4 if kind == SOCKS_IPV4 else 16)))
    else:
        return
    port = int.from_bytes(_exactly(client, 2))
    answer = bytes([0, SOCKS_IPV4]) + bytes(6)
    if command != SOCKS_CONNECT:
        return
    try:
        peer = policy.connect(host, port)
    except RefusedConnectionError:
        _refuse(client, bytes([SOCKS, SOCKS_REFUSED]) + answer)
        return
    with peer:
        client.sendall(bytes([SOCKS, 0]) + answer)
        _relay(client, peer)


def _serve_http(client: socket.socket, policy: Policy) -> None:
    head, rest = read_head(client)
    first, _, fields = head.partition(b"\r\n")
    method, target, _ = first.decode("latin-1").split(" ", 2)
    try:
        if method == "CONNECT":
            parts = urlsplit(f"//{target}")
            peer = policy.connect(parts.hostname or "", parts.port or DEFAULT_PORTS["https"])
            client.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
        else:
            peer, request = _plain_request(method, urlsplit(target), fields, policy)
            rest = request + rest
    except RefusedConnectionError as error:
        said = f"{error}\n".encode()
        _refuse(
            client,
            b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Type: text/plain\r\n"
            + b"Content-Length: %d\r\n\r\n" % len(said)
            + said,
        )
        return
    with peer:
        peer.sendall(rest)
        _relay(client, peer)


def _refuse(client: socket.socket, answer: bytes) -> None:
    """Sends the answer, and reads what the client still sends. Otherwise the kernel would reset the
    connection, and the client might lose the answer.
    """
    client.sendall(answer)
    client.shutdown(socket.SHUT_WR)
    client.settimeout(CONNECT_TIMEOUT)
    for _ in range(MOST_IGNORED):
        if not client.recv(BLOCK):
            return


def _plain_request(
    method: str, target: SplitResult, fields: bytes, policy: Policy
) -> tuple[socket.socket, bytes]:
    """A connection for one request without TLS, and the head of the request. The connection is
    closed after the request, because the client's next request may be for another host.
    """
    if target.scheme != "http" or not target.hostname:
        raise RefusedConnectionError("without CONNECT, only http:// URLs can be requested")
    refuse_word(METHOD, method)
    refuse_word(HOST, target.hostname)
    hop_by_hop = (b"connection", b"proxy-connection", b"keep-alive", b"proxy-authorization")
    kept = [
        line
        for line in fields.split(b"\r\n")
        if line and line.partition(b":")[0].strip().lower() not in hop_by_hop
    ]
    port = target.port or DEFAULT_PORTS["http"]
    if policy.upstream:
        if not _may_be_public(target.hostname) and (target.hostname, port) not in policy.archives:
            raise RefusedConnectionError(f"{target.hostname} is not a public address")
        policy.refuse_port(target.hostname, port)
        peer = policy.dial_upstream()
        asked, extra = target.geturl(), policy.credentials.encode()
    else:
        peer = policy.connect(target.hostname, port)
        asked, extra = target._replace(scheme="", netloc="").geturl() or "/", b""
    lines = [f"{method} {asked} HTTP/1.1".encode("latin-1"), *kept, b"Connection: close"]
    return peer, b"\r\n".join(lines) + b"\r\n" + extra + b"\r\n"


def read_head(peer: socket.socket) -> tuple[bytes, bytes]:
    """The head of an HTTP message without the empty line, and the bytes after it. Raises ValueError
    if the head does not end.
    """
    got = b""
    while b"\r\n\r\n" not in got:
        block = peer.recv(4096)
        if not block or len(got) > LARGEST_HEAD:
            raise ValueError("no head")
        got += block
    head, _, rest = got.partition(b"\r\n\r\n")
    return head, rest


def _exactly(peer: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        block = peer.recv(count - len(got))
        if not block:
            raise ValueError("ended too early")
        got += block
    return got


def _relay(one: socket.socket, other: socket.socket) -> None:
    """Carries bytes both ways until both sides have ended."""
    back = threading.Thread(target=_carry, args=(other, one), daemon=True)
    back.start()
    _carry(one, other)
    back.join()


def _carry(source: socket.socket, target: socket.socket) -> None:
    try:
        while block := source.recv(BLOCK):
            target.sendall(block)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        # The other direction must end, too.
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
