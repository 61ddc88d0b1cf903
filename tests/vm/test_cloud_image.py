"""A user's own qcow2 as a VM: a distribution's cloud image beside one of vcloud's, with a guest agent and without one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.vm.cloud_image import cloud_image, cloud_image_without_agent
from tests.vm.conftest import Raise
from tests.vm.driver import Probe, Vapp, domains, mark, remains, write_vapp, xml_of

pytestmark = [pytest.mark.vm, pytest.mark.timeout(2400)]

SSH = 22


def guest(image: Path) -> dict[str, object]:
    return {
        "image": {"file": str(image)},
        "zone": ["app", "lab"],
        "memory": "640M",
        "disks": {"data": {"size": "64M", "mount": "/srv/data"}},
        "files": {"/etc/motd": "first\n", "/etc/gone": "soon\n"},
        "run": ["echo ran >>/root/ran", "mountpoint /srv/data && touch /srv/data/kept"],
        "ready": {"tcp": SSH, "timeout": 120},
    }


@pytest.fixture(scope="module")
def own(raised: Raise, tmp_path_factory: pytest.TempPathFactory) -> Vapp:
    document = {
        "vcloud": 1,
        "name": "own",
        "zones": {"app": {}, "lab": {"open": True}},
        "vms": {
            "near": {"image": "base", "memory": "256M", "zone": ["app", "lab"]},
            "guest": guest(cloud_image()),
            "silent": guest(cloud_image_without_agent()),
        },
        "flows": [
            {"from": "near", "to": "guest", "service": f"tcp/{SSH}"},
            {"from": "near", "to": "silent", "service": f"tcp/{SSH}"},
            {"from": "guest", "to": "near", "service": "icmp"},
        ],
    }
    return raised("own", write_vapp(tmp_path_factory.mktemp("own") / "own.yaml", document), "--cold")


def addresses(own: Vapp, vm: str) -> tuple[str, str]:
    return own.addresses4[vm], own.addresses6[vm]


def test_cloud_init_makes_it_the_vm_that_the_file_describes(own: Vapp) -> None:
    assert own.inside("guest", "hostname; cat /etc/motd; cat /root/ran; ls /srv/data").split() == [
        "guest",
        "first",
        "ran",
        "kept",
        "lost+found",
    ]
    held = own.inside("guest", "ip -o addr show dev eth0")
    assert f" {own.addresses4['guest']}/32 " in held
    assert f" {own.addresses6['guest']}/128 " in held
    assert own.inside("guest", "getent hosts near").split()[0] in addresses(own, "near")
    assert "status: done" in own.inside("guest", "cloud-init status", code=None)
    assert "Valid schema" in own.inside("guest", "cloud-init schema --system")


def test_its_host_key_is_the_pinned_one_and_it_has_no_other(own: Vapp) -> None:
    for vm in ("guest", "silent"):
        for address in addresses(own, vm):
            shown = own.inside("near", f"ssh-keyscan -T 60 {address} 2>/dev/null | grep -v '^#'").split()
            assert shown == [address, *mark(own.operator, own.domain(vm))["host-key"].split()]


def test_what_is_declared_passes_and_what_is_not_does_not(own: Vapp) -> None:
    for vm in ("guest", "silent"):
        assert own.probe("near", *(Probe("tcp", address, SSH) for address in addresses(own, vm))) == ["open"] * 2
        assert own.probe("near", *(Probe("tcp", address, 80) for address in addresses(own, vm))) == ["timeout"] * 2
    for address in addresses(own, "near"):
        own.inside("guest", f"ping -c 1 -W 20 {address}")
    for address in addresses(own, "silent"):
        own.inside("guest", f"ping -c 1 -W 5 {address}", code=1)


def test_verify_tests_it_like_any_other_but_cannot_look_into_one_without_an_agent(own: Vapp) -> None:
    outcome = own.operator.run("verify", "own", "-o", "json", code=5, timeout=900).data
    assert outcome["summary"]["fail"] == outcome["summary"]["error"] == 0
    not_run = [check for check in outcome["checks"] if check["outcome"] == "not run"]
    assert not_run
    assert all("silent" in str(check) for check in not_run)


def test_an_image_in_which_nothing_answers_is_known_never_to_wake(own: Vapp) -> None:
    """Found out when it was booted, so that no template of it is ever tried."""
    done = own.operator.run("image", "memory", "make", str(own.file), timeout=600)
    assert "silent is booted cold: its image has no guest agent" in done.err
    images = [item["image"] for item in own.operator.run("image", "memory", "list", "-o", "json").data]
    assert cloud_image().stem in "".join(images)
    assert cloud_image_without_agent().stem not in "".join(images)


def test_the_seed_is_for_nobody_but_the_hypervisor(own: Vapp) -> None:
    volumes = own.operator.at("h1", "sh", "-c", "stat -c '%a %n' /var/lib/libvirt/images/vcloud/seed.own.*.iso").out
    assert [line.split()[0] for line in volumes.splitlines()] == ["600", "600"]
    assert "seed.own.guest.iso" in xml_of(own.operator, own.domain("guest"))


def test_a_changed_identity_restarts_it_and_keeps_what_it_is(own: Vapp, tmp_path: Path) -> None:
    """cloud-init applies the new file; it makes no new host key, runs nothing a second time, and the data are still there."""
    document = yaml.safe_load(own.file.read_text())
    document["vms"]["guest"]["files"] = {"/etc/motd": "second\n"}
    changed = write_vapp(tmp_path / "own.yaml", document)
    before = domains(own.operator, "own", live=True)
    pinned = mark(own.operator, own.domain("guest"))["host-key"]
    assert "restart" in own.operator.run("plan", str(changed)).out
    own.operator.up(changed)
    after = domains(own.operator, "own", live=True)
    assert {name for name in before if before[name] != after[name]} == {own.domain("guest")}
    assert own.inside("guest", "cat /etc/motd /root/ran; ls /etc/gone /srv/data 2>/dev/null || :").split() == [
        "second",
        "ran",
        "/srv/data:",
        "kept",
        "lost+found",
    ]
    assert mark(own.operator, own.domain("guest"))["host-key"] == pinned
    assert own.inside("guest", "cut -d' ' -f1,2 /etc/ssh/ssh_host_*_key.pub").strip() == pinned
    assert "nothing to do" in own.operator.run("up", str(changed)).out


def test_down_leaves_nothing_of_it(own: Vapp) -> None:
    own.operator.run("down", "--yes", "own")
    assert remains(own.operator, "own") == []
