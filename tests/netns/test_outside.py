"""Probes from a place outside that the inventory names: a network namespace of this machine."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address, ip_address

import pytest

from vcloud.hosts.connection import open_host
from vcloud.hosts.inventory import HostRef, OutsideConfig
from vcloud.proof.checks import Probe
from vcloud.verify.vantage import host_prober, outside_prober
from vcloud.views.render import UPLINK

pytestmark = pytest.mark.netns
ADDRESS = "203.0.113.77"


@pytest.fixture
def namespace() -> Iterator[str]:
    """A namespace with an address that this machine does not have."""
    name = "vcloud-test-outside"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for words in (
            ["link", "set", "lo", "up"],
            ["address", "add", f"{ADDRESS}/32", "dev", "lo"],
        ):
            subprocess.run(["ip", "-n", name, *words], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def test_probes_leave_from_inside_the_namespace(namespace: str) -> None:
    probes = [Probe("tcp", ADDRESS, ip_address(ADDRESS), 1, timeout_ms=10_000)]
    outside = OutsideConfig(netns=namespace, server4=IPv4Address(ADDRESS))
    with open_host(HostRef("here", "test:///default", outside=outside)) as host:
        assert [answer.result for answer in outside_prober(host, UPLINK).probe(probes)] == [
            "refused"
        ]
        assert [answer.result for answer in host_prober(host).probe(probes)] == ["error"], (
            "the machine itself has no such address"
        )
