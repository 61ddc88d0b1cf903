"""A lab of several hosts: which one a new vApp gets, and where the commands find one that stands."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lab.places import at, command, pid_in, vcloud, virsh
from tests.lab.test_tenancy import BANK, VAPP, define
from vcloud.apply.up import refuse_elsewhere
from vcloud.design.names import network_uuid
from vcloud.errors import Exit, UsageError, VcloudError
from vcloud.fleet.fleet import Fleet
from vcloud.hosts.connection import open_host
from vcloud.hosts.inventory import load_inventory
from vcloud.hosts.labels import labels_of
from vcloud.lab import lab as labs
from vcloud.lab.layout import Lab

pytestmark = [pytest.mark.netns, pytest.mark.timeout(300)]


@pytest.fixture
def hosts(pair: Lab) -> Iterator[Lab]:
    """Two hosts without VMs."""
    labs.up(pair, 2)
    yield pair
    labs.up(pair, 2)
    for host in pair.hosts():
        for name in virsh(host.uri, "list", "--all", "--name").split():
            command(["virsh", "--connect", host.uri, "destroy", name])
            command(["virsh", "--connect", host.uri, "undefine", name])


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A vApp that demands nothing."""
    file = tmp_path / "shop.yaml"
    file.write_text(VAPP.replace("name: bank", "name: shop").format(share="anyone"))
    return file


def test_a_new_vapp_gets_a_host_that_may_run_it_and_every_host_says_why(
    hosts: Lab, shop: Path, tmp_path: Path
) -> None:
    planned = vcloud(hosts, "plan", str(shop), "-o", "json")
    assert planned.returncode == Exit.DONE, planned.stderr
    notes = json.loads(planned.stdout)["notes"]
    assert sum("was chosen" in note for note in notes) == 1
    assert {note.split()[0] for note in notes} >= {"h1", "h2"}

    define(hosts.host(1), tmp_path, "bank.core", BANK)
    virsh(hosts.host(1).uri, "start", "bank.core")
    plan = json.loads(vcloud(hosts, "plan", str(shop), "-o", "json").stdout)
    assert plan["host"] == "h2"
    assert any(
        note.startswith("h1 was left out") and "'bank' shares its host with no other" in note
        for note in plan["notes"]
    )

    define(hosts.host(2), tmp_path, "bank.core", BANK)
    virsh(hosts.host(2).uri, "start", "bank.core")
    refused = vcloud(hosts, "plan", str(shop))
    assert refused.returncode == Exit.REFUSED
    assert "h1 refuses it" in refused.stderr
    assert "h2 refuses it" in refused.stderr


def test_a_host_that_cannot_be_reached_hides_no_other_and_may_have_the_vapp(
    hosts: Lab, shop: Path
) -> None:
    at(hosts, "h2", "kill", pid_in(hosts, "h2", "sshd"))
    rows = json.loads(vcloud(hosts, "list", "-o", "json").stdout)
    assert [(row["host"], row["state"]) for row in rows] == [("h2", "unreachable")]
    for argv in (("plan", str(shop)), ("up", "--yes", str(shop)), ("status", "shop")):
        done = vcloud(hosts, *argv)
        assert done.returncode == Exit.REFUSED, done.stderr
        assert "h2 may have it" in done.stderr
        assert "--connect h1" in done.stderr
    assert vcloud(hosts, "plan", "--connect", "h1", str(shop)).returncode == Exit.DONE
    labs.up(hosts, 2)
    assert json.loads(vcloud(hosts, "list", "-o", "json").stdout) == []
    assert vcloud(hosts, "status", "shop").returncode == Exit.INVALID


def test_commands_find_the_host_of_a_vapp(hosts: Lab, tmp_path: Path) -> None:
    """Also of one of which only leftovers are there."""
    for host in hosts.hosts():
        assert vcloud(hosts, "down", "--yes", "bank").returncode == Exit.INVALID
        define(host, tmp_path, "bank.core", BANK)
        done = vcloud(hosts, "status", "bank")
        assert f"of 'bank' on {host.name}, leftovers remain" in done.stderr
        assert vcloud(hosts, "down", "--yes", "bank").returncode == Exit.DONE
    for host in hosts.hosts():
        define(host, tmp_path, "bank.core", BANK)
    done = vcloud(hosts, "down", "--yes", "bank")
    assert done.returncode == Exit.INVALID
    assert "--connect h1|h2" in done.stderr


NETWORK = """\
<network><name>{name}</name><uuid>{uuid}</uuid><forward mode="bridge"/><bridge name="br-x"/></network>
"""


def test_a_network_that_is_left_of_a_vapp_makes_its_host_the_vapps_home(
    hosts: Lab, tmp_path: Path
) -> None:
    """So `up` does not make the vApp anew elsewhere, and `down` finds what is left."""
    file = tmp_path / "net.xml"
    file.write_text(NETWORK.format(name="bank.core", uuid=network_uuid("bank.core")))
    virsh(hosts.host(2).uri, "net-define", str(file))
    inventory = load_inventory(hosts.inventory)
    with ExitStack() as opened:
        fleet = Fleet([opened.enter_context(open_host(ref)) for ref in inventory])
        home = fleet.home_of("bank")
        assert home is not None
        assert home.name == "h2"
        with pytest.raises(VcloudError, match="is on h2 now"):
            refuse_elsewhere(fleet, "bank")
        refuse_elsewhere(fleet, "shop")
    assert vcloud(hosts, "down", "--yes", "bank").returncode == Exit.DONE
    assert "bank" not in virsh(hosts.host(2).uri, "net-list", "--all", "--name")


def placed(lab: Lab, file: Path, rules: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """`vcloud plan` of the vApp with these rules of placement."""
    ruled = file.with_name("ruled.yaml")
    ruled.write_text(f"{file.read_text()}placement: {rules}\n")
    return vcloud(lab, "plan", str(ruled), "-o", "json", *argv)


def test_labels_and_facts_of_hosts_decide_where_a_vapp_may_run(hosts: Lab, shop: Path) -> None:
    labs.up(hosts, 2, labels=("h1=site:main", "h2=site:backup", "h2=rack:b"))
    for rules, host in (
        ("{require: {site: main}}", "h1"),
        ("{require: {site: backup, arch: x86_64}}", "h2"),
        ("{forbid: {site: main}}", "h2"),
        ("{prefer: {rack: b}}", "h2"),
        ("{hosts: h1, prefer: {rack: b}}", "h1"),
    ):
        done = placed(hosts, shop, rules)
        assert done.returncode == Exit.DONE, done.stderr
        plan = json.loads(done.stdout)
        assert plan["host"] == host, rules
        assert {note.split()[0] for note in plan["notes"]} >= {"h1", "h2"}

    refused = placed(hosts, shop, "{require: {site: main, rack: b}}")
    assert refused.returncode == Exit.REFUSED
    assert "h1 has no label 'rack', and rack must be b" in refused.stderr
    assert "h2 has site=backup, and site must be main" in refused.stderr
    assert "exclude all 2 hosts" in refused.stderr
    refused = placed(hosts, shop, "{require: {site: [main, backup], arch: riscv64}}")
    assert refused.stderr.count("placement.") == 1, "one rule leaves out both"

    # A lab keeps the labels of its hosts, and takes away what it is told to.
    labs.up(hosts, 2, labels=("h2=rack:",))
    assert placed(hosts, shop, "{require: {site: backup}}").returncode == Exit.DONE
    assert placed(hosts, shop, "{require: {rack: b}}").returncode == Exit.REFUSED
    with pytest.raises(UsageError, match="no host 'h3'"):
        labs.up(hosts, 2, labels=("h3=site:main",))


def test_a_host_on_the_command_line_is_checked_like_any_other(hosts: Lab, shop: Path) -> None:
    labs.up(hosts, 2, labels=("h1=site:main", "h2=site:backup"))
    for host in ("h1", "h2"):
        done = placed(hosts, shop, "{prefer: {site: main}}", "--host", host)
        plan = json.loads(done.stdout)
        assert plan["host"] == host
        assert sum(f"--host names {host}" in note for note in plan["notes"]) == 1
    refused = placed(hosts, shop, "{require: {site: main}}", "--host", "h2")
    assert refused.returncode == Exit.REFUSED
    assert "h2 has site=backup, and site must be main" in refused.stderr
    unknown = placed(hosts, shop, "{}", "--host", "h9")
    assert unknown.returncode == Exit.INVALID
    assert "the hosts are h1, h2" in unknown.stderr


def test_a_host_tells_facts_that_no_inventory_may_say(hosts: Lab) -> None:
    (ref, _) = load_inventory(hosts.inventory)
    with open_host(ref) as host:
        labels = labels_of(host).labels
        assert labels["arch"] == os.uname().machine
        assert labels["smt"] == ("on" if threads_per_core() > 1 else "off")
        assert labels["svirt"] == "none", "the daemons of a lab have no security driver"
        assert labels["ksm"] in ("on", "off"), "all hosts have this machine's kernel"
        assert labels_of(host, "kvm").labels["accelerator"] == "kvm"


def threads_per_core() -> int:
    listed = Path("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list").read_text()
    return len(re.split("[-,]", listed.strip()))
