"""What makes each VM itself: names, keys, addresses, disks. Also after a reboot and with hardware
that is plugged in later.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.vm.conftest import Raise
from tests.vm.driver import Operator, Vapp, domains, mark, wait_until, write_vapp

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]

NAME = "people"
WORKLOADS = ("hub", "guest-1", "guest-2", "keeper")
HOT_DISK = "/var/lib/libvirt/images/hot.img"
HOT_MAC = "52:54:00:12:34:56"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "id"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "me@desk", "-f", str(path)],
        check=True,
    )
    return path


@pytest.fixture(scope="module")
def people(raised: Raise, key: Path, tmp_path_factory: pytest.TempPathFactory) -> Vapp:
    """hub stands in two zones, the guests meet in an open one, keeper has a disk."""
    document: dict[str, Any] = {
        "vcloud": 1,
        "name": NAME,
        "authorized_keys": [key.with_suffix(".pub").read_text().strip()],
        "zones": {"north": {}, "south": {}, "square": {"open": True}},
        "vms": {
            "hub": {
                "image": "base",
                "memory": "256M",
                "zone": ["north", "south"],
                "ready": {"tcp": 22},
            },
            "guest": {"image": "base", "memory": "256M", "zone": "square", "count": 2},
            "keeper": {
                "image": "base",
                "memory": "256M",
                "zone": "south",
                "disks": {"data": {"size": "64M", "mount": "/srv/data"}},
                "files": {
                    "/etc/systemd/system/mine.service": "[Service]\nExecStart=sleep inf\n[Install]\nWantedBy=multi-user.target\n"
                },
                "run": ["systemctl enable --now mine", "echo once >> /var/lib/ran"],
            },
        },
        "flows": [
            {"id": "visit", "from": "guest", "to": "hub", "service": ["tcp/22", "icmp"]},
            {"id": "keep", "from": "hub", "to": "keeper", "service": "tcp/22"},
            {"id": "report", "from": "keeper", "to": "hub", "service": "tcp/22"},
            {"id": "login", "from": "internet", "to": "hub", "service": "tcp/22", "publish": 2222},
        ],
    }
    return raised(NAME, write_vapp(tmp_path_factory.mktemp(NAME) / "people.yaml", document))


def cards(vapp: Vapp, vm: str) -> dict[str, set[str]]:
    """Global addresses of each card, with their lengths."""
    listed = json.loads(vapp.inside(vm, "ip -j address show scope global"))
    found = {
        card["ifname"]: {
            f"{item['local']}/{item['prefixlen']}" for item in card["addr_info"] if item
        }
        for card in listed
        if card
    }
    return {name: addresses for name, addresses in found.items() if addresses}


def reaches(vapp: Vapp, source: str, target: str, patience: int = 120) -> bool:
    """By name, in both families; the other end speaks first."""
    script = (
        f"for family in 4 6; do a=$(getent ahostsv$family {target} | awk 'NR == 1 {{print $1}}'); "
    )
    script += (
        f'timeout {patience} bash -c "exec 3<>/dev/tcp/$a/22 && head -c 4 <&3" 2>/dev/null; done; :'
    )
    return vapp.inside(source, script) == "SSH-SSH-"


def is_kept_from(vapp: Vapp, source: str, target: str) -> bool:
    return not reaches(vapp, source, target, patience=5)


# Names and keys


def test_every_vm_has_its_own_name_machine_id_and_host_key(people: Vapp) -> None:
    told = {
        vm: people.inside(
            vm, "hostname; cat /etc/machine-id; cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub"
        ).split("\n")
        for vm in WORKLOADS
    }
    assert {vm: lines[0] for vm, lines in told.items()} == {vm: vm for vm in WORKLOADS}
    assert len({lines[1] for lines in told.values()}) == len(WORKLOADS)
    assert all(len(lines[1]) == 32 for lines in told.values())
    assert {vm: lines[2] for vm, lines in told.items()} == {
        vm: " ".join(mark(people.operator, people.domain(vm))["host-key"].split()[:2])
        for vm in WORKLOADS
    }
    assert len({lines[2] for lines in told.values()}) == len(WORKLOADS)


def test_vms_find_each_other_by_name_and_tier(people: Vapp) -> None:
    found = people.inside("hub", "getent ahosts guest-2 guest keeper | awk '{print $1}'").split()
    assert set(found) == {
        *(people.addresses4[vm] for vm in ("guest-1", "guest-2", "keeper")),
        *(people.addresses6[vm] for vm in ("guest-1", "guest-2", "keeper")),
    }
    assert people.inside("keeper", "getent hosts nobody || echo none") == "none\n"


def test_the_key_of_the_file_lets_in_and_another_does_not(people: Vapp, key: Path) -> None:
    stored = people.inside(
        "hub",
        "cat /root/.ssh/authorized_keys; stat -c '%a %U' /root/.ssh /root/.ssh/authorized_keys",
    )
    assert stored == f"{key.with_suffix('.pub').read_text()}700 root\n600 root\n"
    other = key.with_name("other")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    assert login(people, key).endswith("hub\n")
    assert login(people, other) == ""


def login(people: Vapp, key: Path) -> str:
    """A customer with a key, over the network and the pinned host key."""
    known = key.with_name("known_hosts")
    known.write_text(f"hub {mark(people.operator, people.domain('hub'))['host-key']}\n")
    options = [
        f"UserKnownHostsFile={known}",
        "HostKeyAlias=hub",
        "StrictHostKeyChecking=yes",
        "BatchMode=yes",
        "ConnectTimeout=300",
    ]
    flags = [part for option in options for part in ("-o", option)]
    return people.operator.at(
        "customer",
        "ssh",
        "-F",
        "/dev/null",
        *flags,
        "-i",
        str(key),
        "-p",
        "2222",
        f"root@{people.uplink[0]}",
        "hostname",
        timeout=600,
    ).out


def test_nothing_has_failed_in_any_guest_and_clocks_are_right(people: Vapp) -> None:
    for vm in WORKLOADS:
        assert (
            people.inside(
                vm, "systemctl --failed --no-legend; systemctl is-system-running --wait || :"
            )
            == "running\n"
        )
    now = float(subprocess.check_output(["date", "+%s"], text=True))
    assert abs(float(people.inside("hub", "date +%s")) - now) < 60


def test_randomness_differs_between_vms(people: Vapp) -> None:
    drawn = [
        people.inside(
            vm, "head -c 16 /dev/urandom | od -An -tx1; cat /proc/sys/kernel/random/boot_id"
        )
        for vm in WORKLOADS
    ]
    assert len(set(drawn)) == len(WORKLOADS)


# Paths


def test_a_vm_in_a_closed_zone_has_no_neighbour_but_the_firewall(people: Vapp) -> None:
    addresses = {address for found in cards(people, "keeper").values() for address in found}
    assert {address.rpartition("/")[2] for address in addresses} == {"32", "128"}
    routes = people.inside("keeper", "ip route; ip -6 route show | grep -v fe80").splitlines()
    assert sum(route.startswith("default via") for route in routes) == 2


def test_vms_of_an_open_zone_meet_directly(people: Vapp) -> None:
    """The firewall sees nothing of it; that is what `open` means."""
    before = people.firewall_report()["ruleset"]["nftables"]
    assert reaches(people, "guest-1", "guest-2")
    assert reaches(people, "guest-2", "guest-1")
    ours = people.addresses4["guest-1"]
    assert json.dumps(before).count(ours) == json.dumps(
        people.firewall_report()["ruleset"]["nftables"]
    ).count(ours)
    neighbours = people.inside("guest-1", f"ip neigh show {people.addresses4['guest-2']}")
    assert "lladdr" in neighbours


def test_a_vm_in_two_zones_is_reached_and_answers_by_the_right_card(people: Vapp) -> None:
    """From the outside and the guests on its first card, from keeper on the one that they share,
    and the other way round.
    """
    assert len(cards(people, "hub")) == 2
    assert (
        people.operator.at(
            "customer",
            "timeout",
            "120",
            "bash",
            "-c",
            f"exec 3<>/dev/tcp/{people.uplink[0]}/2222 && head -c 4 <&3",
        ).out
        == "SSH-"
    )
    assert reaches(people, "guest-1", "hub")
    assert reaches(people, "keeper", "hub")
    assert reaches(people, "hub", "keeper")
    assert is_kept_from(people, "hub", "guest-1")
    assert is_kept_from(people, "keeper", "guest-1")
    met = people.inside("keeper", "getent ahostsv4 hub | awk 'NR == 1 {print $1}'").strip()
    assert met != people.addresses4["hub"]
    assert met in json.dumps(
        sorted(address for found in cards(people, "hub").values() for address in found)
    )


def test_a_vm_in_two_zones_is_no_way_between_them(people: Vapp) -> None:
    assert (
        people.inside(
            "hub", "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding"
        )
        == "0\n0\n"
    )


# Disks


def test_the_data_disk_is_mounted_and_is_the_one_of_its_name(people: Vapp) -> None:
    assert people.inside("keeper", "findmnt -no FSTYPE /srv/data") == "ext4\n"
    device = people.inside("keeper", "findmnt -no SOURCE /srv/data").strip().rpartition("/")[2]
    assert people.inside("keeper", f"cat /sys/block/{device}/serial").strip() == "data"


# A second life


def test_after_a_reboot_from_within_a_vm_is_as_it_was(people: Vapp) -> None:
    """Without vcloud's help: addresses, names, disk and services come back, run lines do not run
    again.
    """
    before = cards(people, "keeper")
    people.inside("keeper", "echo word > /srv/data/word; sync")
    boot = people.boot_id("keeper")
    numbers = domains(people.operator, NAME)
    people.inside("keeper", "systemctl reboot", code=None)
    wait_until("The next boot", lambda: people.boot_id("keeper", code=None) not in ("", boot))
    wait_until(
        "Its services",
        lambda: (
            people.inside("keeper", "systemctl is-active ssh.socket mine", code=None)
            == "active\nactive\n"
        ),
    )
    assert domains(people.operator, NAME) == numbers
    assert cards(people, "keeper") == before
    assert (
        people.inside(
            "keeper", "hostname; cat /srv/data/word /var/lib/ran; findmnt -no FSTYPE /srv/data"
        )
        == "keeper\nword\nonce\next4\n"
    )
    assert people.inside("keeper", "systemctl --failed --no-legend") == ""
    assert reaches(people, "keeper", "hub")
    assert reaches(people, "hub", "keeper")
    assert people.operator.run("ssh", people.vm("keeper"), "--", "hostname").out == "keeper\n"
    assert "nothing to do" in people.operator.up(people.file).out


def test_a_firewall_that_reboots_by_itself_comes_back_with_its_rules(people: Vapp) -> None:
    """Without vcloud's help, and never without them."""
    digest = people.firewall_report()["digest"]
    people.operator.virsh("reset", people.domain("firewall"))
    wait_until("The firewall", lambda: report_digest(people) == digest)
    assert reaches(people, "keeper", "hub")
    assert is_kept_from(people, "keeper", "guest-1")
    assert people.operator.run("status", NAME, "--exit-code").code == 0


def report_digest(people: Vapp) -> str:
    done = people.operator.run(
        "exec", people.vm("firewall"), "--", "/usr/lib/vcloud/firewall-report", code=None
    )
    return str(done.data["digest"]) if done.code == 0 else ""


# Hot-plug


@pytest.mark.long
def test_a_disk_that_is_plugged_in_is_there_at_once(people: Vapp) -> None:
    people.operator.at("h1", "truncate", "-s", "32M", HOT_DISK)
    domain = people.domain("guest-1")
    before = block_devices(people)
    people.operator.virsh("attach-disk", domain, HOT_DISK, "vdx", "--live", "--serial", "hot")
    try:
        wait_until("The disk", lambda: block_devices(people) > before)
        (device,) = block_devices(people) - before
        wait_until(
            "udev's name of it",
            lambda: (
                people.inside("guest-1", "ls /dev/disk/by-id/virtio-hot", code=None).strip() != ""
            ),
        )
        people.inside(
            "guest-1",
            f"mkfs.ext4 -q /dev/{device} && mount /dev/{device} /mnt && echo hot > /mnt/word && umount /mnt",
        )
    finally:
        people.operator.virsh("detach-disk", domain, "vdx", "--live", code=None)
        people.operator.at("h1", "rm", "-f", HOT_DISK)
    wait_until("Its end", lambda: block_devices(people) == before)


def block_devices(people: Vapp) -> set[str]:
    return set(people.inside("guest-1", "ls /sys/block").split())


@pytest.mark.long
def test_a_card_that_is_plugged_in_is_there_at_once(people: Vapp) -> None:
    domain = people.domain("guest-2")
    people.operator.virsh(
        "attach-interface",
        domain,
        "network",
        f"{NAME}.square",
        "--mac",
        HOT_MAC,
        "--model",
        "virtio",
        "--live",
    )
    try:
        wait_until("The card", lambda: card_of(people, HOT_MAC) != "")
        name = card_of(people, HOT_MAC)
        people.inside("guest-2", f"ip link set {name} up && ip address add 192.0.2.7/24 dev {name}")
        wait_until(
            "Its carrier",
            lambda: people.inside("guest-2", f"cat /sys/class/net/{name}/carrier").strip() == "1",
        )
        assert people.inside("guest-2", "systemctl --failed --no-legend") == ""
    finally:
        people.operator.virsh("detach-interface", domain, "network", "--mac", HOT_MAC, "--live")
    wait_until("Its end", lambda: card_of(people, HOT_MAC) == "")
    assert reaches(people, "guest-2", "guest-1")


def card_of(people: Vapp, mac: str) -> str:
    return people.inside(
        "guest-2",
        f"for card in /sys/class/net/*; do grep -qs {mac} $card/address && echo ${{card##*/}}; done; :",
    ).strip()


def test_at_last_there_is_nothing_to_do(people: Vapp, operator: Operator) -> None:
    assert "nothing to do" in operator.up(people.file).out
    assert operator.status(NAME)["healthy"]
