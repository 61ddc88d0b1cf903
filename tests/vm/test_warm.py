"""Waking VMs from templates: the same VMs as by a cold boot, no two of them alike, and a cold boot
whenever a template cannot be used.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.vm.conftest import Raise
from tests.vm.driver import (
    Operator,
    Probe,
    Vapp,
    domains,
    mark,
    remains,
    stages,
    standing,
    stop_at,
    volumes,
    wait_until,
    write_vapp,
    xml_of,
)
from vcloud.proof.firewall_report import parse_firewall_report

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1500)]

NAME = "woken"
POOL = "/var/lib/libvirt/images/vcloud"
KINDS = ["base", "base", "firewall", "ips"]
"""A card in an inspected zone is another hardware than one that leaves checksums and segments to
the host: so two of the base.
"""
WORKLOADS = ("twin-1", "twin-2", "twin-3", "store")
FILE: dict[str, Any] = {
    "vcloud": 1,
    "name": NAME,
    "zones": {"front": {}, "back": {}},
    "flows": [
        {"id": "login", "from": "internet", "to": "store", "service": "tcp/22", "publish": 2222},
        {"id": "peers", "from": "twin", "to": "store", "service": ["tcp/22", "icmp"]},
    ],
    "protection": {"ips": {"inspect": ["back"], "mode": "prevent"}},
    "vms": {
        "twin": {"image": "base", "zone": ["front", "back"], "count": 3, "memory": "256M"},
        "store": {
            "image": "base",
            "zone": "back",
            "memory": "256M",
            "disks": {"data": {"size": "64M", "mount": "/srv/data"}},
            "ready": {"tcp": 22},
        },
    },
}


@pytest.fixture(scope="module")
def file(operator: Operator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With memory images for all of it on the host, and no others."""
    path = write_vapp(tmp_path_factory.mktemp(NAME) / "woken.yaml", FILE)
    operator.run("image", "memory", "make", str(path), timeout=600)
    others = {
        item["image"] for item in operator.run("image", "memory", "list", "-o", "json").data
    } - set(KINDS)
    for image in sorted(others):
        operator.run("image", "memory", "rm", image)
    return path


@pytest.fixture(scope="module")
def woken(raised: Raise, file: Path) -> Vapp:
    return raised(NAME, file)


@pytest.fixture
def tiny(operator: Operator, tmp_path: Path) -> Iterator[Path]:
    """One more VM of the same kind."""
    document = {
        "vcloud": 1,
        "name": "tiny",
        "zones": {"one": {}},
        "vms": {"solo": {"image": "base", "zone": "one", "memory": "256M"}},
    }
    yield write_vapp(tmp_path / "tiny.yaml", document)
    if remains(operator, "tiny"):
        operator.run("down", "--yes", "tiny")
    assert remains(operator, "tiny") == []


def templates(operator: Operator) -> list[str]:
    return [item["name"] for item in operator.run("image", "memory", "list", "-o", "json").data]


def kinds(operator: Operator) -> list[str]:
    """The images that there are templates of."""
    return sorted(name.rpartition("-")[0] for name in templates(operator))


def files(operator: Operator, template: str = "") -> list[str]:
    """The volumes of a template, or of all."""
    return volumes(operator, f"template-{template}")


def test_one_template_serves_all_vms_of_a_kind(operator: Operator, file: Path) -> None:
    made = templates(operator)
    assert kinds(operator) == KINDS
    operator.run("image", "memory", "make", str(file))
    assert templates(operator) == made
    assert not [name for name in domains(operator, "vcloud-template-") if name]


def test_every_vm_wakes_and_none_boots(operator: Operator, tiny: Path) -> None:
    done = operator.up(tiny)
    for vm in ("firewall", "solo"):
        assert "waking" in stages(done, vm)
        assert "booting" not in stages(done, vm)


def test_cold_boots_and_gives_the_same(operator: Operator, tiny: Path) -> None:
    done = operator.up(tiny, "--cold")
    for vm in ("firewall", "solo"):
        assert "booting" in stages(done, vm)
        assert "waking" not in stages(done, vm)
    assert "nothing to do" in operator.up(tiny).out
    assert operator.run("verify", "tiny", timeout=300).code == 0


def test_no_two_vms_share_a_name_a_machine_id_a_key_or_a_random_stream(woken: Vapp) -> None:
    script = "hostname; cat /etc/machine-id; cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub; head -c 32 /dev/urandom | od -An -tx1 -w32"
    told = [woken.inside(vm, script).splitlines() for vm in WORKLOADS]
    for values in zip(*told, strict=True):
        assert len(set(values)) == len(WORKLOADS)
    assert tuple(lines[0] for lines in told) == WORKLOADS
    for vm, lines in zip(WORKLOADS, told, strict=True):
        assert mark(woken.operator, woken.domain(vm))["host-key"].split()[1] == lines[2]


def test_what_wakes_has_its_boot_behind_it(woken: Vapp) -> None:
    """The journal keeps under which name a VM reached its gate: before its identity it is called
    `vcloud`.
    """
    for vm in WORKLOADS:
        said = woken.inside(
            vm, "journalctl --boot --output json UNIT=vcloud-gate.target"
        ).splitlines()
        assert {json.loads(line)["_HOSTNAME"] for line in said} == {"vcloud"}


def test_a_woken_vm_is_whole(woken: Vapp) -> None:
    for vm in WORKLOADS:
        assert (
            woken.inside(
                vm, "systemctl --failed --no-legend; systemctl is-system-running --wait || :"
            )
            == "running\n"
        )
    assert woken.inside("store", "mountpoint -q /srv/data && echo mounted") == "mounted\n"
    assert (
        woken.inside("twin-1", "timeout 20 bash -c 'exec 3<>/dev/tcp/store/22 && head -c 4 <&3'")
        == "SSH-"
    )
    assert woken.operator.run("ssh", woken.vm("twin-2"), "--", "hostname").out == "twin-2\n"


def test_who_takes_the_card_and_address_of_another_is_not_heard(woken: Vapp) -> None:
    """twin-2 sends as twin-1 does, from its own place in the same zone: nothing of it arrives, and
    twin-1 goes on to be heard.
    """
    victim, gateway = (
        woken.addresses4["twin-1"],
        woken.inside("twin-1", "ip -4 route show default | cut -d' ' -f3").strip(),
    )
    stolen, own = (
        woken.inside(vm, "cat /sys/class/net/eth0/address").strip() for vm in ("twin-1", "twin-2")
    )

    def arrives(vm: str, port: int) -> bool:
        woken.probe(vm, Probe("udp", gateway, port, source=victim, milliseconds=1500))
        return (victim, gateway, "udp", port) in parse_firewall_report(
            json.dumps(woken.firewall_report()).encode()
        ).denied

    woken.inside(
        "twin-2", f"ip link set eth0 address {stolen} && ip address add {victim}/32 dev eth0"
    )
    try:
        assert not arrives("twin-2", 4001)
        assert arrives("twin-1", 4002)
    finally:
        woken.inside(
            "twin-2", f"ip link set eth0 address {own} && ip address del {victim}/32 dev eth0"
        )


def test_verify_finds_every_promise_kept(woken: Vapp) -> None:
    summary = woken.operator.run("verify", NAME, "-o", "json", timeout=600).data["summary"]
    assert summary["pass"] > 200


def test_its_definition_is_that_of_a_cold_boot(woken: Vapp) -> None:
    """So whatever starts it the next time gives the same VM."""
    text = woken.operator.virsh("dumpxml", "--inactive", woken.domain("store"))
    assert text.count("<interface ") == 1
    assert "vdb" in text
    assert "template" not in text
    assert 'vapp="woken"' in xml_of(woken.operator, woken.domain("store"))


def test_it_keeps_its_cards_when_it_is_reset(woken: Vapp) -> None:
    """The one that was its template's too: the machine gives it its own address from the start."""
    before = woken.boot_id("twin-3")
    woken.operator.virsh("reset", woken.domain("twin-3"))
    wait_until("twin-3 is back", lambda: woken.boot_id("twin-3", code=None) not in ("", before), 90)
    wait_until(
        "it is reached",
        lambda: (
            woken.operator.run("ssh", woken.vm("twin-3"), "--", "hostname", code=None).out
            == "twin-3\n"
        ),
        60,
    )
    assert woken.probe("twin-3", Probe("tcp", woken.addresses4["store"], 22)) == ["open"]


def test_it_reboots_and_restarts_like_any_other(woken: Vapp) -> None:
    woken.inside("store", "echo kept >/srv/data/mine; echo kept >/root/mine; sync")
    woken.operator.virsh("destroy", woken.domain("store"))
    done = woken.operator.up(woken.file)
    assert "booting" in stages(done, "store")
    assert woken.inside("store", "cat /srv/data/mine /root/mine; hostname") == "kept\nkept\nstore\n"


def test_a_template_is_removed_and_its_disk_stays_for_those_who_run_on_it(woken: Vapp) -> None:
    """Other vApps of this host run on the firewall's, too."""
    operator = woken.operator
    (base,) = (
        name
        for name in templates(operator)
        if name.startswith("base-") and backs(operator, name, woken.domain("store"))
    )
    operator.run("image", "memory", "rm", "--all")
    assert templates(operator) == []
    assert {name.rpartition(".")[2] for name in files(operator)} == {"qcow2"}
    assert woken.inside("twin-1", "find /usr -xdev -type f | xargs cat | wc -c").strip() != "0"
    assert files(operator, base)
    operator.run("down", "--yes", NAME)
    assert files(operator, base) == []


def backs(operator: Operator, template: str, domain: str) -> bool:
    """Whether a VM's root disk lies over a template's."""
    return f"template-{template}." in operator.virsh(
        "vol-dumpxml", f"root.{domain}.qcow2", "vcloud"
    )


def test_what_was_not_used_for_longest_goes_when_the_room_is_taken(
    operator: Operator, tiny: Path, tmp_path: Path
) -> None:
    frugal = operator.with_host(tmp_path, lambda host: host.update(templates="1M"))
    warmed(operator, tiny)
    before = set(templates(operator))
    assert kinds(operator) == ["base", "firewall"]
    document = yaml.safe_load(tiny.read_text())
    document["vms"]["solo"]["memory"] = "208M"
    write_vapp(tiny, document)
    warmed(frugal, tiny)
    assert kinds(operator) == ["base", "firewall"], (
        "those of the run stay, even where they take too much"
    )
    assert {name.partition("-")[0] for name in before & set(templates(operator))} == {"firewall"}, (
        "the other base has made room"
    )
    assert "of 1 MiB are taken" in frugal.run("image", "memory", "list").err
    assert "waking" in stages(operator.up(tiny), "solo")
    operator.run("image", "memory", "rm", "base")


def test_from_the_template_of_an_image_that_has_changed_nobody_wakes(
    operator: Operator, tmp_path: Path
) -> None:
    recipe = tmp_path / "mine"
    (recipe / "files/etc").mkdir(parents=True)
    (recipe / "image.yaml").write_text("base: base\n")
    vms = {"solo": {"image": "./mine", "zone": "one", "memory": "256M"}}
    file = write_vapp(
        tmp_path / "renewed.yaml",
        {"vcloud": 1, "name": "renewed", "zones": {"one": {}}, "vms": vms},
    )
    said, made = [], []
    try:
        for text in ("old", "new"):
            (recipe / "files/etc/told").write_text(text)
            warmed(operator, file)
            made.append({name for name in templates(operator) if name.startswith("mine-")})
            said += [
                stages(operator.up(file, "--yes"), "solo")[0],
                operator.inside("renewed/solo", "cat /etc/told"),
            ]
    finally:
        operator.run("down", "--yes", "renewed")
    assert said == ["waking", "old", "waking", "new"]
    assert [len(names) for names in made] == [1, 2]


# When a template cannot be used


def warmed(operator: Operator, file: Path) -> None:
    operator.run("image", "memory", "make", str(file), timeout=600)


@pytest.mark.parametrize(
    "size", ["90", "40K", "20M"], ids=["its header", "its description", "its memory"]
)
def test_from_a_memory_that_was_cut_short_nobody_wakes_and_it_is_said(
    operator: Operator, tiny: Path, size: str
) -> None:
    warmed(operator, tiny)
    before = templates(operator)
    assert (
        operator.at("h1", "sh", "-c", f"truncate -s {size} {POOL}/template-base-*.save").code == 0
    )
    done = operator.up(tiny)
    if size != "90":
        assert "solo is booted cold: " in done.err
    assert "booting" in stages(done, "solo")
    assert "waking" in stages(done, "firewall")
    if size == "20M":
        assert operator.run("verify", "tiny", timeout=300).code == 0
    assert set(templates(operator)) <= {name for name in before if not name.startswith("base-")}


def test_a_killed_making_leaves_no_vm_and_the_next_one_makes_it(
    operator: Operator, tiny: Path
) -> None:
    operator.run("image", "memory", "rm", "--all")
    process = operator.start("image", "memory", "make", str(tiny))
    assert process.stderr is not None
    for line in process.stderr:
        if "template base: booting" in line:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert "template" not in operator.virsh("list", "--all", "--name")
    assert templates(operator) == []
    warmed(operator, tiny)
    made = templates(operator)
    assert len(made) == 2
    assert (
        sum(
            len([name for name in files(operator, template) if name.endswith(".save")])
            for template in made
        )
        == 2
    )
    (base,) = (name for name in made if name.startswith("base-"))
    assert len(files(operator, base)) == 2, "what the killed one left is gone"


def test_two_operators_who_need_the_same_template_make_it_once(
    operator: Operator, tiny: Path
) -> None:
    operator.run("image", "memory", "rm", "--all")
    both = [operator.start("image", "memory", "make", str(tiny)) for _ in range(2)]
    said = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert kinds(operator) == ["base", "firewall"]
    assert sum(name.endswith(".save") for name in files(operator)) == 2


def test_a_kill_while_waking_is_mended_by_the_next_up(operator: Operator, tiny: Path) -> None:
    warmed(operator, tiny)
    stop_at(operator, tiny, "solo: waking", signal.SIGKILL)
    operator.up(tiny)
    assert operator.run("verify", "tiny", timeout=300).code == 0
    assert standing(operator, "tiny", tiny).inside("solo", "hostname") == "solo\n"


@pytest.mark.parametrize("count", [6, pytest.param(20, marks=pytest.mark.long)])
def test_many_vms_wake_side_by_side(operator: Operator, tmp_path: Path, count: int) -> None:
    document = {
        "vcloud": 1,
        "name": "crowd",
        "zones": {"one": {}},
        "vms": {"each": {"image": "base", "zone": "one", "memory": "256M", "count": count}},
    }
    file = write_vapp(tmp_path / "crowd.yaml", document)
    warmed(operator, file)
    done = operator.up(file)
    try:
        assert "booted cold" not in done.err
        crowd = standing(operator, "crowd", file)
        keys = {
            mark(operator, crowd.domain(f"each-{number}"))["host-key"]
            for number in range(1, count + 1)
        }
        assert len(keys) == count
    finally:
        operator.run("down", "--yes", "crowd")
    assert remains(operator, "crowd") == []
