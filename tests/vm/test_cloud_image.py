"""A user's own qcow2 as a VM: a distribution's cloud image, with a guest agent and without one.

An image with an agent wakes from a memory image: its boot has waited before any service, and
cloud-init goes on from there. An image without an agent boots cold. Both must be what the file
describes.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.vm.cloud_image import cloud_image, cloud_image_without_agent
from tests.vm.conftest import Raise
from tests.vm.driver import (
    Operator,
    Probe,
    Vapp,
    domains,
    mark,
    must_open,
    remains,
    stages,
    standing,
    wait_until,
    write_vapp,
    xml_of,
)

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]

SSH = 22
WOKEN = ("left", "right")
"""Two VMs of the image with an agent."""
COLD = "silent"
"""The VM of the image without an agent."""


def guest(image: Path) -> dict[str, object]:
    return {
        "image": {"file": str(image)},
        "zone": ["app", "lab"],
        "memory": "640M",
        "disks": {"data": {"size": "64M", "mount": "/srv/data"}},
        "files": {"/etc/motd": "first\n", "/etc/gone": "soon\n"},
        "run": ["echo ran >>/root/ran", "mountpoint /srv/data && touch /srv/data/kept"],
        "ready": {"tcp": SSH, "timeout": 900},
    }


@pytest.fixture(scope="module")
def own(operator: Operator, raised: Raise, tmp_path_factory: pytest.TempPathFactory) -> Vapp:
    """`near` has a key with which it can log in to the others over the network."""
    folder = tmp_path_factory.mktemp("own")
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True
    )
    key = {"content": (folder / "key").read_text(), "mode": "0600"}
    document = {
        "vcloud": 1,
        "name": "own",
        "authorized_keys": [(folder / "key.pub").read_text().strip()],
        "zones": {"app": {}, "lab": {"open": True}},
        "vms": {
            "near": {
                "image": "base",
                "memory": "256M",
                "zone": ["app", "lab"],
                "files": {"/root/key": key},
            },
            **{name: guest(cloud_image()) for name in WOKEN},
            COLD: guest(cloud_image_without_agent()),
        },
        "flows": [
            *({"from": "near", "to": name, "service": f"tcp/{SSH}"} for name in (*WOKEN, COLD)),
            {"from": "left", "to": "near", "service": "icmp"},
        ],
    }
    file = write_vapp(folder / "own.yaml", document)
    just_woken = {key: value for key, value in document.items() if key != "flows"} | {
        "vms": {name: guest(cloud_image()) for name in WOKEN}
    }
    operator.run("image", "memory", "make", str(write_vapp(folder / "woken.yaml", just_woken)))
    return raised("own", file)


def addresses(own: Vapp, vm: str) -> tuple[str, str]:
    return own.addresses4[vm], own.addresses6[vm]


def over_ssh(own: Vapp, vm: str, script: str) -> str:
    """What a shell line in a VM says to one who has logged in from `near`, over the network and
    with the pinned host key.
    """
    host_key = mark(own.operator, own.domain(vm))["host-key"]
    login = f"echo '{vm} {host_key}' >/run/known && ssh -i /root/key -o UserKnownHostsFile=/run/known -o StrictHostKeyChecking=yes"
    return own.inside(
        "near", f"{login} -o BatchMode=yes -o ConnectTimeout=250 root@{vm} sh", stdin=script
    )


DESCRIBED = (
    "hostname; cat /etc/motd; cat /root/ran; ls /srv/data; mountpoint -q /srv/data && echo mounted; getent hosts near; "
    "ip -o addr show dev eth0; cloud-init status || :; cloud-init schema --system"
)
"""Asks a VM for all that its file says of it."""


def assert_as_described(own: Vapp, vm: str, said: str) -> None:
    words = said.split()
    assert words[:6] == [vm, "first", "ran", "kept", "lost+found", "mounted"]
    assert words[6] in addresses(own, "near")
    assert f" {own.addresses4[vm]}/32 " in said
    assert f" {own.addresses6[vm]}/128 " in said
    assert "status: done" in said
    assert "Valid schema" in said


def test_cloud_init_makes_it_the_vm_that_the_file_describes(own: Vapp) -> None:
    """From a cold boot."""
    assert_as_described(own, COLD, over_ssh(own, COLD, DESCRIBED))


def test_they_have_woken(own: Vapp) -> None:
    """A machine that has woken still has what told its memory image's boot to wait; one that was
    booted never had it.
    """
    for vm in WOKEN:
        assert "io.systemd" in xml_of(own.operator, own.domain(vm))
    assert "io.systemd" not in xml_of(own.operator, own.domain(COLD))


def test_it_is_what_a_cold_boot_makes_of_it(own: Vapp) -> None:
    for vm in WOKEN:
        assert_as_described(own, vm, own.inside(vm, DESCRIBED))
        assert (
            own.inside(
                vm, "systemctl --failed --no-legend; systemctl is-system-running --wait || :"
            )
            == "running\n"
        )
    assert "nothing to do" in own.operator.up(own.file).out


def test_no_two_share_a_machine_id_a_key_or_a_random_stream(own: Vapp) -> None:
    script = "cat /etc/machine-id; cut -d' ' -f2 /etc/ssh/ssh_host_*_key.pub; head -c 32 /dev/urandom | od -An -tx1 -w32"
    told = [own.inside(vm, script).splitlines() for vm in WOKEN]
    assert [len(lines) for lines in told] == [3, 3]
    assert all(one != other for one, other in zip(*told, strict=True))
    assert [lines[1] for lines in told] == [
        mark(own.operator, own.domain(vm))["host-key"].split()[1] for vm in WOKEN
    ]


def test_no_service_of_it_has_run_before_it_knew_who_it_is(own: Vapp) -> None:
    """sshd is the first that would have made something of its own."""
    for vm in WOKEN:
        started = own.inside(
            vm,
            "systemctl show --value --property=ActiveEnterTimestampMonotonic cloud-init-local.service ssh.service",
        ).split()
        assert int(started[0]) < int(started[1])


def test_its_host_key_is_the_pinned_one_and_it_has_no_other(own: Vapp) -> None:
    for vm in ("left", COLD):
        for address in addresses(own, vm):
            shown = own.inside(
                "near", f"ssh-keyscan -T 250 {address} 2>/dev/null | grep -v '^#'"
            ).split()
            assert shown == [address, *mark(own.operator, own.domain(vm))["host-key"].split()]


def test_what_is_declared_passes_and_what_is_not_does_not(own: Vapp) -> None:
    ends = [address for vm in (*WOKEN, COLD) for address in addresses(own, vm)]
    assert own.probe("near", *(must_open(end, SSH) for end in ends)) == ["open"] * len(ends)
    assert own.probe("near", *(Probe("tcp", end, 80) for end in ends)) == ["timeout"] * len(ends)
    for address in addresses(own, "near"):
        own.inside("left", f"ping -c 1 -W 120 {address}")
    for address in addresses(own, COLD):
        own.inside("left", f"ping -c 1 -W 5 {address}", code=1)


def test_verify_tests_it_like_any_other_but_cannot_look_into_one_without_an_agent(
    own: Vapp,
) -> None:
    outcome = own.operator.run("verify", "own", "-o", "json", code=5).data
    assert outcome["summary"]["fail"] == outcome["summary"]["error"] == 0
    not_run = [check for check in outcome["checks"] if check["outcome"] == "not run"]
    assert not_run
    assert all(COLD in str(check) for check in not_run)


def test_an_image_in_which_nothing_answers_is_known_never_to_wake(own: Vapp) -> None:
    """Found out when it was booted, so that no memory image of it is ever tried."""
    done = own.operator.run("image", "memory", "make", str(own.file))
    assert (
        f"{COLD} is booted cold: no guest agent answered in a running VM of its image" in done.err
    )
    images = [
        item["image"] for item in own.operator.run("image", "memory", "list", "-o", "json").data
    ]
    assert cloud_image().stem in "".join(images)
    assert cloud_image_without_agent().stem not in "".join(images)


def test_the_seed_is_for_nobody_but_the_hypervisor(own: Vapp) -> None:
    volumes = own.operator.at(
        "h1", "sh", "-c", "stat -c '%a %n' /var/lib/libvirt/images/vcloud/seed.own.*.iso"
    ).out
    assert [line.split()[0] for line in volumes.splitlines()] == ["600", "600", "600"]
    assert "seed.own.left.iso" in xml_of(own.operator, own.domain("left"))


@pytest.fixture(scope="module")
def changed(own: Vapp) -> Vapp:
    """Another file for `left`, and one file less."""
    document: dict[str, Any] = yaml.safe_load(own.file.read_text())
    document["vms"]["left"]["files"] = {"/etc/motd": "second\n"}
    file = write_vapp(own.file.with_name("changed.yaml"), document)
    before = domains(own.operator, "own", live=True)
    pinned = mark(own.operator, own.domain("left"))["host-key"]
    assert "restart" in own.operator.run("plan", str(file)).out
    own.operator.up(file)
    after = domains(own.operator, "own", live=True)
    assert [name for name in before if before[name] != after.get(name)] == [own.domain("left")]
    assert mark(own.operator, own.domain("left"))["host-key"] == pinned
    return standing(own.operator, "own", file)


@pytest.mark.long
def test_a_changed_identity_restarts_it_and_keeps_what_it_is(changed: Vapp) -> None:
    """cloud-init applies the new file; it makes no new host key, runs nothing a second time, and
    the data are still there.
    """
    assert changed.inside(
        "left", "cat /etc/motd /root/ran; ls /etc/gone /srv/data 2>/dev/null || :"
    ).split() == [
        "second",
        "ran",
        "/srv/data:",
        "kept",
        "lost+found",
    ]
    pinned = mark(changed.operator, changed.domain("left"))["host-key"]
    assert changed.inside("left", "cut -d' ' -f1,2 /etc/ssh/ssh_host_*_key.pub").strip() == pinned
    assert "nothing to do" in changed.operator.run("up", str(changed.file)).out


@pytest.mark.long
def test_it_goes_on_from_its_saved_memory(changed: Vapp) -> None:
    script = "cat /etc/machine-id /root/ran"
    before = [(changed.boot_id(vm), changed.inside(vm, script)) for vm in WOKEN]
    for vm in WOKEN:
        changed.inside(vm, "date --set='1 hour ago'")
    changed.operator.run("save", "own")
    done = changed.operator.up(changed.file)
    warnings = [line for line in done.err.splitlines() if "the clock of" in line]
    assert all(COLD in line for line in warnings), "only a guest without an agent keeps an old time"
    assert [(changed.boot_id(vm), changed.inside(vm, script)) for vm in WOKEN] == before
    for vm in WOKEN:
        assert "restoring" in stages(done, vm)
        assert changed.clock_error(vm) < 60
        assert changed.probe(
            "near",
            must_open(changed.addresses4[vm], SSH),
            Probe("tcp", changed.addresses4[vm], 80),
        ) == [
            "open",
            "timeout",
        ]
    assert "nothing to do" in changed.operator.up(changed.file).out


# It boots a whole distribution. tests/vm/test_identity.py reboots VMs of shipped images from inside.
@pytest.mark.long
def test_a_reboot_from_inside_goes_through_to_its_services(changed: Vapp) -> None:
    """The machine still tells it to wait; its definition, from which the next power-on comes, does
    not.
    """
    before = changed.boot_id("right")
    changed.operator.run("exec", changed.vm("right"), "--", "systemctl", "reboot", code=None)

    def is_back() -> bool:
        again = changed.boot_id("right", code=None) not in ("", before)
        return (
            again
            and changed.inside("right", "systemctl is-active ssh.service", code=None) == "active\n"
        )

    wait_until("right is back", is_back)
    assert changed.probe("near", must_open(changed.addresses4["right"], SSH)) == ["open"]
    assert changed.inside("right", "cat /root/ran").split() == ["ran"]
    assert "io.systemd" in xml_of(changed.operator, changed.domain("right"))
    assert "io.systemd" not in changed.operator.virsh(
        "dumpxml", "--inactive", changed.domain("right")
    )


def test_down_leaves_nothing_of_it(own: Vapp) -> None:
    own.operator.run("down", "--yes", "own")
    assert remains(own.operator, "own") == []
