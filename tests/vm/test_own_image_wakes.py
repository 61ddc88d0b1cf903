"""A user's own qcow2 that carries a guest agent wakes too: from a boot that has waited before any service, and goes on by cloud-init."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.vm.cloud_image import cloud_image
from tests.vm.conftest import Raise
from tests.vm.driver import Operator, Probe, Vapp, mark, stages, wait_until, write_vapp, xml_of

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1500)]

TWINS = ("twin-1", "twin-2")


def document() -> dict[str, Any]:
    return {
        "vcloud": 1,
        "name": "fat",
        "zones": {"app": {}},
        "vms": {
            "near": {"image": "base", "memory": "256M", "zone": "app"},
            "twin": {
                "image": {"file": str(cloud_image())},
                "zone": "app",
                "count": 2,
                "memory": "640M",
                "disks": {"data": {"size": "64M", "mount": "/srv/data"}},
                "files": {"/etc/motd": "hello\n"},
                "run": ["echo ran >>/root/ran"],
                "ready": {"tcp": 22, "timeout": 120},
            },
        },
        "flows": [{"from": "near", "to": "twin", "service": "tcp/22"}],
    }


@pytest.fixture(scope="module")
def fat(operator: Operator, raised: Raise, tmp_path_factory: pytest.TempPathFactory) -> Vapp:
    """Brought up from templates."""
    file = write_vapp(tmp_path_factory.mktemp("fat") / "fat.yaml", document())
    operator.run("image", "memory", "make", str(file), timeout=600)
    return raised("fat", file)


def test_they_have_woken(fat: Vapp) -> None:
    """A machine that has woken still has what told its template's boot to wait; one that was booted never had it."""
    for vm in TWINS:
        assert "io.systemd" in xml_of(fat.operator, fat.domain(vm))


def test_it_is_what_a_cold_boot_makes_of_it(fat: Vapp) -> None:
    for vm in TWINS:
        assert fat.inside(vm, "hostname; cat /etc/motd /root/ran; mountpoint -q /srv/data && echo mounted").split() == [
            *(vm, "hello", "ran", "mounted"),
        ]
        held = fat.inside(vm, "ip -o addr show dev eth0")
        assert f" {fat.addresses4[vm]}/32 " in held
        assert f" {fat.addresses6[vm]}/128 " in held
        assert "status: done" in fat.inside(vm, "cloud-init status", code=None)
        assert fat.inside(vm, "systemctl --failed --no-legend; systemctl is-system-running --wait || :") == "running\n"
    assert "nothing to do" in fat.operator.up(fat.file).out


def test_no_two_share_a_machine_id_a_key_or_a_random_stream(fat: Vapp) -> None:
    script = "cat /etc/machine-id; cut -d' ' -f2 /etc/ssh/ssh_host_*_key.pub; head -c 32 /dev/urandom | od -An -tx1 -w32"
    told = [fat.inside(vm, script).splitlines() for vm in TWINS]
    assert [len(lines) for lines in told] == [3, 3]
    assert all(one != other for one, other in zip(*told, strict=True))
    assert [lines[1] for lines in told] == [mark(fat.operator, fat.domain(vm))["host-key"].split()[1] for vm in TWINS]


def test_no_service_of_it_has_run_before_it_knew_who_it_is(fat: Vapp) -> None:
    """sshd is the first that would have made something of its own."""
    for vm in TWINS:
        started = fat.inside(
            vm, "systemctl show --value --property=ActiveEnterTimestampMonotonic cloud-init-local.service ssh.service"
        ).split()
        assert int(started[0]) < int(started[1])


def test_what_is_declared_passes_and_what_is_not_does_not(fat: Vapp) -> None:
    for vm in TWINS:
        for address in (fat.addresses4[vm], fat.addresses6[vm]):
            assert fat.probe("near", Probe("tcp", address, 22), Probe("tcp", address, 80)) == ["open", "timeout"]


def test_it_goes_on_from_its_saved_memory(fat: Vapp) -> None:
    script = "cat /etc/machine-id /root/ran"
    before = [(fat.boot_id(vm), fat.inside(vm, script)) for vm in TWINS]
    fat.operator.run("save", "fat")
    time.sleep(5)  # long enough for a clock that stood still to show
    done = fat.operator.up(fat.file)
    assert "the clock of" not in done.err
    assert [(fat.boot_id(vm), fat.inside(vm, script)) for vm in TWINS] == before
    for vm in TWINS:
        assert "restoring" in stages(done, vm)
        assert fat.clock_error(vm) < 4
        assert fat.probe("near", Probe("tcp", fat.addresses4[vm], 22), Probe("tcp", fat.addresses4[vm], 80)) == ["open", "timeout"]
    assert "nothing to do" in fat.operator.up(fat.file).out


def test_a_reboot_from_inside_goes_through_to_its_services(fat: Vapp) -> None:
    """The machine still tells it to wait; its definition, from which the next power-on comes, does not."""
    before = fat.boot_id("twin-1")
    fat.operator.run("exec", fat.vm("twin-1"), "--", "systemctl", "reboot", code=None)

    def is_back() -> bool:
        again = fat.boot_id("twin-1", code=None) not in ("", before)
        return again and fat.inside("twin-1", "systemctl is-active ssh.service", code=None) == "active\n"

    wait_until("twin-1 is back", is_back, 300)
    assert fat.probe("near", Probe("tcp", fat.addresses4["twin-1"], 22)) == ["open"]
    assert fat.inside("twin-1", "cat /root/ran").split() == ["ran"]
    assert "io.systemd" in xml_of(fat.operator, fat.domain("twin-1"))
    assert "io.systemd" not in fat.operator.virsh("dumpxml", "--inactive", fat.domain("twin-1"))
