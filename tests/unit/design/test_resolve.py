"""From a file as users write it, with the shipped recipes, to the design."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.design_builder import vm_named
from tests.vapps import SMALL, TWO_HOMES, design_of_text, shop, vapp_of
from vcloud.data import images_dir
from vcloud.design.model import Design, FlowPath, Nic, Role
from vcloud.design.origin import FromControl, FromFile, Product
from vcloud.errors import RefusedError, SpecError
from vcloud.files import Folder
from vcloud.pipeline import design_of
from vcloud.spec.load import parse_vapp
from vcloud.values import Action, Mode, Protocol, Service


@pytest.fixture(scope="module")
def relay() -> Design:
    return design_of_text(TWO_HOMES)


def ends(design: Design, flow: str) -> list[str]:
    """The paths of a flow as `gate-1/eth0 -> store/eth0`."""
    names = {id(nic): f"{vm.name}/{nic.ifname}" for vm in design.workloads for nic in vm.nics}

    def name(nic: Nic | None) -> str:
        return names[id(nic)] if nic else "internet"

    paths: Sequence[FlowPath] = next(item for item in design.flows if item.id == flow).paths
    return [f"{name(path.source)} -> {name(path.target)}" for path in paths]


def test_a_count_makes_numbered_vms_and_no_count_keeps_the_name(relay: Design) -> None:
    assert [vm.name for vm in relay.workloads] == ["gate-1", "gate-2", "store", "bench"]
    assert [vm.tier for vm in relay.workloads] == ["gate", "gate", "store", "bench"]


def test_counting_up_changes_nothing_of_those_who_are_there() -> None:
    one, three = shop(web_count="1"), shop(web_count="3")
    assert vm_named(one, "web-1") == vm_named(three, "web-1")
    assert [vm.name for vm in three.workloads] == ["web-1", "web-2", "web-3", "api", "db"]


def test_the_order_in_the_file_gives_everybody_the_same_addresses(relay: Design) -> None:
    lines = TWO_HOMES.splitlines(keepends=True)
    where = next(number for number, line in enumerate(lines) if "  gate:" in line)
    moved = design_of_text(
        "".join(
            [*lines[:where], lines[where + 2], lines[where + 1], lines[where], *lines[where + 3 :]]
        )
    )
    assert {vm.name: vm.nics for vm in moved.workloads} == {
        vm.name: vm.nics for vm in relay.workloads
    }


def test_every_name_and_address_is_there_once(relay: Design) -> None:
    nics = [nic for vm in relay.vms for nic in vm.nics]
    for values in (
        [nic.mac for nic in nics],
        [nic.tap for nic in nics],
        [nic.address4 for nic in nics if nic.address4],
        [nic.address6 for nic in nics if nic.address6],
        [vm.uuid for vm in relay.vms],
        [vm.machine_id for vm in relay.vms],
        [vm.domain for vm in relay.vms],
    ):
        assert len(set(values)) == len(values)


def test_a_vm_in_two_zones_has_a_nic_in_each_in_the_files_order(relay: Design) -> None:
    assert [(nic.zone, nic.ifname, nic.network) for nic in vm_named(relay, "gate-1").nics] == [
        ("front", "eth0", "relay.front"),
        ("back", "eth1", "relay.back"),
    ]


def test_nics_are_isolated_but_in_an_open_zone(relay: Design) -> None:
    assert {nic.zone: nic.isolated for vm in relay.workloads for nic in vm.nics} == {
        "front": True,
        "back": True,
        "lab": False,
    }
    assert not any(nic.isolated for vm in relay.appliances for nic in vm.nics)


def test_a_zone_is_inspected_because_a_detector_watches_it(relay: Design) -> None:
    """Nobody asked for an IPS; without one the detector would be a promise that nobody keeps."""
    assert relay.inspection.zones == ("back",)
    assert relay.inspection.mode is Mode.PREVENT
    zone = relay.zone("back")
    assert (zone.network.name, zone.inner.name, zone.gateway.network) == (
        "relay.back",
        "relay.back.inner",
        "relay.back.inner",
    )
    assert relay.ips is not None
    assert [(nic.network, nic.ifname) for nic in relay.ips.nics] == [
        ("relay.back", "v-back"),
        ("relay.back.inner", "f-back"),
    ]


def test_offloads_are_plain_exactly_on_the_path_that_is_inspected(relay: Design) -> None:
    for vm in relay.vms:
        for nic in vm.nics:
            assert nic.plain_offloads == (nic.zone == "back"), f"{vm.name} {nic.ifname}"


def test_without_inspection_there_is_no_ips() -> None:
    design = design_of_text(SMALL)
    assert design.ips is None
    assert design.appliances == (design.firewall,)
    assert design.zones[0].inner == design.zones[0].network


def test_the_firewall_has_a_nic_in_every_zone_and_its_uplink_last(relay: Design) -> None:
    assert [nic.ifname for nic in relay.firewall.nics] == ["z-front", "z-back", "z-lab", "uplink"]
    assert [zone.gateway for zone in relay.zones] == list(relay.firewall.nics[:-1])
    assert relay.firewall.nics[-1].address4 is None


def test_a_flow_between_zones_is_every_pair_and_nobody_with_himself(relay: Design) -> None:
    """The target is reached at its NIC in the zone that the flow names."""
    assert ends(relay, "reads") == [
        "gate-1/eth1 -> gate-2/eth1",
        "gate-1/eth1 -> store/eth0",
        "gate-2/eth1 -> gate-1/eth1",
        "gate-2/eth1 -> store/eth0",
    ]


def test_a_flow_from_the_internet_is_published_port_by_port(relay: Design) -> None:
    flow = relay.flows[0]
    assert ends(relay, "visits") == ["internet -> gate-1/eth0", "internet -> gate-2/eth0"]
    assert flow.services == (Service(Protocol.TCP, 80, 80), Service(Protocol.TCP, 9000, 9002))
    assert flow.publish == (Service(Protocol.TCP, 8080, 8080), Service(Protocol.TCP, 9100, 9102))


def test_ends_meet_in_the_zone_that_they_share(relay: Design) -> None:
    assert ends(relay, "trials") == ["bench/eth0 -> store/eth1"]


def test_the_way_out_is_by_the_first_nic(relay: Design) -> None:
    assert ends(relay, "fetches") == ["store/eth0 -> internet"]
    assert relay.flows[-1].publish == ()


def test_a_disk_is_mounted_where_the_file_says_or_else_where_the_image_says(relay: Design) -> None:
    assert [
        (disk.name, disk.size, disk.target, disk.mount, disk.volume)
        for disk in vm_named(relay, "store").disks
    ] == [
        ("data", 1 << 30, "vdb", "/var/lib/postgresql", "vm.relay.store.data.qcow2"),
        ("extra", 64 << 20, "vdc", "/srv", "vm.relay.store.extra.qcow2"),
    ]


def test_a_disk_comes_before_what_is_mounted_in_it_and_keeps_its_letter() -> None:
    disks = "b: {size: 1G, mount: /m/a/b}, a: {size: 1G, mount: /m/a}, raw: 1G"
    design = design_of_text(SMALL.replace("zone: dmz}", f"zone: dmz, disks: {{{disks}}}}}"))
    assert [(disk.mount, disk.target) for disk in vm_named(design, "web").disks] == [
        ("/m/a", "vdc"),
        ("", "vdd"),
        ("/m/a/b", "vdb"),
    ]


def test_a_disk_is_not_mounted_where_the_image_mounts_another() -> None:
    disks = "data: 1G, extra: {size: 1G, mount: /var/lib/postgresql}"
    with pytest.raises(SpecError) as raised:
        design_of_text(
            SMALL.replace("nginx, zone: dmz}", f"postgres, zone: dmz, disks: {{{disks}}}}}")
        )
    (problem,) = raised.value.problems
    assert (problem.line, problem.field) == (5, "vms.web.disks.extra.mount")
    assert problem.what == "the disk 'data' is already mounted at /var/lib/postgresql"


@pytest.mark.parametrize("name", ["base", "firewall", "ips"])
def test_a_file_that_is_called_like_a_recipe_is_still_the_users_file(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).touch()
    others = f"  web: {{image: {{file: {name}}}, zone: dmz}}\n  plain: {{image: base, zone: dmz}}\n"
    design = design_of(vapp_of(SMALL.partition("  web:")[0] + others, tmp_path))
    web, plain = design.workloads
    assert (web.image.recipe, web.image.source) == ("", str(tmp_path / name))
    assert plain.image.recipe == str(images_dir() / "base")
    assert design.firewall.image.recipe == str(images_dir() / "firewall")


@pytest.mark.parametrize(
    ("image", "said", "mebibytes"),
    [
        ("postgres", "", 512),
        ("postgres", ", memory: 1G", 1024),
        ("nginx", "", 384),
        ("./own", "", 640),
        ("{file: own.qcow2}", "", 384),
    ],
)
def test_a_vm_has_the_memory_that_it_says_or_else_its_image(
    tmp_path: Path, image: str, said: str, mebibytes: int
) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "image.yaml").write_text("memory: 640M\n")
    (tmp_path / "own.qcow2").touch()
    text = SMALL.replace("{image: nginx, zone: dmz}", f"{{image: {image}, zone: dmz{said}}}")
    assert vm_named(design_of(vapp_of(text, tmp_path)), "web").memory == mebibytes << 20


def test_the_shop_is_what_its_file_says() -> None:
    design = shop(db_password="first-choice")
    assert [zone.name for zone in design.zones] == ["dmz", "app", "cde"]
    assert design.zone("cde").holds == ("cardholder-data",)
    assert design.inspection.zones == ("dmz", "app", "cde")
    assert [
        (item.id, item.kind, item.zones, item.action, item.at_least)
        for item in design.inspection.detectors
    ] == [
        ("card-number-leaving-app-cde", "card-number", ("app", "cde"), Action.BLOCK, 1),
        ("order-list-leaving-app-cde", "regex", ("app", "cde"), Action.ALERT, 3),
    ]
    assert design.inspection.detectors[0].excepted == ("acquirer",)
    db, api = vm_named(design, "db"), vm_named(design, "api")
    assert (db.memory, db.ready.tcp, api.after, api.role) == (
        512 << 20,
        5432,
        ("db",),
        Role.WORKLOAD,
    )
    assert [(file.path, file.mode, file.owner) for file in db.files] == [
        ("/etc/shop/schema.sql", 0o640, "root:postgres")
    ]
    assert b"first-choice" in db.files[0].content
    assert all(isinstance(flow.origin, FromFile) and flow.origin.line > 0 for flow in design.flows)


def test_every_part_says_which_line_of_the_file_asked_for_it() -> None:
    lines = TWO_HOMES.splitlines()
    design = design_of(parse_vapp(TWO_HOMES.encode(), Folder(Path()), "/srv/relay.yaml"))
    for flow in design.flows:
        assert isinstance(flow.origin, FromFile)
        assert f"id: {flow.id}," in lines[flow.origin.line - 1]
    origins = {vm.name: str(vm.origin) for vm in design.vms}
    assert (
        origins["store"]
        == f"relay.yaml:{1 + next(index for index, line in enumerate(lines) if '  store:' in line)}"
    )
    assert (origins["firewall"], origins["ips"]) == ("vcloud", "vcloud")
    assert isinstance(design.inspection.detectors[0].origin, FromFile)
    assert isinstance(design.inspection.origin, FromFile)
    assert design_of_text(SMALL).inspection.origin == Product()


def test_an_origin_reads_like_what_it_points_to() -> None:
    assert [
        str(origin)
        for origin in (
            FromFile("shop.yaml", 12),
            FromControl("pci-dss", "4.0.1", "1.3.1"),
            Product(),
        )
    ] == [
        "shop.yaml:12",
        "pci-dss@4.0.1 1.3.1",
        "vcloud",
    ]


def test_the_name_of_the_file_in_an_origin_is_text_on_one_line() -> None:
    design = design_of(parse_vapp(SMALL.encode(), Folder(Path()), "/etc/a\nb\udcff é.yaml"))
    assert design.file == "a_b_ é.yaml"
    assert str(design.workloads[0].origin) == "a_b_ é.yaml:5"


def test_who_comes_after_a_tier_waits_for_each_of_it() -> None:
    design = design_of_text(
        SMALL.replace("zone: dmz}", "zone: dmz, count: 2}")
        + "  late: {image: nginx, zone: dmz, after: web}\n"
    )
    assert vm_named(design, "late").after == ("web-1", "web-2")


@pytest.mark.parametrize(
    "section",
    [
        "dr: {site: backup, rpo: 15m, rto: 10m}",
    ],
)
def test_what_cannot_be_enforced_is_refused_by_name(section: str) -> None:
    with pytest.raises(RefusedError, match=section.partition(":")[0]):
        design_of_text(f"{SMALL}{section}\n")
