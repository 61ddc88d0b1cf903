"""The proxy of a build: what it reaches, what it refuses, and what it does with strange requests."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from urllib.parse import urlsplit

import pytest

from vcloud.images.way_out import (
    Policy,
    RefusedConnectionError,
    WayOut,
    is_elsewhere,
    is_public,
    places,
)

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


@contextmanager
def server(answer: bytes = ANSWER) -> Iterator[tuple[int, list[bytes]]]:
    """A server on the loopback: its port, and what it got."""
    got: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client:
                        got.append(client.recv(65536))
                        client.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1], got
        listener.shutdown(socket.SHUT_RDWR)


def ask(policy: Policy, *blocks: bytes) -> bytes:
    """All that the proxy answers to a client that sends the blocks."""
    with (
        WayOut(socket.create_server(("127.0.0.1", 0)), policy) as proxy,
        socket.create_connection(proxy.listener.getsockname(), 10) as client,
    ):
        answer = b""
        # The proxy may end the connection before it has read all.
        with contextlib.suppress(OSError):
            for block in blocks:
                client.sendall(block)
            client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while block := client.recv(65536):
                answer += block
        return answer


def friend(port: int) -> Policy:
    return Policy(archives=frozenset({("127.0.0.1", port), ("localhost", port)}))


def socks(host: str, port: int) -> tuple[bytes, ...]:
    name = host.encode()
    return (
        b"\x05\x01\x00",
        b"\x05\x01\x00\x03" + bytes([len(name)]) + name + port.to_bytes(2),
        b"GET / HTTP/1.1\r\n\r\n",
    )


def test_an_archive_of_the_machine_is_reached_in_each_way() -> None:
    with server() as (port, got):
        for host in ("127.0.0.1", "localhost"):
            place = f"{host}:{port}".encode()
            plain = b"GET http://%s/a?b HTTP/1.1\r\nHost: %s\r\nProxy-Connection: x\r\n\r\n"
            assert ask(friend(port), plain % (place, place)).endswith(b"hi")
            assert got[-1].startswith(b"GET /a?b HTTP/1.1\r\nHost: ")
            assert b"Proxy-Connection" not in got[-1]
            assert got[-1].endswith(b"Connection: close\r\n\r\n")
            connect = b"CONNECT %s HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n" % place
            assert ask(friend(port), connect) == b"HTTP/1.1 200 Connected\r\n\r\n" + ANSWER
            assert ask(friend(port), *socks(host, port)).endswith(ANSWER)
        assert len(got) == 6


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0.0", "127.0.0.2", "0"],
)
def test_this_machine_is_not_reached_under_any_name(host: str) -> None:
    with server() as (port, got):
        other = friend(port + 1)
        place = f"{host}:{port}".encode()
        for answer in (
            ask(other, b"GET http://%s/ HTTP/1.1\r\n\r\n" % place),
            ask(other, b"CONNECT %s HTTP/1.1\r\n\r\n" % place),
        ):
            assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")
            assert b"is not a public address" in answer
        assert ask(other, *socks(host, port))[2:4] == b"\x05\x02"
        assert ask(Policy(local=True), *socks(host, port))[2:4] == b"\x05\x02"
        assert got == []


@pytest.mark.parametrize("host", ["[::1]", "[::ffff:127.0.0.1]"])
def test_nor_by_ipv6(host: str) -> None:
    with server() as (port, got):
        assert b"403" in ask(Policy(), f"CONNECT {host}:{port} HTTP/1.1\r\n\r\n".encode())
        assert got == []


@pytest.mark.parametrize(
    ("address", "public", "elsewhere"),
    [
        ("1.1.1.1", True, True),
        ("2606:4700::1111", True, True),
        ("10.1.2.3", False, True),
        ("192.168.7.7", False, True),
        ("203.0.113.80", False, True),
        ("fd00::5", False, True),
        ("169.254.169.254", False, False),
        ("168.63.129.16", False, True),
        ("168.63.129.17", True, True),
        ("fe80::1%eth0", False, False),
        ("127.0.0.1", False, False),
        ("::ffff:127.0.0.1", False, False),
        ("::ffff:10.0.0.1", False, True),
        ("224.0.0.1", False, False),
        ("ff02::1", False, False),
        ("::", False, False),
        ("nonsense", False, False),
    ],
)
def test_which_addresses_are_out_there(address: str, public: bool, elsewhere: bool) -> None:
    assert (is_public(address), is_elsewhere(address)) == (public, elsewhere)


def test_addresses_of_archives_are_read_as_hosts_and_ports() -> None:
    sites = ("http://A.example/debian", "https://b.example:8443/x", "file:/srv", "cdrom:[x]/")
    assert set(places(sites)) == {("a.example", 80), ("b.example", 8443)}


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"\x05",
        b"\x05\x01\x00\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50",
        b"\x05\x01\x00\x05\x01\x00\x09",
        b"\x05\x01\x00\x05\x01\x00\x03\x05\xff\xff\xff\xff\xff\x00\x50",
        b"GET\r\n\r\n",
        b"GET /relative HTTP/1.1\r\n\r\n",
        b"GET http://[:1/ HTTP/1.1\r\n\r\n",
        b"GET http://x:99999999/ HTTP/1.1\r\n\r\n",
        b"CONNECT : HTTP/1.1\r\n\r\n",
        b"GET ftp://127.0.0.1/ HTTP/1.1\r\n\r\n",
        b"x" * 200_000,
        b"\xff\xfe\r\n\r\n",
    ],
)
def test_strange_requests_end_and_the_proxy_goes_on(block: bytes) -> None:
    with server() as (port, got):
        policy = friend(port)
        assert b"hi" not in ask(policy, block)
        place = f"127.0.0.1:{port}".encode()
        assert ask(policy, b"GET http://%s/ HTTP/1.1\r\n\r\n" % place).endswith(b"hi")
        assert len(got) == 1


def test_the_proxy_of_the_machine_is_used_and_told_who_asks() -> None:
    with server(b"HTTP/1.1 200 OK\r\n\r\n" + ANSWER) as (port, got):
        upstream = urlsplit(f"http://ann:p%40ss@127.0.0.1:{port}")
        policy = Policy(upstream=upstream)
        assert ask(policy, b"GET http://far.example/a HTTP/1.1\r\n\r\n").endswith(b"hi")
        assert got[-1].startswith(b"GET http://far.example/a HTTP/1.1\r\n")
        assert b"Proxy-Authorization: Basic YW5uOnBAc3M=\r\n" in got[-1]
        ask(policy, b"CONNECT far.example:443 HTTP/1.1\r\n\r\n")
        assert got[-1].startswith(b"CONNECT far.example:443 HTTP/1.1\r\n")
        assert policy.variables_for_apt["http_proxy"].startswith("http://")
        assert Policy().variables_for_apt["http_proxy"].startswith("socks5h://")
        for near in (b"localhost", b"127.0.0.1", b"127.1", b"10.0.0.1", b"a.localhost"):
            assert b"403" in ask(policy, b"CONNECT %s:443 HTTP/1.1\r\n\r\n" % near)
        assert len(got) == 2


def test_the_proxy_of_the_machine_gets_no_second_request_in_a_name() -> None:
    """The part of an address behind a `%` could hold anything."""
    with server(b"HTTP/1.1 200 OK\r\n\r\n" + ANSWER) as (port, got):
        policy = Policy(upstream=urlsplit(f"http://127.0.0.1:{port}"))
        hidden = "]:443 HTTP/1.1\r\n\r\nGET http://10.0.0.5/ HTTP/1.1\r\n\r\n"
        for host in (f"2606:4700::1%{hidden}", "2606:4700::1%1", "far.example\n", "far example"):
            assert ask(policy, *socks(host, 443))[2:4] == b"\x05\x02"
        method = b"GET\thttp://10.0.0.5/\tHTTP/1.0\nX:"
        assert b"403" in ask(policy, method + b" http://far.example/ HTTP/1.1\r\n\r\n")
        assert got == []
        for host in ("2606:4700::1", "far.example", "a_b.far-away.example."):
            assert ask(policy, *socks(host, 443))[2:4] == b"\x05\x00"
        assert ask(policy, b"M-SEARCH http://far.example/ HTTP/1.1\r\n\r\n").endswith(b"hi")
        assert len(got) == 4


@pytest.mark.parametrize(
    "address",
    [
        "64:ff9b::a00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:a00:1::1",
        "::a00:1",
        "fec0::1",
        "192.88.99.1",
        "2606:4700::5",
    ],
)
def test_what_holds_a_local_address_and_what_is_near_is_not_public(address: str) -> None:
    near = (ip_network("2606:4700::/64"),)
    assert not is_public(address, near)
    assert is_public("64:ff9b::101:101", near)
    assert is_public("2606:4700:1::1", near)


def test_a_public_address_is_reached_at_the_ports_of_http_only() -> None:
    policy = Policy(archives=frozenset({("far.example", 3142)}))
    for port in (80, 443):
        policy.refuse_port("far.example", port)
    policy.refuse_port("FAR.example", 3142)
    Policy(local=True).refuse_port("far.example", 25)
    for port in (22, 25, 8080):
        with pytest.raises(RefusedConnectionError, match="neither of HTTP nor of HTTPS"):
            policy.refuse_port("far.example", port)
