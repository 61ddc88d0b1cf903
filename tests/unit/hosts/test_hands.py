"""What somebody else does to what vcloud keeps on a host: records that are started like networks, and
domains that a snapshot or a saved memory brought back. On libvirt's own test driver.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator

import libvirt
import pytest

from tests.unit.hosts.test_records import (
    CONFIG,
    DOMAIN,
    ended_process,
    holder,
    manifest,
    network_names,
)
from vcloud.design.names import network_uuid
from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.lock import PREFIX, LockedError, vapp_lock
from vcloud.hosts.machines import CONNECTED_KEY, set_token
from vcloud.hosts.manifests import PREFIX as MANIFEST
from vcloud.hosts.manifests import delete_manifest, read_manifest, vapp_names, write_manifest
from vcloud.hosts.metadata import TRIAL, Record, require_room, write_record
from vcloud.hosts.observe import observe_domain
from vcloud.hosts.uplink import NETWORK, forget_vapp
from vcloud.marks import CONNECTED_NAMESPACE
from vcloud.plan.manifest import Manifest


@pytest.fixture
def host() -> Iterator[Host]:
    with open_host(HostRef("t", "test:///default", uplink=CONFIG)) as opened:
        yield opened


def start_all(host: Host) -> None:
    """What people do after a reboot: `virsh net-start` of each inactive network."""
    for network in host.connection.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_INACTIVE):
        network.create()


def active(host: Host) -> set[str]:
    found = host.connection.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE)
    return {network.name() for network in found} - {"default"}


def test_a_record_that_somebody_has_started_is_still_a_record(host: Host) -> None:
    write_manifest(host, manifest("shop"))
    start_all(host)
    assert active(host) == {MANIFEST + "shop"}
    assert vapp_names(host) == ("shop",)
    write_manifest(host, dataclasses.replace(manifest("shop"), firewall="another"))
    assert active(host) == set(), "a new manifest stops it"
    again = read_manifest(host, "shop")
    assert isinstance(again, Manifest)
    assert again.firewall == "another"
    start_all(host)
    delete_manifest(host, "shop")
    assert network_names(host) == {"default"}


def test_a_lock_that_somebody_has_started_is_still_a_lock(host: Host) -> None:
    with vapp_lock(host, "shop", "up") as first:
        start_all(host)
        with pytest.raises(LockedError) as caught, vapp_lock(host, "shop", "down"):
            pytest.fail("two hold one lock")
        assert f"net-destroy {first.uuid}" in caught.value.hint
    assert network_names(host) == {"default"}
    write_record(host, Record(PREFIX + "shop", str(uuid.uuid4()), holder(pid=ended_process())))
    write_record(host, Record(PREFIX + "blog", str(uuid.uuid4()), holder(pid=ended_process())))
    start_all(host)
    with vapp_lock(host, "shop", "up"):
        assert network_names(host) == {"default", PREFIX + "shop"}


def test_a_trial_is_as_large_as_its_record_and_leaves_nothing(host: Host) -> None:
    record = Record(MANIFEST + "shop", str(uuid.uuid4()), {"a": "b"}, "text")
    require_room(host, record)
    assert network_names(host) == {"default"}
    ended = Record(f"{TRIAL}0f", str(uuid.uuid4()), holder(pid=ended_process()), "text")
    write_record(host, ended)
    assert vapp_names(host) == (), "a trial of a run that was killed is no vApp"
    with vapp_lock(host, "shop", "up"):
        assert ended.name not in network_names(host)


def test_the_nat_network_stays_while_a_domain_uses_it(host: Host) -> None:
    """The manifest of its vApp may be lost."""
    host.connection.networkDefineXML(
        f"<network><name>{NETWORK}</name><uuid>{network_uuid(NETWORK)}</uuid><bridge name='b'/></network>"
    )
    user = host.connection.defineXML(
        DOMAIN.format(name="blog.firewall", uuid=uuid.uuid4(), mark="").replace(
            "</domain>",
            f"<devices><interface type='network'><source network='{NETWORK}'/></interface></devices></domain>",
        )
    )
    forget_vapp(host, "shop")
    assert NETWORK in network_names(host)
    user.undefine()
    forget_vapp(host, "shop")
    assert NETWORK not in network_names(host)


@pytest.mark.parametrize(
    ("noted", "brought_back"), [("same", False), ("another", True), ("none", False)]
)
def test_a_domain_with_the_id_of_another_one_was_brought_back(
    host: Host, noted: str, brought_back: bool
) -> None:
    """A snapshot and a saved memory keep the token, and libvirt gives the domain a new id. Earlier
    releases noted no id.
    """
    vm = manifest("shop").design.workloads[0]
    plain = DOMAIN.format(name=vm.domain, uuid=vm.uuid, mark="")
    domain = host.connection.createXML(plain)
    number = {"same": f"id='{domain.ID()}'", "another": f"id='{domain.ID() + 1}'", "none": ""}
    domain.setMetadata(
        libvirt.VIR_DOMAIN_METADATA_ELEMENT,
        f"<connected token='t' {number[noted]}/>",
        CONNECTED_KEY,
        CONNECTED_NAMESPACE,
        libvirt.VIR_DOMAIN_AFFECT_LIVE,
    )
    found = observe_domain(host, vm.domain)
    assert found is not None
    assert (found.token, found.brought_back) == ("t", brought_back)


def test_a_token_notes_the_running_domain(host: Host) -> None:
    vm = manifest("shop").design.workloads[0]
    host.connection.createXML(DOMAIN.format(name=vm.domain, uuid=vm.uuid, mark=""))
    token = set_token(host, vm.domain)
    found = observe_domain(host, vm.domain)
    assert found is not None
    assert (found.token, found.brought_back) == (token, False)
    assert f'id="{found.id}"' in host.connection.lookupByName(vm.domain).XMLDesc()
