"""VMs that wake from memory images are the same VMs as by a cold boot, and no two of them are alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.vm.conftest import Raise
from tests.vm.driver import (
    Operator,
    Probe,
    Vapp,
    domains,
    mark,
    must_open,
    stages,
    wait_until,
    write_vapp,
    xml_of,
)
from tests.vm.memory_images import imaged, make_memory_images, memory_images, volumes_of
from vcloud.proof.firewall_report import parse_firewall_report

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]

NAME = "woken"
KINDS = ["base", "base", "firewall", "ips"]
"""A NIC in an inspected zone is another device than one that leaves checksums and segments to the
host. So the base has two memory images.
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
    make_memory_images(operator, path)
    others = {
        item["image"] for item in operator.run("image", "memory", "list", "-o", "json").data
    } - set(KINDS)
    for image in sorted(others):
        operator.run("image", "memory", "rm", image)
    return path


@pytest.fixture(scope="module")
def woken(raised: Raise, file: Path) -> Vapp:
    return raised(NAME, file)


def test_one_memory_image_serves_all_vms_of_a_kind(operator: Operator, file: Path) -> None:
    made = memory_images(operator)
    assert imaged(operator) == KINDS
    operator.run("image", "memory", "make", str(file))
    assert memory_images(operator) == made
    assert not [name for name in domains(operator, "vcloud-template-") if name]


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
        woken.inside("twin-1", "timeout 120 bash -c 'exec 3<>/dev/tcp/store/22 && head -c 4 <&3'")
        == "SSH-"
    )
    assert woken.operator.run("ssh", woken.vm("twin-2"), "--", "hostname").out == "twin-2\n"


def test_who_takes_the_mac_and_address_of_another_is_not_heard(woken: Vapp) -> None:
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
        wait_until("twin-1 is heard", lambda: arrives("twin-1", 4002))
    finally:
        woken.inside(
            "twin-2", f"ip link set eth0 address {own} && ip address del {victim}/32 dev eth0"
        )


def test_verify_finds_every_promise_kept(woken: Vapp) -> None:
    summary = woken.operator.run("verify", NAME, "-o", "json").data["summary"]
    assert summary["pass"] > 200


def test_its_definition_is_that_of_a_cold_boot(woken: Vapp) -> None:
    """So whatever starts it the next time gives the same VM."""
    text = woken.operator.virsh("dumpxml", "--inactive", woken.domain("store"))
    assert text.count("<interface ") == 1
    assert "vdb" in text
    assert "template" not in text
    assert 'vapp="woken"' in xml_of(woken.operator, woken.domain("store"))


def test_it_keeps_its_nics_when_it_is_reset(woken: Vapp) -> None:
    """Also the NIC that the memory image has. The machine gives it its own address from the start."""
    before = woken.boot_id("twin-3")
    woken.operator.virsh("reset", woken.domain("twin-3"))
    wait_until("twin-3 is back", lambda: woken.boot_id("twin-3", code=None) not in ("", before))
    wait_until(
        "it is reached",
        lambda: (
            woken.operator.run("ssh", woken.vm("twin-3"), "--", "hostname", code=None).out
            == "twin-3\n"
        ),
    )
    assert woken.probe("twin-3", must_open(woken.addresses4["store"], 22)) == ["open"]


@pytest.mark.long
def test_it_reboots_and_restarts_like_any_other(woken: Vapp) -> None:
    woken.inside("store", "echo kept >/srv/data/mine; echo kept >/root/mine; sync")
    woken.operator.virsh("destroy", woken.domain("store"))
    done = woken.operator.up(woken.file)
    assert "booting" in stages(done, "store")
    assert woken.inside("store", "cat /srv/data/mine /root/mine; hostname") == "kept\nkept\nstore\n"


def test_a_memory_image_is_removed_and_its_disk_stays_for_those_who_run_on_it(woken: Vapp) -> None:
    """Other vApps of this host run on the firewall's, too."""
    operator = woken.operator
    (base,) = (
        name
        for name in memory_images(operator)
        if name.startswith("base-") and backs(operator, name, woken.domain("store"))
    )
    operator.run("image", "memory", "rm", "--all")
    assert memory_images(operator) == []
    assert {name.rpartition(".")[2] for name in volumes_of(operator)} == {"qcow2"}
    assert woken.inside("twin-1", "find /usr -xdev -type f | xargs cat | wc -c").strip() != "0"
    assert volumes_of(operator, base)
    operator.run("down", "--yes", NAME)
    assert volumes_of(operator, base) == []


def backs(operator: Operator, memory_image: str, domain: str) -> bool:
    """Whether a VM's root disk is an overlay over that of a memory image."""
    return f"template-{memory_image}." in operator.virsh(
        "vol-dumpxml", f"root.{domain}.qcow2", "vcloud"
    )
