"""A host that a person says to be dead, and that comes back with a copy of a vApp that is older."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from tests.lab.places import at, cli, command, vcloud, virsh
from tests.lab.test_tenancy import DOMAIN
from tests.standing import manifest_of
from tests.vapps import design_of_text
from vcloud.compile.libvirt.domain import terms_text
from vcloud.errors import Exit
from vcloud.hosts.connection import open_host
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.manifests import delete_manifest, write_manifest
from vcloud.hosts.operator_key import load_operator
from vcloud.hosts.signing import signed
from vcloud.lab.layout import Lab
from vcloud.plan.manifest import Phase

pytestmark = [pytest.mark.netns, pytest.mark.timeout(900)]

FILE = """\
vcloud: 1
name: bank
zones: {core: {}}
vms: {ledger: {image: base, zone: core}}
"""
BANK = replace(manifest_of(design_of_text(FILE)), phase=Phase.READY)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "bank.yaml"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize("way", [(), ("--cut",)])
def test_a_vapp_gets_a_place_elsewhere_only_where_a_person_says_that_the_host_is_dead(
    lab: Lab, file: Path, way: tuple[str, ...]
) -> None:
    alive = vcloud(lab, "plan", "--host-is-dead", "h2", str(file))
    assert alive.returncode == Exit.INVALID
    assert "h2 answers, so it is not dead" in alive.stderr
    assert cli(lab, "fail", *way, "h2").returncode == 0
    try:
        silent = vcloud(lab, "plan", str(file))
        assert silent.returncode == Exit.REFUSED
        assert "vcloud up --host-is-dead h2" in silent.stderr
        dead = vcloud(lab, "plan", "--host-is-dead", "h2", str(file))
        assert dead.returncode == Exit.DONE, dead.stderr
        assert "bank on h1" in dead.stdout
        assert "if h2 was only cut off and has a copy of 'bank'" in dead.stderr
        wrong = vcloud(lab, "plan", "--host-is-dead", "h9", str(file))
        assert wrong.returncode == Exit.INVALID
        assert "--host-is-dead names 'h9'" in wrong.stderr
    finally:
        assert cli(lab, "heal", "h2").returncode == 0


def test_the_copy_of_a_host_that_comes_back_is_older_and_removed_by_consent(
    lab: Lab, file: Path
) -> None:
    """Whatever the clock of the operator was who made it."""
    with ExitStack() as opened:
        first, second = (
            opened.enter_context(open_host(HostRef(host.name, host.local_uri)))
            for host in lab.hosts()
        )
        write_manifest(first, replace(BANK, generation=5, replaced=("h2",)))
        write_manifest(second, replace(BANK, generation=9))
        rows = json.loads(vcloud(lab, "list", "-o", "json").stdout)
        states = {row["host"]: row["state"] for row in rows if row["vapp"] == "bank"}
        assert states["h2"] == "older copy, superseded by h1"
        assert "superseded" not in states["h1"]
        status = vcloud(lab, "status", "bank")
        assert "an older copy of 'bank' is on h2, superseded by the one on h1" in status.stderr
        plan = json.loads(vcloud(lab, "plan", "-o", "json", str(file)).stdout)
        assert plan["host"] == "h1"
        (older,) = plan["older_copies"]
        assert older["host"] == "h2"
        # The host has no storage pool of vcloud's.
        assert "vcloud cannot tell which disks are deleted" in older["loses"][0]
        refused = vcloud(lab, "down", "bank")
        assert refused.returncode == Exit.INVALID
        assert "this deletes 'bank' on h1 and on h2" in refused.stderr

        write_manifest(first, replace(BANK, generation=5))
        unsaid = vcloud(lab, "down", "bank", "--yes")
        assert unsaid.returncode == Exit.INVALID
        assert "nobody has said that one replaces the other" in unsaid.stderr

        write_manifest(first, replace(BANK, generation=5, replaced=("h2",)))
        assert vcloud(lab, "down", "bank", "--yes").returncode == Exit.DONE
        assert "bank" not in vcloud(lab, "list").stdout
        for host in (first, second):
            delete_manifest(host, "bank")


def test_after_a_boot_an_old_copy_does_not_start_again(lab: Lab, tmp_path: Path) -> None:
    """The hosts of a lab share the boot of their machine, so the host's memory of it is changed."""
    first, second = lab.hosts()
    ledger = next(vm for vm in BANK.design.vms if vm.name == "ledger")
    text = escape(terms_text(BANK.design.terms))
    xml = DOMAIN.format(name=ledger.domain, uuid=ledger.uuid, vapp="bank", terms=text).replace(
        "<t:terms", '<t:terms generation="5"'
    )
    path = tmp_path / "ledger.xml"
    path.write_text(signed(load_operator(lab.key), xml))
    virsh(first.uri, "define", str(path))
    virsh(first.uri, "start", ledger.domain)
    virsh(first.uri, "destroy", ledger.domain)
    edit = r's/"boot": "[^"]*"/"boot": "another"/g'
    at(lab, "h1", "sed", "-i", edit, "/var/lib/vcloud/leases/known")
    refused = command(["virsh", "--connect", first.uri, "start", ledger.domain])
    assert "was not admitted since this host has booted" in refused.stderr
    with ExitStack() as opened:
        old, new = (
            opened.enter_context(open_host(HostRef(host.name, host.local_uri)))
            for host in (first, second)
        )
        write_manifest(old, replace(BANK, generation=5, signed=(("ledger", 5),)))
        write_manifest(new, replace(BANK, generation=6))
        closed = vcloud(lab, "host", "admit", "h1", "-o", "json")
        assert closed.returncode == Exit.REFUSED
        (row,) = json.loads(closed.stdout)
        assert not row["admitted"]
        assert "a newer copy is on h2" in row["why"]
        assert command(["virsh", "--connect", first.uri, "start", ledger.domain]).returncode != 0
        delete_manifest(new, "bank")
        admitted = vcloud(lab, "host", "admit", "h1")
        assert admitted.returncode == Exit.DONE, admitted.stderr
        assert "bank may start on h1" in admitted.stdout
        virsh(first.uri, "start", ledger.domain)
        virsh(first.uri, "destroy", ledger.domain)
        virsh(first.uri, "undefine", ledger.domain)
        delete_manifest(old, "bank")
