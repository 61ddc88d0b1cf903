"""Locks, manifests and the uplink's network on libvirt's own test driver: a real libvirt without a
daemon.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import libvirt
import pytest

from tests.design_builder import UPLINK, build_design
from vcloud.design.addressing import uuid_of
from vcloud.errors import HostError
from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.inventory import HostRef, UplinkConfig
from vcloud.hosts.lock import PREFIX, LockedError, named_lock, vapp_lock
from vcloud.hosts.machines import resume_domain
from vcloud.hosts.manifests import PREFIX as MANIFEST
from vcloud.hosts.manifests import delete_manifest, read_manifest, vapp_names, write_manifest
from vcloud.hosts.metadata import (
    Record,
    parse,
    read_record,
    remove_record,
    write_record,
)
from vcloud.hosts.observe import observe_domain, observe_vapp
from vcloud.hosts.uplink import (
    addresses_of,
    choosing_uplink,
    fits,
    routes_in,
    uplink_for,
)
from vcloud.iproute import cards_in
from vcloud.marks import NO_VM, VmDigests
from vcloud.plan.formats import FORMAT, Unreadable, encoded
from vcloud.plan.manifest import Manifest, Phase
from vcloud.untrusted import UnreadableError

DIGESTS = VmDigests("r", "h", "i")
CONFIG = UplinkConfig(
    network="uplink", prefix4=IPv4Network("198.18.0.0/16"), gateway4=IPv4Address("198.18.0.1")
)


@pytest.fixture
def host() -> Iterator[Host]:
    with open_host(HostRef("t", "test:///default", uplink=CONFIG)) as opened:
        yield opened


def manifest(vapp: str, phase: Phase = Phase.READY, address: str = "198.18.200.1/16") -> Manifest:
    design = build_design(zones="dmz", vms={"web": "dmz x2"}, vapp=vapp)
    uplink = dataclasses.replace(UPLINK, address4=type(UPLINK.address4)(address))
    vms = tuple((vm.name, DIGESTS) for vm in design.vms)
    return Manifest(
        phase, design, uplink, "tcg", (), vms, (), "", "f", "", "2030-01-01T00:00:00+00:00", "0"
    )


def network_names(host: Host) -> set[str]:
    return {network.name() for network in host.connection.listAllNetworks()}


def holder(**changes: str) -> dict[str, str]:
    """What a process of this machine writes, with changes."""
    with open_host(HostRef("other", "test:///default")) as other, vapp_lock(other, "shop", "up"):
        record = read_record(other, PREFIX + "shop")
    assert record is not None
    return dict(record.attributes) | changes


def ended_process() -> str:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        return str(process.pid)


def test_a_record_is_kept_and_removed(host: Host) -> None:
    record = Record("vcloud-x", str(uuid.uuid4()), {"a": "<&\"'>"}, "text & <more>")
    write_record(host, record)
    assert read_record(host, "vcloud-x") == record
    remove_record(host, record.uuid)
    assert read_record(host, "vcloud-x") is None
    remove_record(host, record.uuid)


def test_a_lock_keeps_the_second_one_out_and_names_the_first(host: Host) -> None:
    with vapp_lock(host, "shop", "up") as first:
        with pytest.raises(LockedError) as caught, vapp_lock(host, "shop", "down"):
            pytest.fail("two hold one lock")
        assert f"`vcloud up` on {os.uname().nodename} (process {os.getpid()}" in caught.value.what
        assert f"net-undefine {first.uuid}" in caught.value.hint
        with vapp_lock(host, "other", "up"):
            pass
    with vapp_lock(host, "shop", "down"):
        pass


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_lock_is_released_whatever_happens(host: Host, error: type[BaseException]) -> None:
    with pytest.raises(error), vapp_lock(host, "shop", "up"):
        raise error
    assert PREFIX + "shop" not in network_names(host)


def test_the_second_one_does_not_release_the_lock_of_the_first(host: Host) -> None:
    with vapp_lock(host, "shop", "up"):
        with pytest.raises(LockedError), vapp_lock(host, "shop", "up"):
            pass
        assert PREFIX + "shop" in network_names(host)


def test_the_lock_of_a_process_that_is_gone_is_taken_over(host: Host) -> None:
    write_record(host, Record(PREFIX + "shop", str(uuid.uuid4()), holder(pid=ended_process())))
    with vapp_lock(host, "shop", "up"):
        assert PREFIX + "shop" in network_names(host)


def test_a_number_that_another_process_has_now_does_not_keep_a_lock_alive(host: Host) -> None:
    write_record(host, Record(PREFIX + "shop", str(uuid.uuid4()), holder(started="1")))
    with vapp_lock(host, "shop", "up"):
        pass


@pytest.mark.parametrize("changes", [{"boot": "another machine's"}, {"unknown": "attribute"}])
def test_the_lock_of_a_process_of_which_nothing_is_known_stays(
    host: Host, changes: dict[str, str]
) -> None:
    write_record(
        host, Record(PREFIX + "shop", str(uuid.uuid4()), holder(pid=ended_process(), **changes))
    )
    with pytest.raises(LockedError), vapp_lock(host, "shop", "up"):
        pass
    assert PREFIX + "shop" in network_names(host)


def test_patience_waits_for_a_lock(host: Host) -> None:
    other = str(uuid.uuid4())
    write_record(host, Record("vcloud-x", other, holder()))
    with pytest.raises(LockedError), named_lock(host, "vcloud-x", "x", "up", 0.3):
        pass
    import threading

    threading.Timer(0.3, remove_record, (host, other)).start()
    with named_lock(host, "vcloud-x", "x", "up", 10):
        pass


def test_a_manifest_comes_back_as_it_was(host: Host) -> None:
    written = manifest("shop")
    write_manifest(host, written)
    assert read_manifest(host, "shop") == written
    write_manifest(host, dataclasses.replace(written, firewall="another"))
    again = read_manifest(host, "shop")
    assert isinstance(again, Manifest)
    assert again.firewall == "another"
    assert vapp_names(host) == ("shop",)
    delete_manifest(host, "shop")
    delete_manifest(host, "shop")
    assert read_manifest(host, "shop") is None
    assert vapp_names(host) == ()


def write_newer(host: Host, vapp: str, *, address: str = "198.18.200.1/16") -> None:
    """What a newer release would keep: an envelope as ours, and a body that nobody here can read."""
    envelope, _ = encoded(manifest(vapp, address=address))
    write_record(
        host,
        Record(
            MANIFEST + vapp,
            uuid_of("manifest", vapp),
            envelope | {"format": str(FORMAT + 1), "vcloud": "9.1"},
            "body",
        ),
    )


def test_a_manifest_of_a_newer_release_is_a_state_of_its_own(host: Host) -> None:
    write_newer(host, "shop")
    found = read_manifest(host, "shop")
    assert isinstance(found, Unreadable)
    state = observe_vapp(host, "shop")
    assert (state.manifest, state.unreadable) == (None, found)
    with pytest.raises(HostError, match=r"made by vcloud 9\.1"):
        state.refuse_newer("shop", "h1")
    write_manifest(host, manifest("shop"))
    assert observe_vapp(host, "shop").unreadable is None


def test_a_damaged_manifest_can_be_written_again(host: Host) -> None:
    write_record(host, Record(MANIFEST + "shop", uuid_of("manifest", "shop"), text="bm90IG91cnM="))
    state = observe_vapp(host, "shop")
    assert state.manifest is None
    assert state.unreadable
    assert not state.unreadable.is_newer
    state.refuse_newer("shop", "h1")
    write_manifest(host, manifest("shop"))
    assert isinstance(read_manifest(host, "shop"), Manifest)


DOMAIN = "<domain type='test'><name>{name}</name><uuid>{uuid}</uuid>{mark}<memory>1024</memory><os><type>hvm</type></os></domain>"
MARK = (
    "<metadata><vcloud:vm xmlns:vcloud='https://vcloud.dev/ns/1' vapp='shop' name='web-1' role='workload' host-key='ssh-ed25519 AAAA' "
    "root='R' hardware='H' identity='I'/></metadata>"
)


def test_without_a_settled_manifest_the_domains_speak_for_themselves(host: Host) -> None:
    design = manifest("shop").design
    vm = design.workloads[0]
    host.connection.createXML(DOMAIN.format(name=vm.domain, uuid=vm.uuid, mark=MARK)).suspend()
    host.connection.defineXML(DOMAIN.format(name="shop.other", uuid=uuid.uuid4(), mark=""))
    write_manifest(host, manifest("shop", Phase.APPLYING))
    state = observe_vapp(host, "shop")
    marked, foreign = state.domain(vm.domain), state.domain("shop.other")
    assert marked is not None
    assert foreign is not None
    assert (marked.marks.vapp, marked.marks.vm, marked.marks.role, marked.marks.host_key) == (
        "shop",
        "web-1",
        "workload",
        "ssh-ed25519 AAAA",
    )
    assert marked.marks.digests == VmDigests("R", "H", "I")
    assert (marked.running, marked.paused) == (True, True)
    assert (foreign.marks.vapp, foreign.running, foreign.marks.digests) == ("", False, None)
    alone = observe_domain(host, vm.domain)
    assert alone is not None
    assert (alone.name, alone.marks) == (marked.name, marked.marks)
    assert observe_domain(host, "shop.none") is None
    assert state.domain("test") is None, "the test driver's own domain is not of this vApp"


NODE = """\
<node xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>
<domain type='test'><name>shop.web-1</name><memory>1024</memory><os><type>hvm</type></os>
<test:runstate>{state}</test:runstate></domain></node>
"""


@pytest.mark.parametrize(
    ("state", "paused"),
    [
        (libvirt.VIR_DOMAIN_RUNNING, False),
        (libvirt.VIR_DOMAIN_PAUSED, True),
        (libvirt.VIR_DOMAIN_PMSUSPENDED, True),
    ],
)
def test_a_domain_whose_processors_do_not_run_is_paused_whoever_stopped_them(
    tmp_path: Path, state: int, paused: bool
) -> None:
    """A guest can suspend itself. Then only a wake-up brings it back, which libvirt's test driver
    does not know.
    """
    node = tmp_path / f"{state}.xml"
    node.write_text(NODE.format(state=state))
    with open_host(HostRef("t", f"test://{node}")) as host:
        found = observe_domain(host, "shop.web-1")
        assert found is not None
        assert (found.running, found.paused) == (True, paused)
        if state == libvirt.VIR_DOMAIN_PAUSED:
            resume_domain(host, "shop.web-1")
            again = observe_domain(host, "shop.web-1")
            assert again is not None
            assert not again.paused
        if state == libvirt.VIR_DOMAIN_PMSUSPENDED:
            with pytest.raises(HostError, match="virDomainPMWakeup"):
                resume_domain(host, "shop.web-1")


def test_only_what_has_the_uuid_of_its_name_is_ours(host: Host) -> None:
    """A stranger's domain or network of a fitting name is never taken for ours: it would be removed
    as a leftover. Ours stays ours where somebody has removed its mark.
    """
    design = manifest("shop").design
    ours, stolen = design.workloads
    zone = design.zones[0]
    host.connection.createXML(DOMAIN.format(name=ours.domain, uuid=ours.uuid, mark=""))
    host.connection.createXML(DOMAIN.format(name=stolen.domain, uuid=uuid.uuid4(), mark=""))
    host.connection.networkDefineXML(
        f"<network><name>{zone.network.name}</name><uuid>{zone.network.uuid}</uuid><bridge name='{zone.network.bridge}'/></network>"
    )
    host.connection.networkDefineXML(
        "<network><name>shop.stranger</name><bridge name='stranger'/></network>"
    )
    write_manifest(host, manifest("shop"))
    state = observe_vapp(host, "shop")
    assert {domain.name: domain.is_of("shop") for domain in state.domains} == {
        ours.domain: True,
        stolen.domain: False,
    }
    assert {network.name: network.is_of("shop") for network in state.networks} == {
        zone.network.name: True,
        "shop.stranger": False,
    }
    standing = state.domain(ours.domain)
    assert standing is not None
    assert standing.running
    assert standing.marks == NO_VM


def test_an_uplink_of_the_inventory_is_used_as_it_is(host: Host) -> None:
    found = uplink_for(host, "shop")
    assert (found.network, found.bridge, found.gateway4) == ("uplink", "", CONFIG.gateway4)
    assert found.address4.network == CONFIG.prefix4
    assert found.address4.ip >= IPv4Address("198.18.128.0"), "the lower half belongs to the hosts"
    assert uplink_for(host, "shop") == found, "an address does not wander"


def test_the_networks_of_a_host_are_read_from_its_addresses() -> None:
    """Without those of the machine and the link alone."""
    listing = b"""[{"ifname": "eth0", "addr_info": [
        {"family": "inet", "local": "192.0.2.7", "prefixlen": 24, "scope": "global"},
        {"family": "inet6", "local": "2001:db8:5::7", "prefixlen": 64, "scope": "global"},
        {"family": "inet6", "local": "fe80::7", "prefixlen": 64, "scope": "link"}]},
        {"ifname": "lo", "addr_info": [{"local": "127.0.0.1", "prefixlen": 8, "scope": "host"}]}]"""
    cards = list(cards_in(listing))
    networks = {card.name: list(map(str, card.networks)) for card in cards}
    assert networks == {"eth0": ["192.0.2.0/24", "2001:db8:5::/64"], "lo": []}
    addresses = {card.name: list(map(str, card.addresses)) for card in cards}
    assert addresses == {"eth0": ["192.0.2.7", "2001:db8:5::7"], "lo": []}
    assert list(cards_in(b"")) == []


def test_the_other_end_of_a_wire_is_beside_the_host() -> None:
    listing = b"""[{"ifname": "ppp0", "addr_info": [
        {"local": "192.0.2.7", "address": "198.51.100.1", "prefixlen": 32, "scope": "global"}]}]"""
    (card,) = cards_in(listing)
    assert [str(one) for one in (*card.addresses, *card.networks)] == [
        "192.0.2.7",
        "198.51.100.1/32",
    ]


def test_the_networks_that_a_host_reaches_without_a_router_are_read_from_its_routes() -> None:
    """A host whose own address is a /32 or a /128 has its neighbours only there."""
    listing = b"""[{"dst": "default", "dev": "eth0"}, {"dst": "default", "gateway": "192.0.2.1"},
        {"dst": "192.0.2.1", "dev": "eth0", "scope": "link"},
        {"dst": "198.51.100.0/24", "dev": "eth0", "scope": "link"},
        {"dst": "203.0.113.0/24", "gateway": "192.0.2.1", "dev": "eth0"},
        {"dst": "203.0.113.0/24", "via": {"family": "inet6", "host": "fe80::1"}},
        {"dst": "203.0.113.0/24", "nexthops": [{"gateway": "192.0.2.1"}]},
        {"type": "blackhole", "dst": "203.0.113.0/24"}, {"dst": "0.0.0.0/1", "dev": "tun0"},
        {"dst": "2000::/3", "dev": "tun0"}, {"dst": "2001:db8:7::/64", "dev": "eth0"}]"""
    found = list(map(str, routes_in(listing)))
    assert found == ["192.0.2.1/32", "198.51.100.0/24", "2001:db8:7::/64"]
    assert list(routes_in(b"")) == []
    with pytest.raises(UnreadableError):
        list(routes_in(b'[{"dst": "nowhere"}]'))


def test_the_host_has_the_addresses_that_a_libvirt_network_gives_it() -> None:
    """As libvirt's `default` has it, and a network on a bridge of others has not."""
    ours = parse(
        "<network><forward mode='nat'/><ip address='192.168.122.1' netmask='255.255.255.0'/>"
        "<ip family='ipv6' address='fd00:7::1' prefix='64'/><route address='10.0.0.0'/></network>"
    )
    assert set(map(str, addresses_of(ours))) == {"192.168.122.1", "fd00:7::1"}
    theirs = parse("<network><forward mode='bridge'/></network>")
    assert addresses_of(theirs) == set()


@pytest.mark.parametrize(
    "listing",
    [b"{}", b"[[]]", b"[{}]", b'[{"ifname": "a", "addr_info": [{"scope": "global"}]}]', b"no"],
)
def test_a_listing_of_addresses_that_is_none_is_refused(listing: bytes) -> None:
    with pytest.raises(UnreadableError):
        list(cards_in(listing))


def test_two_vapps_never_have_one_address(host: Host) -> None:
    first = uplink_for(host, "shop")
    write_manifest(host, manifest("shop", address=str(first.address4)))
    assert uplink_for(host, "shop") == first, "one's own manifest is not in the way"
    write_manifest(host, manifest("blog", address=str(first.address4)))
    delete_manifest(host, "shop")
    assert uplink_for(host, "shop").address4.ip == first.address4.ip + 1


def test_the_address_of_a_vapp_that_a_newer_release_made_is_taken_too(host: Host) -> None:
    free = uplink_for(host, "shop").address4
    write_newer(host, "other", address=str(free))
    assert uplink_for(host, "shop").address4 != free
    write_newer(host, "other", address="198.18.200.1/16")
    assert uplink_for(host, "shop").address4 == free


def test_where_a_damaged_manifest_does_not_tell_its_address_none_is_chosen(host: Host) -> None:
    """A second vApp would be given the first one's address."""
    write_record(
        host, Record(MANIFEST + "other", uuid_of("manifest", "other"), text="bm90IG91cnM=")
    )
    with pytest.raises(
        HostError, match="vcloud cannot tell which address the vApp 'other' uses"
    ) as refused:
        uplink_for(host, "shop")
    assert "vcloud down other" in refused.value.hint
    delete_manifest(host, "other")
    assert uplink_for(host, "shop").address4


def test_a_full_uplink_is_said(host: Host) -> None:
    config = UplinkConfig(
        bridge="br0", prefix4=IPv4Network("198.51.100.0/28"), gateway4=IPv4Address("198.51.100.1")
    )
    small = Host(dataclasses.replace(host.ref, uplink=config), host.connection)
    assert uplink_for(small, "shop").bridge == "br0"
    for number in range(8, 15):  # the upper half without the broadcast address
        write_manifest(host, manifest(f"v{number}", address=f"198.51.100.{number}/28"))
    with pytest.raises(HostError, match="no address is free"):
        uplink_for(small, "shop")


def changed(**fields: object) -> UplinkConfig:
    return UplinkConfig.model_validate(CONFIG.model_dump() | fields)


def test_what_was_chosen_stays_while_it_fits_the_host(host: Host) -> None:
    """Even where another address would be chosen today, and where another vApp has come to it
    meanwhile.
    """
    chosen = dataclasses.replace(uplink_for(host, "shop"), address4=IPv4Interface("198.18.3.3/16"))
    assert uplink_for(host, "shop", chosen) == chosen
    write_manifest(host, manifest("blog", address="198.18.3.3/16"))
    assert uplink_for(host, "shop", chosen) == chosen


@pytest.mark.parametrize(
    "config",
    [
        changed(network=None, bridge="br0"),
        changed(network="another"),
        changed(prefix4="198.18.0.0/17"),
        changed(gateway4="198.18.0.9"),
        changed(prefix6="2001:db8:1::/64", gateway6="2001:db8:1::1"),
    ],
    ids=["bridge", "network", "prefix", "gateway", "IPv6"],
)
def test_another_uplink_of_the_host_is_noticed(host: Host, config: UplinkConfig) -> None:
    chosen = uplink_for(host, "shop")
    assert fits(chosen, CONFIG)
    assert not fits(chosen, config)
    moved = uplink_for(
        Host(dataclasses.replace(host.ref, uplink=config), host.connection), "shop", chosen
    )
    assert fits(moved, config)


def test_a_vapp_moves_between_the_nat_network_and_a_segment_of_the_inventory(host: Host) -> None:
    plain = Host(dataclasses.replace(host.ref, uplink=None), host.connection)
    natted, chosen = uplink_for(plain, "shop"), uplink_for(host, "shop")
    assert uplink_for(plain, "shop", natted) == natted, "it will be made again as it was"
    assert uplink_for(plain, "shop", chosen) == natted
    assert uplink_for(host, "shop", natted) == chosen


def test_two_vapps_that_choose_at_once_get_two_addresses(host: Host) -> None:
    """As many as there are addresses: each writes its choice before the next one looks."""
    config = UplinkConfig(
        bridge="br0", prefix4=IPv4Network("198.51.100.0/28"), gateway4=IPv4Address("198.51.100.1")
    )
    small = Host(dataclasses.replace(host.ref, uplink=config), host.connection)

    def choose(vapp: str) -> IPv4Address:
        with choosing_uplink(small):
            chosen = uplink_for(small, vapp)
            write_manifest(
                small, dataclasses.replace(manifest(vapp, Phase.APPLYING), uplink=chosen)
            )
        return chosen.address4.ip

    with ThreadPoolExecutor() as pool:
        assert len(set(pool.map(choose, [f"v{number}" for number in range(7)]))) == 7


def test_the_nat_network_avoids_networks_that_are_there(host: Host) -> None:
    """The test driver's own network has 192.168.122.0/24; one more stands where ours would begin."""
    plain = Host(dataclasses.replace(host.ref, uplink=None), host.connection)
    before = uplink_for(plain, "shop").address4.network
    host.connection.networkDefineXML(
        f"<network><name>taken</name><bridge name='b'/><ip address='{before[9]}' netmask='255.255.255.0'/></network>"
    )
    after = uplink_for(plain, "shop")
    assert not after.address4.network.overlaps(before)
    assert after.network == "vcloud-uplink"
    assert after.address6 is not None
    assert after.address6.ip.is_private
    assert "vcloud-uplink" not in network_names(host), "deciding changes nothing"
