"""`down` deletes what vcloud has made, proven by UUIDs and names, and names what it leaves. No VM
is started.
"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import libvirt
import pytest

from tests.told import Told
from tests.vapps import SMALL, design_of_text
from tests.vm.hosts.running import NAME as SHARED
from vcloud.apply.down import Gone, take_down
from vcloud.compile.libvirt.network import render_network, vapp_networks
from vcloud.compile.libvirt.nwfilter import render_filters
from vcloud.design.model import Vm
from vcloud.design.names import filter_name
from vcloud.errors import NoVappError, VcloudError
from vcloud.hosts.connection import Host
from vcloud.hosts.disk_users import disk_users
from vcloud.hosts.machines import define_filter, remove_filter
from vcloud.hosts.observe import observe_vapp
from vcloud.hosts.pool import FOLDER, StoragePool
from vcloud.marks import NAMESPACE, NetworkMarks
from vcloud.plan.refusals import refuse_foreign_names

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]

DESIGN = design_of_text(SMALL)
WEB = DESIGN.workloads[0]
ROOT, DATA = f"root.{WEB.domain}.qcow2", f"vm.{WEB.domain}.data.qcow2"
DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <metadata>
    <vcloud:vm xmlns:vcloud='https://vcloud.dev/ns/1' vapp='{vapp}' name='{vm}' role='workload'/>
  </metadata>
  <memory>1024</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'><source file='{path}'/><target dev='vda' bus='virtio'/></disk>
  </devices>
</domain>
"""


def _domains(host: Host) -> list[libvirt.virDomain]:
    """All but the VM that other tests of this host share."""
    return [domain for domain in host.connection.listAllDomains() if domain.name() != SHARED]


@pytest.fixture(autouse=True)
def clean(host: Host, pool: StoragePool) -> Iterator[None]:
    """Removes what a test has defined, whoever it belongs to."""
    yield
    for domain in _domains(host):
        domain.undefine()
    for network in host.connection.listAllNetworks():
        if network.name().startswith(f"{DESIGN.vapp}."):
            network.undefine()
    pool.delete(volumes(pool))


def define(host: Host, vm: Vm, name: str = "", uuid: str = "", volume: str = "") -> None:
    """Defines a domain with the mark of a VM, and with a volume as its disk."""
    host.connection.defineXML(
        DOMAIN.format(
            name=name or vm.domain,
            uuid=uuid or vm.uuid,
            vapp=DESIGN.vapp,
            vm=vm.name,
            path=f"{FOLDER}/{volume or f'root.{vm.domain}.qcow2'}",
        )
    )


def define_network(host: Host, uuid: str = "") -> str:
    zone, network = next(vapp_networks(DESIGN))
    text = render_network(network, NetworkMarks(DESIGN.vapp, zone.name).attributes())
    host.connection.networkDefineXML(text.replace(network.uuid, uuid or network.uuid))
    return network.name


def volumes(pool: StoragePool) -> set[str]:
    return {*pool.names(*(f"{kind}.{DESIGN.vapp}." for kind in ("root", "vm", "console")))}


def names(host: Host) -> set[str]:
    listed = (*_domains(host), *host.connection.listAllNetworks())
    return {item.name() for item in listed} - {"uplink"}


def down(host: Host) -> Gone:
    return take_down(DESIGN.vapp, host.ref.local_uri, Told())


def test_all_that_vcloud_has_made_goes(host: Host, pool: StoragePool) -> None:
    for vm in DESIGN.vms:
        define(host, vm)
        pool.make_empty(f"root.{vm.domain}.qcow2")
        pool.make_empty(f"console.{vm.domain}.log")
        pool.make_empty(f"console.{vm.domain}.log.0")
    pool.make_empty(DATA)
    define_network(host)
    gone = down(host)
    assert gone.left == ()
    assert names(host) == set()
    assert volumes(pool) == set()
    with pytest.raises(NoVappError):
        down(host)


def test_a_firewall_that_only_looks_like_the_vapps_is_left_and_named(
    host: Host, pool: StoragePool
) -> None:
    """It has the name and the mark, and another UUID. `up` refuses it as well."""
    firewall = DESIGN.firewall.domain
    define(host, WEB)
    define(host, DESIGN.firewall, uuid=str(uuid4()))
    pool.make_empty(f"root.{firewall}.qcow2")
    pool.make_empty(f"console.{firewall}.log")
    with pytest.raises(VcloudError, match="is not vcloud's"):
        refuse_foreign_names(DESIGN, observe_vapp(host, DESIGN.vapp))
    gone = down(host)
    assert names(host) == {firewall}
    assert volumes(pool) == {f"root.{firewall}.qcow2", f"console.{firewall}.log"}
    assert gone.left == (
        f"the domain '{firewall}', which vcloud did not make",
        f"the volume 'console.{firewall}.log', which belongs to the domain '{firewall}' by its name",
        f"the volume 'root.{firewall}.qcow2', which the domain '{firewall}' uses",
    )


def test_where_there_are_look_alikes_only_there_is_no_such_vapp(host: Host) -> None:
    define(host, DESIGN.firewall, uuid=str(uuid4()))
    network = define_network(host, str(uuid4()))
    with pytest.raises(NoVappError):
        down(host)
    assert names(host) == {DESIGN.firewall.domain, network}


def test_a_network_that_only_looks_like_the_vapps_is_left_and_named(host: Host) -> None:
    define(host, WEB)
    network = define_network(host, str(uuid4()))
    assert down(host).left == (f"the network '{network}', which vcloud did not make",)
    assert names(host) == {network}


def test_a_filter_that_only_looks_like_the_vapps_is_refused_by_up_and_left_by_down(
    host: Host,
) -> None:
    name, uuid = filter_name(DESIGN.vapp), str(uuid4())
    define(host, WEB)
    define_filter(host, name, f"<filter name='{name}'><uuid>{uuid}</uuid></filter>")
    try:
        with pytest.raises(VcloudError, match=f"the network filter '{name}' exists already"):
            refuse_foreign_names(DESIGN, observe_vapp(host, DESIGN.vapp))
        assert down(host).left == (f"the network filter '{name}', which vcloud did not make",)
        assert host.connection.nwfilterLookupByName(name).UUIDString() == uuid
    finally:
        remove_filter(host, uuid)
    define_filter(host, name, dict(render_filters(DESIGN))[name])
    define(host, WEB)
    refuse_foreign_names(DESIGN, observe_vapp(host, DESIGN.vapp))
    assert down(host).left == ()
    assert name not in {found.name() for found in host.connection.listAllNWFilters()}


def test_a_vm_that_has_lost_its_mark_goes(host: Host) -> None:
    """Its UUID is the one that vcloud computes."""
    define(host, WEB)
    host.connection.lookupByName(WEB.domain).setMetadata(
        libvirt.VIR_DOMAIN_METADATA_ELEMENT,
        None,
        "vcloud",
        NAMESPACE,
        libvirt.VIR_DOMAIN_AFFECT_CONFIG,
    )
    assert down(host).left == ()
    assert names(host) == set()


def test_a_clone_keeps_its_disks_also_those_that_it_shares(host: Host, pool: StoragePool) -> None:
    """virt-clone copies the mark, and calls the copy of a disk like a disk. Who copies only the
    definition has the same disk in two domains.
    """
    copy, data = f"root.{WEB.domain}-clone.qcow2", f"vm.{WEB.domain}.data-clone.qcow2"
    define(host, WEB)
    define(host, WEB, f"{WEB.domain}-clone", str(uuid4()), copy)
    define(host, WEB, "elsewhere", str(uuid4()), data)
    define(host, WEB, "sharing", str(uuid4()), DATA)
    for name in (copy, data, DATA, ROOT):
        pool.make_empty(name)
    gone = down(host)
    assert names(host) == {f"{WEB.domain}-clone", "elsewhere", "sharing"}
    assert volumes(pool) == {copy, data, DATA}
    assert f"the volume '{DATA}', which the domain 'sharing' uses" in gone.left
    assert len(gone.left) == 4


def test_a_copy_of_a_disk_stays_and_what_it_is_based_on(host: Host, pool: StoragePool) -> None:
    define(host, WEB)
    pool.make_disk(DATA, 1 << 20)
    pool.make_disk(ROOT, 1 << 20)
    pool.make_overlay(f"{DATA}.before", pool.path(DATA))
    assert down(host).left == (
        f"the volume '{DATA}.before', which vcloud did not make",
        f"the volume '{DATA}', which '{DATA}.before' is based on",
    )
    assert volumes(pool) == {DATA, f"{DATA}.before"}


def test_an_external_snapshot_of_the_vapps_own_vm_goes_with_it(
    host: Host, pool: StoragePool
) -> None:
    """virsh puts another file in the place of the disk, beside it."""
    snapshot = f"root.{WEB.domain}.before"
    define(host, WEB, volume=snapshot)
    pool.make_disk(ROOT, 1 << 20)
    pool.make_overlay(snapshot, pool.path(ROOT))
    assert disk_users(host)[pool.path(snapshot)] == {WEB.domain}
    assert down(host).left == ()
    assert volumes(pool) == set()
