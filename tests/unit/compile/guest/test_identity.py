"""The lines that make a booted image one VM. That a guest applies them is shown in tests/netns."""

from __future__ import annotations

import base64
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.design_builder import build_design, vm_named
from tests.vapps import TWO_HOMES, design_of_text, shop
from vcloud.compile.guest.identity import host_key_lines, identity_lines
from vcloud.design.model import Design, GuestFile, Nic
from vcloud.views.render import UPLINK

DIRECTIVES = (
    "hostname",
    "machine-id",
    "nic",
    "sysctl",
    "addr",
    "neigh",
    "route",
    "rule",
    "route-mark",
    "dir",
    "file",
    "disk",
)


@pytest.fixture(scope="module")
def relay() -> Design:
    return design_of_text(TWO_HOMES)


def lines(design: Design, name: str, *directives: str) -> list[str]:
    """The lines of one VM with these directives."""
    return [
        line
        for line in identity_lines(design, vm_named(design, name), UPLINK)
        if line.split()[0] in (directives or DIRECTIVES)
    ]


def content(design: Design, name: str, path: str) -> bytes:
    return next(
        base64.b64decode(line.split()[-1])
        for line in lines(design, name, "file")
        if line.split()[1] == path
    )


def addresses(nic: Nic) -> tuple[str, str]:
    return str(nic.address4), str(nic.address6)


def test_every_line_is_a_directive_of_the_grammar(relay: Design) -> None:
    for machine in relay.vms:
        for line in identity_lines(relay, machine, UPLINK):
            assert line.split(" ")[0] in DIRECTIVES
            assert re.fullmatch(r"[!-~]+( [!-~]+)*", line), line


def test_a_vm_is_called_what_the_file_calls_it_and_finds_each_nic_by_its_mac(relay: Design) -> None:
    gate = vm_named(relay, "gate-1")
    assert lines(relay, "gate-1", "hostname", "machine-id", "nic") == [
        "hostname gate-1",
        f"machine-id {gate.machine_id}",
        f"nic {gate.nics[0].mac} eth0",
        f"nic {gate.nics[1].mac} eth1",
    ]


def test_the_firewall_is_the_only_neighbour_of_a_vm() -> None:
    """An address of its own size, a neighbour whose MAC is fixed, and one way out through it:
    nothing else is on the link.
    """
    design = shop()
    nic, gateway = vm_named(design, "db").nics[0], design.zone("cde").gateway
    (four, six), (gate4, gate6) = addresses(nic), addresses(gateway)
    assert lines(design, "db", "addr", "neigh", "route", "rule") == [
        f"addr eth0 {four}/32",
        f"neigh eth0 {gate4} {gateway.mac}",
        f"route eth0 {gate4}/32",
        f"route eth0 0.0.0.0/0 via {gate4}",
        f"addr eth0 {six}/128",
        f"neigh eth0 {gate6} {gateway.mac}",
        f"route eth0 {gate6}/128",
        f"route eth0 ::/0 via {gate6}",
    ]


def test_of_several_nics_each_answers_by_itself_and_the_first_has_the_default_route(
    relay: Design,
) -> None:
    """Also the first: a neighbour of the second NIC may ask it, and its answer must not leave by
    the second.
    """
    first, front = vm_named(relay, "gate-1").nics[0], relay.zone("front")
    assert [
        line
        for line in lines(relay, "gate-1", "route", "rule")
        if ":" not in line and ("eth0" in line or line.endswith("100"))
    ] == [
        f"route eth0 {front.gateway.address4}/32",
        f"route eth0 0.0.0.0/0 via {front.gateway.address4}",
        f"route eth0 0.0.0.0/0 via {front.gateway.address4} table 100",
        f"rule {first.address4} table 100",
    ]
    nic, zone = vm_named(relay, "gate-1").nics[1], relay.zone("back")
    gate = zone.gateway.address4
    assert [
        line
        for line in lines(relay, "gate-1", "addr", "route", "rule")
        if ":" not in line and ("eth1" in line or line.endswith("101"))
    ] == [
        f"addr eth1 {nic.address4}/32",
        f"route eth1 {gate}/32",
        f"route eth1 {zone.prefix4} via {gate} src {nic.address4}",
        f"route eth1 0.0.0.0/0 via {gate} table 101",
        f"rule {nic.address4} table 101",
    ]


def test_each_vm_has_one_default_route_per_family_outside_its_tables(relay: Design) -> None:
    for machine in relay.workloads:
        routes = [line for line in lines(relay, machine.name, "route") if "table" not in line]
        assert [
            sum(f" {anywhere} " in line for line in routes) for anywhere in ("0.0.0.0/0", "::/0")
        ] == [1, 1]


def test_in_an_open_zone_everybody_is_a_neighbour(relay: Design) -> None:
    nic, zone = vm_named(relay, "bench").nics[0], relay.zone("lab")
    assert lines(relay, "bench", "addr", "neigh", "route")[:2] == [
        f"addr eth0 {nic.address4}/20",
        f"route eth0 0.0.0.0/0 via {zone.gateway.address4}",
    ]
    assert not lines(relay, "bench", "neigh")


def test_the_firewall_knows_every_vm_and_asks_nobody(relay: Design) -> None:
    neighbours = lines(relay, "firewall", "neigh")
    for machine in relay.workloads:
        for nic in machine.nics:
            for address in addresses(nic):
                assert (
                    f"neigh {relay.zone(nic.zone).gateway.ifname} {address} {nic.mac}" in neighbours
                )
    assert len(neighbours) == 2 * sum(len(machine.nics) for machine in relay.workloads)


def test_the_firewall_routes_to_each_vm_alone_but_in_an_open_zone_to_all(relay: Design) -> None:
    routes, addresses4 = lines(relay, "firewall", "route"), lines(relay, "firewall", "addr")
    assert f"route z-front {vm_named(relay, 'gate-1').nics[0].address4}/32" in routes
    assert not [line for line in routes if "z-lab" in line]
    assert f"addr z-lab {relay.zone('lab').gateway.address4}/20" in addresses4
    assert f"addr z-front {relay.zone('front').gateway.address4}/32" in addresses4


def test_the_firewall_forwards_and_leaves_by_the_uplink(relay: Design) -> None:
    assert "sysctl net/ipv4/ip_forward 1" in lines(relay, "firewall", "sysctl")
    assert [line for line in lines(relay, "firewall", "addr", "route") if "uplink" in line] == [
        "addr uplink 198.18.0.2/16",
        "route uplink 0.0.0.0/0 via 198.18.0.1",
        "addr uplink 2001:db8:198:18::2/64",
        "route uplink ::/0 via 2001:db8:198:18::1",
    ]


def test_the_ips_has_nics_and_no_address(relay: Design) -> None:
    """Nobody can speak to it by network."""
    directives = {line.split()[0] for line in lines(relay, "ips")}
    assert directives == {"hostname", "machine-id", "nic", "sysctl"}
    assert "sysctl net/ipv4/ip_forward 0" in lines(relay, "ips", "sysctl")


def test_no_workload_forwards(relay: Design) -> None:
    for machine in relay.workloads:
        assert not [line for line in lines(relay, machine.name, "sysctl") if "forward" in line]


def test_names_resolve_to_the_nic_by_which_a_vm_is_reached(relay: Design) -> None:
    """`store` is in `back` and `lab`: those of `lab` meet it there, the others in `back`."""
    store = vm_named(relay, "store")
    for asking, index in (("bench", 1), ("gate-1", 0)):
        hosts = content(relay, asking, "/etc/hosts").decode().splitlines()
        assert [line for line in hosts if line.endswith(" store")] == [
            f"{address} store" for address in addresses(store.nics[index])
        ]


def test_a_tier_resolves_to_all_of_its_vms(relay: Design) -> None:
    hosts = content(relay, "bench", "/etc/hosts").decode()
    assert len(re.findall(r"^\S+ gate-\d gate$", hosts, re.MULTILINE)) == 4


def test_files_carry_content_mode_and_owner() -> None:
    design = shop(db_password="a b\tc")
    line = next(line for line in lines(design, "api", "file") if "/etc/shop-api.conf" in line)
    assert line.startswith("file /etc/shop-api.conf 0600 root:root ")
    assert content(design, "api", "/etc/shop-api.conf").endswith(b"password=a b\tc\n")


def test_disks_are_named_with_where_they_go() -> None:
    assert lines(shop(), "db", "disk") == ["disk data /var/lib/postgresql"]


def test_keys_that_may_log_in_are_files_of_root_alone() -> None:
    key = "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0 " + bytes(32)).decode()
    design = design_of_text(f"{TWO_HOMES}authorized_keys: ['{key}']\n")
    assert "dir /root/.ssh 0700 root:root" in lines(design, "bench", "dir")
    assert content(design, "bench", "/root/.ssh/authorized_keys").decode().startswith(key)
    assert not lines(design, "firewall", "dir", "file")


def test_the_firewall_routes_nothing_without_a_mark_before_it_routes_anything(
    relay: Design,
) -> None:
    directives = [line.split()[0] for line in lines(relay, "firewall") if line.split()[0] != "nic"]
    assert directives.index("route-mark") < directives.index("sysctl")
    assert not [
        line
        for vm in relay.vms
        if vm is not relay.firewall
        for line in lines(relay, vm.name, "route-mark")
    ]


def test_the_host_key_is_no_part_of_what_is_rendered(relay: Design) -> None:
    private, public = host_key_lines(b"PRIVATE", "ssh-ed25519 AAAA")
    assert private.startswith("file /etc/ssh/ssh_host_ed25519_key 0600 root:root ")
    assert base64.b64decode(public.split()[-1]) == b"ssh-ed25519 AAAA\n"
    assert not [
        line for machine in relay.vms for line in lines(relay, machine.name) if "ssh_host" in line
    ]


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_no_content_of_a_file_becomes_a_line(text: str) -> None:
    design = build_design("dmz", {"web": "dmz"})
    hostile = GuestFile(
        "/etc/x", f"{text}\nsysctl net/ipv4/ip_forward 1\n".encode(), 0o644, "root:root"
    )
    machine = replace(design.workloads[0], files=(hostile,))
    result = identity_lines(design, machine, UPLINK)
    assert len(result) == len(identity_lines(design, design.workloads[0], UPLINK)) + 1
    assert all("\n" not in line for line in result)


@pytest.mark.parametrize(
    ("target", "zone"),
    [("y", "app"), ("zone:app", "app"), ("zone:cde", "cde"), ("cde", "cde"), ("x", "app")],
)
def test_a_name_stands_for_the_nic_that_a_flow_leads_to(target: str, zone: str) -> None:
    """Where no flow leads anywhere, or to the VM as such, it is the NIC in a common zone."""
    design = design_of_text(f"""\
vcloud: 1
name: names
zones: {{app: {{}}, cde: {{}}}}
vms: {{x: {{image: base, zone: app, count: 2}}, y: {{image: base, zone: [app, cde]}}}}
flows: [{{from: x, to: "{target}", service: tcp/5432}}]
""")
    held = next(nic for nic in vm_named(design, "y").nics if nic.zone == zone)
    hosts = content(design, "x-1", "/etc/hosts").decode().splitlines()
    assert [line.split()[0] for line in hosts if line.endswith(" y")] == list(addresses(held))
