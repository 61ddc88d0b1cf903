"""Whose the cores of a host are, and who is pinned where, on libvirt's own test driver, whose host has
16 processors.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.standing import manifest_of
from tests.vapps import design_of_text
from vcloud.design.model import Design
from vcloud.errors import HostError, RefusedError
from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.cores import (
    cores_for,
    cores_of_unmanaged,
    cores_of_vapps,
    keep_off,
    keep_others_off,
    pin,
    release,
    topology_of,
)
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.manifests import PREFIX, delete_manifest, read_manifest, write_manifest
from vcloud.hosts.metadata import Record, parse, read_record, write_record
from vcloud.hosts.uplink import choosing_uplink
from vcloud.placement.cores import NO_CORES, Cores
from vcloud.plan.facts import domain_facts
from vcloud.plan.formats import CORES
from vcloud.plan.manifest import Manifest

PRESENT = frozenset(range(8))
"""The test driver lets a domain be pinned to the first eight only."""
DOMAIN = """\
<domain type="test">
  <name>{name}</name>
  <memory>65536</memory>
  <vcpu{cpuset}>2</vcpu>
  {tune}
  <os><type>hvm</type></os>
</domain>
"""


@pytest.fixture
def host() -> Iterator[Host]:
    """The test driver's usual host, without its usual domain."""
    with open_host(HostRef("t", "test:///default")) as opened:
        opened.connection.lookupByName("test").destroy()
        yield opened


def design(name: str, isolation: str = "") -> Design:
    return design_of_text(
        f"vcloud: 1\nname: {name}\nzones: {{dmz: {{}}}}\nvms: {{web: {{image: base, zone: dmz}}}}\n{isolation}"
    )


def stands(host: Host, vapp: str, owned: tuple[int, ...] = ()) -> None:
    cores = (("web", owned),) if owned else ()
    write_manifest(host, replace(manifest_of(design(vapp)), cores=cores, owned=owned))


def define(host: Host, name: str, tune: str = "", cpuset: str = "") -> None:
    host.connection.defineXML(DOMAIN.format(name=name, tune=tune, cpuset=cpuset)).create()


def pins(host: Host, name: str) -> dict[str, frozenset[int]]:
    return dict(domain_facts(parse(host.connection.lookupByName(name).XMLDesc())).pins)


def test_libvirt_tells_the_cores(host: Host) -> None:
    assert topology_of(host).processors == frozenset(range(16))


def test_a_manifest_says_which_cores_are_the_vapps_own(host: Host) -> None:
    stands(host, "bank", (1, 2))
    stands(host, "shop")
    found = read_manifest(host, "bank")
    assert isinstance(found, Manifest)
    assert found.cores_of("web") == (1, 2)
    assert cores_of_vapps(host, but="shop") == {1, 2}
    assert cores_of_vapps(host, but="bank") == frozenset()
    delete_manifest(host, "bank")
    assert cores_of_vapps(host, but="shop") == frozenset()


def test_cores_are_open_to_every_release_and_a_record_without_sense_stops_everybody(
    host: Host,
) -> None:
    stands(host, "bank", (1, 2))
    record = read_record(host, f"{PREFIX}bank")
    assert record is not None
    assert record.attributes[CORES] == "1-2"
    write_record(host, Record(record.name, record.uuid, {**record.attributes, CORES: "all"}))
    with pytest.raises(HostError, match="which cores the vApp 'bank' has"):
        cores_of_vapps(host, but="shop")


def test_what_somebody_has_pinned_by_definition_is_theirs(host: Host) -> None:
    define(host, "own", '<cputune><vcpupin vcpu="0" cpuset="5"/></cputune>')
    define(host, "wide", '<cputune><vcpupin vcpu="0" cpuset="0-15"/></cputune>')
    define(host, "all", cpuset=' cpuset="8-9"')
    define(host, "shop.web", '<cputune><vcpupin vcpu="0" cpuset="7"/></cputune>')
    assert cores_of_unmanaged(host, but="shop") == {5, 8, 9}


def test_a_running_vm_is_pinned_and_released(host: Host) -> None:
    define(host, "shop.web")
    pin(host, "shop.web", (3, 6))
    assert pins(host, "shop.web") == {
        "0": frozenset({3}),
        "1": frozenset({6}),
        "emulator": frozenset({3, 6}),
    }
    release(host, "shop.web", frozenset({0, 1}))
    assert pins(host, "shop.web")["0"] == PRESENT - {0, 1}


def test_vms_of_others_are_kept_off_the_cores_of_a_vapp(host: Host) -> None:
    """A name that begins like those of the vApp makes no VM one of it."""
    for name in ("bank.web", "bank.evil", "shop.web", "somebody"):
        define(host, name)
    pin(host, "bank.web", (1, 2))
    own = {"bank.web"}
    moved = keep_others_off(host, own, frozenset({1, 2}))
    assert moved == ("bank.evil", "shop.web", "somebody")
    assert set(pins(host, "somebody").values()) == {PRESENT - {1, 2}}
    assert pins(host, "bank.web")["0"] == {1}
    # The second time nothing is left to do, and who is elsewhere already is not moved.
    assert keep_others_off(host, own, frozenset({1, 2})) == ()


def test_nobody_is_moved_for_nothing(host: Host) -> None:
    define(host, "shop.web")
    assert not keep_off(host, "shop.web", frozenset())
    assert not keep_off(host, "missing", frozenset({1}))
    pin(host, "shop.web", (3, 4))
    assert not keep_off(host, "shop.web", frozenset({1}))
    assert pins(host, "shop.web")["0"] == {3}
    assert keep_off(host, "shop.web", frozenset({4}))


def test_vapps_that_choose_at_the_same_time_never_get_the_same_core(host: Host) -> None:
    """The host has 15 cores to give: of eight vApps with two virtual CPUs each, one finds too few."""

    def choose(name: str) -> Cores | None:
        wanted = design(name, "isolation: {cpus: own}")
        with choosing_uplink(host):
            try:
                cores = cores_for(host, wanted, {})
            except RefusedError:
                return None
            pins, owned = tuple(cores.pins.items()), tuple(sorted(cores.owned))
            write_manifest(host, replace(manifest_of(wanted), cores=pins, owned=owned))
        return cores

    with ThreadPoolExecutor() as pool:
        found = [*pool.map(choose, [f"v{number}" for number in range(8)])]
    given = [core for cores in found if cores for core in cores.owned]
    assert sum(cores is None for cores in found) == 1
    assert len(given) == len({*given}) == 14
    assert 0 not in given


def test_a_vapp_that_stands_has_the_same_cores_again(host: Host) -> None:
    wanted = design("bank", "isolation: {cpus: own}")
    first = cores_for(host, wanted, {})
    stands(host, "shop", (1,))
    assert cores_for(host, wanted, {}).pins != first.pins
    stands(host, "shop", (9,))
    assert cores_for(host, wanted, dict(first.pins)) == first
    define(host, "late", '<cputune><vcpupin vcpu="0" cpuset="1"/></cputune>')
    assert cores_for(host, wanted, dict(first.pins)) == first
    assert 1 not in cores_for(host, wanted, {}).owned
    assert cores_for(host, design("bank"), dict(first.pins)) == NO_CORES
