"""What `vcloud list` says of a vApp, on libvirt's own test driver."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.design_builder import build_design
from tests.standing import manifest_of
from vcloud.cli.app import app
from vcloud.cli.show import _show_status
from vcloud.compile.libvirt.network import render_network, zone_networks
from vcloud.errors import UsageError
from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.machines import mark_domain, set_token
from vcloud.hosts.manifests import delete_manifest, write_manifest
from vcloud.marks import VmMarks
from vcloud.plan.manifest import Manifest, Phase
from vcloud.views.hosts import lab_picture
from vcloud.views.listing import all_vapps
from vcloud.views.render import UPLINK
from vcloud.views.status import Refused, Status, published_ports, refused_by_vm

URI = "test:///default"
DESIGN = build_design(zones="dmz", vms={"web": "dmz"}, vapp="listed")
DOMAIN = "<domain type='test'><name>{name}</name><uuid>{uuid}</uuid><memory>1024</memory><os><type>hvm</type></os></domain>"


@pytest.fixture
def host() -> Iterator[Host]:
    """With the VMs and networks of a vApp that runs. The test driver's default host is one for the
    whole process while it is open.
    """
    with open_host(HostRef("t", URI)) as opened:
        for vm in DESIGN.vms:
            opened.connection.createXML(DOMAIN.format(name=vm.domain, uuid=vm.uuid))
            mark_domain(opened, vm.domain, VmMarks(DESIGN.vapp, vm.name, vm.role.value))
        for network in (network for zone in DESIGN.zones for network in zone_networks(zone)):
            defined = opened.connection.networkDefineXML(render_network(network, {}))
            defined.create()
            defined.setAutostart(1)
        opened.connection.networkCreateXML(
            f"<network><name>{UPLINK.network}</name><bridge name='u0'/></network>"
        )
        write_manifest(opened, settled(opened))
        yield opened
        delete_manifest(opened, DESIGN.vapp)


def settled(host: Host) -> Manifest:
    """The manifest of a run that has ended, which has connected all VMs."""
    tokens = tuple((vm.name, set_token(host, vm.domain)) for vm in DESIGN.vms)
    return replace(manifest_of(DESIGN), phase=Phase.READY, connected=tokens)


def state() -> str:
    ((row,), _) = all_vapps(URI)
    return str(row["state"])


@pytest.mark.usefixtures("host")
def test_a_vapp_whose_appliances_nobody_asked_is_not_called_protected() -> None:
    assert all_vapps(URI)[0] == [
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
    write_manifest(host, settled(host))
    assert state() == "ready"
    host.connection.networkLookupByName(UPLINK.network).destroy()
    assert state() == "problem"
    host.connection.networkCreateXML(
        f"<network><name>{UPLINK.network}</name><bridge name='u0'/></network>"
    )
    assert state() == "ready"
    host.connection.lookupByName(DESIGN.firewall.domain).destroy()
    assert state() == "problem"


def test_a_vapp_that_was_stopped_is_no_problem_and_one_that_only_lies_there_is(host: Host) -> None:
    for vm in DESIGN.vms:
        host.connection.lookupByName(vm.domain).destroy()
        host.connection.defineXML(DOMAIN.format(name=vm.domain, uuid=vm.uuid))
    try:
        assert state() == "problem"
        stopped = tuple(vm.name for vm in DESIGN.vms)
        write_manifest(host, replace(manifest_of(DESIGN), phase=Phase.READY, stopped=stopped))
        assert state() == "stopped"
        # The firewall is on, and nothing that was stopped.
        write_manifest(host, replace(manifest_of(DESIGN), phase=Phase.READY, stopped=stopped[1:]))
        assert state() == "problem"
    finally:
        for vm in DESIGN.vms:
            host.connection.lookupByName(vm.domain).undefine()


@pytest.mark.usefixtures("host")
def test_the_picture_of_a_lab_has_the_vapps_and_other_vms_of_a_host() -> None:
    (found,) = lab_picture(URI)
    assert (found.name, found.error) == ("localhost", "")
    tenants = {one.name: one for one in found.tenants}
    # These VMs have no terms, so they are drawn as what they are for the hook.
    assert (tenants["listed"].vms, tenants["listed"].terms) == (0, DESIGN.terms)
    assert {name for name, one in tenants.items() if not one.managed} >= {
        vm.domain for vm in DESIGN.vms
    }


@pytest.mark.usefixtures("host")
def test_a_lab_is_drawn_with_the_host_that_cannot_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inventory = tmp_path / "hosts.yaml"
    gone = f"qemu+unix:///system?socket={tmp_path}/gone"
    inventory.write_text(f"hosts:\n  h1: {{uri: '{URI}'}}\n  h2: {{uri: '{gone}'}}\n")
    monkeypatch.setenv("VCLOUD_INVENTORY", str(inventory))
    for name in ("VCLOUD_CONNECT", "LIBVIRT_DEFAULT_URI"):
        monkeypatch.delenv(name, raising=False)
    done = CliRunner().invoke(app, ["graph", "--lab", "--format", "dot"])
    assert done.exit_code == 0, done.output
    assert "h1_empty" in done.stdout
    assert "h0_empty" not in done.stdout
    assert "h2\\ncannot be asked: " in done.stdout
    assert "h2 cannot be asked: " in done.stderr
    refused = CliRunner().invoke(app, ["graph", "--lab", "shop.yaml"])
    assert isinstance(refused.exception, UsageError)


def test_a_published_port_is_shown_at_the_addresses_that_its_clients_can_reach() -> None:
    flows = """
        all: internet -> web tcp/80=8080
        four: 192.168.7.0/24 -> web tcp/22=2222
        six: fd00:7::/64 -> web tcp/23=2323
    """
    design = build_design("dmz", {"web": "dmz"}, flows)
    assert published_ports(design, ["198.18.1.10", "2001:db8::10"]) == [
        "198.18.1.10:8080, [2001:db8::10]:8080 -> web tcp/80 (all)",
        "198.18.1.10:2222 -> web tcp/22 (four, for 192.168.7.0/24)",
        "[2001:db8::10]:2323 -> web tcp/23 (six, for fd00:7::/64)",
    ]
    assert published_ports(design, ["198.18.1.10"])[2].startswith("no address for port 2323 -> ")


def test_refused_connections_are_told_by_vm_and_zone_the_most_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    design = build_design("dmz app", {"web": "dmz app", "api": "app"})
    firewall, (web, _) = design.firewall, design.workloads[0].nics
    api = design.workloads[1].nics[0]
    found = refused_by_vm(
        design,
        {
            (design.zone("dmz").gateway.ifname, web.mac): 5,
            (design.zone("app").gateway.ifname, api.mac): 7,
            (firewall.nics[-1].ifname, "52:54:00:00:00:98"): 1,
            (firewall.nics[-1].ifname, "52:54:00:00:00:99"): 2,
            (design.zone("app").gateway.ifname, "52:54:00:00:00:97"): 9,
        },
    )
    names = {vm.name: vm.nics[0].mac for vm in design.workloads}
    assert {names[one.vm] for one in found if one.vm} == {web.mac, api.mac}
    assert [one.packets for one in found] == [7, 5, 3]
    assert found[2] == Refused("", "", 3)
    status = Status("shop", "h1", "retail", "ready", "kvm", (), (), (), (), refused=found)
    assert status.healthy
    assert status.as_data()["refused_connections"][2] == {"vm": None, "zone": None, "packets": 3}
    _show_status(status)
    said = capsys.readouterr().out
    assert "refused in the last ten minutes: 7 packets of " in said
    assert "3 packets of clients outside" in said
    _show_status(replace(status, refused=()))
    assert "refused" not in capsys.readouterr().out
