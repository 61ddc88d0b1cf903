"""The places that probes are sent from, on this machine; tests/vm send from real hosts and VMs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest

from vcloud.errors import HostError, UsageError
from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.inventory import HostRef, OutsideConfig
from vcloud.hosts.uplink import NETWORK
from vcloud.proof.checks import Probe
from vcloud.proof.world import Server
from vcloud.values import Protocol, Service
from vcloud.verify.vantage import host_prober, outside_prober, parse_server, world_of
from vcloud.views.render import UPLINK

SERVER = IPv4Address("203.0.113.10")
OUTSIDE = OutsideConfig(netns="no-such-namespace", server4=SERVER)
TCP = Protocol.TCP
CLOSED = [Probe("tcp", "-", ip_address("127.0.0.1"), 1)]


@pytest.fixture(params=[None, OUTSIDE], ids=["nothing outside", "a place outside"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """libvirt's test driver, whose shell is this machine."""
    with open_host(HostRef("here", "test:///default", outside=request.param)) as opened:
        yield opened


def test_the_world_outside_is_what_the_inventory_says_or_what_the_user_names(host: Host) -> None:
    assert world_of(host).servers == ((Server(SERVER),) if host.ref.outside else ())
    named = tuple(map(parse_server, ("192.0.2.7:443", "2001:db8::7")))
    assert world_of(host, named).servers == named


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("192.0.2.7", Server(ip_address("192.0.2.7"))),
        ("2001:db8::7", Server(ip_address("2001:db8::7"))),
        ("192.0.2.7:443", Server(ip_address("192.0.2.7"), (Service(TCP, 443, 443),))),
        ("[2001:db8::7]:443", Server(ip_address("2001:db8::7"), (Service(TCP, 443, 443),))),
        ("192.0.2.7:udp/53", Server(ip_address("192.0.2.7"), (Service(Protocol.UDP, 53, 53),))),
        ("192.0.2.7:tcp/80-90", Server(ip_address("192.0.2.7"), (Service(TCP, 80, 90),))),
        ("[2001:db8::7]:icmp", Server(ip_address("2001:db8::7"), (Service(Protocol.ICMP, 0, 0),))),
    ],
)
def test_a_server_is_named_by_its_address_and_where_it_answers(text: str, server: Server) -> None:
    assert parse_server(text) == server


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.org",
        "192.0.2",
        "192.0.2.7:",
        "192.0.2.7:0",
        "192.0.2.7:65536",
        "192.0.2.7:http",
        "[192.0.2.7:443",
        "[]:443",
        "[2001:db8::7]",
        "192.0.2.7:443\n",
        "192.0.2.7/24",
    ],
)
def test_what_names_no_server_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not the address of a server"):
        parse_server(text)


def test_the_host_sends_probes_with_its_own_python(host: Host) -> None:
    assert [answer.result for answer in host_prober(host).probe(CLOSED)] == ["refused"]


def test_a_host_without_python_says_so(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/none")
    with pytest.raises(HostError, match="'python3' cannot be run on here"):
        host_prober(host).probe(CLOSED)


def test_without_a_place_outside_the_host_sends_what_comes_from_there(host: Host) -> None:
    """So it does where only the host itself reaches the vApp's address: behind its own NAT."""
    uplink = replace(UPLINK, network=NETWORK) if host.ref.outside else UPLINK
    assert [answer.result for answer in outside_prober(host, uplink).probe(CLOSED)] == ["refused"]


def test_an_outside_without_a_namespace_sends_what_comes_from_there_from_the_host() -> None:
    ref = HostRef("here", "test:///default", outside=OutsideConfig(server4=SERVER))
    with open_host(ref) as host:
        assert [a.result for a in outside_prober(host, UPLINK).probe(CLOSED)] == ["refused"]


def test_a_place_outside_that_is_not_there_gives_its_reason() -> None:
    with (
        open_host(HostRef("here", "test:///default", outside=OUTSIDE)) as host,
        pytest.raises(HostError, match="no-such-namespace"),
    ):
        outside_prober(host, UPLINK).probe(CLOSED)
