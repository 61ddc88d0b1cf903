"""Commands about hosts of a lab, with an inventory of the user's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from vcloud.errors import Exit
from vcloud.hosts.inventory import load_inventory
from vcloud.lab import lab as labs
from vcloud.lab.layout import Lab

pytestmark = [pytest.mark.netns, pytest.mark.timeout(600)]


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with an inventory."""

    inventory: Path
    lab: Lab

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "vcloud", "host", *argv],
            env=os.environ | {"VCLOUD_INVENTORY": str(self.inventory)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )


@pytest.fixture(scope="module")
def hosts(make: Callable[[str], Lab]) -> Lab:
    lab = make("t-inv")
    labs.up(lab, 2)
    return lab


@pytest.fixture
def person(hosts: Lab, tmp_path: Path) -> Person:
    inventory = tmp_path / "hosts.yaml"
    inventory.write_text(f"# mine\n{hosts.inventory.read_text()}")
    return Person(inventory, hosts)


def test_a_host_tells_what_it_has(person: Person) -> None:
    done = person.run("show", "h1", "-o", "json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["hook"]["state"] == "this release's"
    assert shown["trusted_operators"] == 1
    assert shown["encrypted"] is True
    assert shown["versions"]["kernel"] == os.uname().release
    assert shown["facts"]["svirt"] == "none"
    assert "this release's" in person.run("show", "h1").stdout


def test_hosts_that_can_run_vapps_pass_and_a_dead_one_does_not(person: Person) -> None:
    done = person.run("check", "-o", "json")
    found = json.loads(done.stdout)
    assert [*found] == ["h1", "h2"]
    assert done.returncode == 0, done.stdout
    tenancy = next(one for one in found["h1"] if one["check"] == "tenancy")
    assert tenancy["result"] == "ok"
    text = person.inventory.read_text()
    person.inventory.write_text(text + "  away: {uri: 'qemu+unix:///system?socket=/nowhere'}\n")
    done = person.run("check", "away", "h2", "-o", "json")
    assert done.returncode == Exit.FAILED
    found = json.loads(done.stdout)
    assert [one["result"] for one in found["away"]] == ["fail"]
    assert "fail" not in {one["result"] for one in found["h2"]}


def test_what_would_be_done_is_shown_and_not_done_without_a_yes(person: Person) -> None:
    (ref, _) = load_inventory(person.inventory)
    person.run("remove", "h1", "--forget")
    before = person.inventory.read_text()
    done = person.run("add", "h1", ref.uri, "--ssh-config", str(ref.ssh_config))
    assert done.returncode == Exit.INVALID
    assert f"write h1 into {person.inventory}" in done.stdout
    assert "Nothing was done. If you agree, add --yes." in done.stderr
    assert "hook" not in done.stdout, "the hook of a lab's host is this release's"
    assert person.inventory.read_text() == before


def test_a_host_leaves_the_inventory_and_keeps_what_it_has(person: Person) -> None:
    done = person.run("remove", "h1")
    assert done.returncode == 0, done.stderr
    assert "libvirt's hook" in done.stderr
    assert [host.name for host in load_inventory(person.inventory)] == ["h2"]
    assert person.inventory.read_text().startswith("# mine\n")
    last = person.run("remove", "h2")
    assert last.returncode == 0
    assert not person.inventory.exists()


def test_a_host_with_a_vapp_stays(person: Person) -> None:
    """The network that keeps a vApp's description is enough of it."""
    text = "<network><name>vcloud-manifest-shop</name></network>"
    virsh = [*labs.enter(person.lab, "h1"), "virsh", "net-define", "/dev/stdin"]
    subprocess.run(virsh, input=text, text=True, check=True, capture_output=True)
    try:
        done = person.run("remove", "h1")
    finally:
        undo = [*labs.enter(person.lab, "h1"), "virsh", "net-undefine", "vcloud-manifest-shop"]
        subprocess.run(undo, check=True, capture_output=True)
    assert done.returncode == Exit.REFUSED
    assert "vApps stand on h1: shop" in done.stderr
    assert "vcloud down shop --connect h1" in done.stderr
    assert len(load_inventory(person.inventory)) == 2
