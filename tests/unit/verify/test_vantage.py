"""The places that probes are sent from, on this machine; tests/vm send from real hosts and VMs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest

from vcloud.errors import HostError
from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.inventory import HostRef, OutsideConfig
from vcloud.hosts.uplink import NETWORK
from vcloud.proof.checks import Probe
from vcloud.verify.vantage import host_prober, outside_prober, world_of
from vcloud.views.render import UPLINK

OUTSIDE = OutsideConfig(netns="no-such-namespace", server4=IPv4Address("203.0.113.10"))
CLOSED = [Probe("tcp", "-", ip_address("127.0.0.1"), 1)]


@pytest.fixture(params=[None, OUTSIDE], ids=["nothing outside", "a place outside"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """libvirt's test driver, whose shell is this machine."""
    with open_host(HostRef("here", "test:///default", outside=request.param)) as opened:
        yield opened


def test_the_world_outside_is_what_the_inventory_says(host: Host) -> None:
    world = world_of(host)
    assert (world.address4, world.address6) == (
        (OUTSIDE.server4 if host.ref.outside else None),
        None,
    )


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


def test_a_place_outside_that_is_not_there_gives_its_reason() -> None:
    with (
        open_host(HostRef("here", "test:///default", outside=OUTSIDE)) as host,
        pytest.raises(HostError, match="no-such-namespace"),
    ):
        outside_prober(host, UPLINK).probe(CLOSED)
