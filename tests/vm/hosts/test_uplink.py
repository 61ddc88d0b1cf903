"""The NAT network of a host that has no uplink of its own."""

from __future__ import annotations

import dataclasses

import pytest

from tests.design_builder import build_design
from vcloud.hosts.connection import Host
from vcloud.hosts.manifests import vapp_names, write_manifest
from vcloud.hosts.uplink import BRIDGE, NETWORK, forget_vapp, make_uplink, uplink_for
from vcloud.plan.manifest import Manifest, Phase

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]


def test_the_nat_network_stands_as_long_as_a_vapp_needs_it(host: Host) -> None:
    plain = Host(dataclasses.replace(host.ref, uplink=None), host.connection)
    designs = [
        build_design(zones="dmz", vms={"web": "dmz"}, vapp=name) for name in ("other", "elsewhere")
    ]
    uplink = uplink_for(plain, "shop")
    uplinks = (uplink, uplink_for(host, "elsewhere"))
    assert uplinks[1].network != NETWORK
    try:
        make_uplink(plain, uplink)
        make_uplink(plain, uplink)
        addresses = host.shell.run(["ip", "-brief", "address", "show", BRIDGE]).stdout.decode()
        assert f"{uplink.gateway4}/24" in addresses
        assert f"{uplink.gateway6}/64" in addresses
        assert host.shell.run(["pgrep", "dnsmasq"]).code == 1, "it answers neither DHCP nor DNS"
        for design, own in zip(designs, uplinks, strict=True):
            write_manifest(
                host, Manifest(Phase.READY, design, own, "tcg", (), (), (), "", "", "", "", "0")
            )
        forget_vapp(plain, "shop")
        assert BRIDGE in host.shell.run(["ip", "-brief", "link"]).stdout.decode()
        forget_vapp(plain, "other")
        assert vapp_names(host) == ("elsewhere",)
    finally:
        for design in designs:
            forget_vapp(plain, design.vapp)
    assert vapp_names(host) == ()
    assert NETWORK not in [network.name() for network in host.connection.listAllNetworks()]
    assert BRIDGE not in host.shell.run(["ip", "-brief", "link"]).stdout.decode()
