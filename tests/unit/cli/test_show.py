"""What `vcloud list` says of a vApp, on libvirt's own test driver."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.design_builder import build_design
from tests.standing import manifest_of
from vcloud.compile.libvirt.network import zone_networks
from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.manifests import delete_manifest, write_manifest
from vcloud.hosts.observe import domain_ids
from vcloud.plan.manifest import Phase
from vcloud.views.render import UPLINK
from vcloud.views.status import all_vapps

URI = "test:///default"
DESIGN = build_design(zones="dmz", vms={"web": "dmz"}, vapp="listed")
DOMAIN = "<domain type='test'><name>{name}</name><uuid>{uuid}</uuid><memory>1024</memory><os><type>hvm</type></os></domain>"
NETWORK = "<network><name>{name}</name><uuid>{uuid}</uuid><bridge name='{bridge}'/></network>"


@pytest.fixture
def host() -> Iterator[Host]:
    """With the VMs and networks of a vApp that runs. The test driver's default host is one for the
    whole process while it is open.
    """
    with open_host(HostRef("t", URI)) as opened:
        for vm in DESIGN.vms:
            opened.connection.createXML(DOMAIN.format(name=vm.domain, uuid=vm.uuid))
        for network in (network for zone in DESIGN.zones for network in zone_networks(zone)):
            opened.connection.networkCreateXML(
                NETWORK.format(name=network.name, uuid=network.uuid, bridge=network.bridge)
            )
        opened.connection.networkCreateXML(
            f"<network><name>{UPLINK.network}</name><bridge name='u0'/></network>"
        )
        write_manifest(
            opened, replace(manifest_of(DESIGN), phase=Phase.READY, ids=domain_ids(opened, DESIGN))
        )
        yield opened
        delete_manifest(opened, DESIGN.vapp)


def state() -> str:
    (row,) = all_vapps(URI)
    return str(row["state"])


@pytest.mark.usefixtures("host")
def test_a_vapp_whose_appliances_nobody_asked_is_not_called_protected() -> None:
    assert all_vapps(URI) == [
        {
            "vapp": "listed",
            "host": "localhost",
            "state": "ready",
            "vms": 2,
            "running": 2,
            "owner": DESIGN.owner,
        }
    ]


def test_a_vapp_that_does_not_run_or_whose_run_has_not_ended_is_a_problem(host: Host) -> None:
    write_manifest(host, replace(manifest_of(DESIGN), phase=Phase.APPLYING))
    assert state() == "problem"
    write_manifest(
        host, replace(manifest_of(DESIGN), phase=Phase.READY, ids=domain_ids(host, DESIGN))
    )
    assert state() == "ready"
    host.connection.networkLookupByName(UPLINK.network).destroy()
    assert state() == "problem"
    host.connection.networkCreateXML(
        f"<network><name>{UPLINK.network}</name><bridge name='u0'/></network>"
    )
    assert state() == "ready"
    host.connection.lookupByName(DESIGN.firewall.domain).destroy()
    assert state() == "problem"
