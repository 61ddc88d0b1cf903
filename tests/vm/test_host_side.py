"""What root does on the host, past libvirt: `status` names each thing, `verify` has a check for it,
and `plan` and a plain `up` mend it, or say why not. What could not be looked at is not called
protected.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.vm.conftest import Raise
from tests.vm.driver import Vapp, parse, write_vapp, xml_of
from tests.vm.ordinary_user import desk
from vcloud.design.names import bridge_name, network_name, tap_name

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]

NAME = "sided"
DOCUMENT: dict[str, Any] = {
    "vcloud": 1,
    "name": NAME,
    "zones": {"one": {}},
    "vms": {"near": {"image": "base", "zone": "one", "memory": "256M"}},
}
NETWORK = network_name(NAME, "one")
BRIDGE = bridge_name(NETWORK)
FILES = "/run/sided"
"""A folder of the host."""


@pytest.fixture(scope="module")
def vapp(raised: Raise, tmp_path_factory: pytest.TempPathFactory) -> Vapp:
    vapp = raised(NAME, write_vapp(tmp_path_factory.mktemp(NAME) / "sided.yaml", DOCUMENT))
    on_host(vapp, f"mkdir -p {FILES}")
    assert kinds(vapp) == []
    return vapp


def on_host(vapp: Vapp, *commands: str) -> None:
    for command in commands:
        done = vapp.operator.at("h1", *shlex.split(command))
        assert done.code == 0, f"{command}: {done.err}"


def kinds(vapp: Vapp) -> list[str]:
    """The kinds of differences that `status` names, each once."""
    return kinds_of(vapp.operator.status(NAME))


def kinds_of(status: Any) -> list[str]:
    found = status["host_side"]
    assert found["looked_at"], found["reason"]
    assert status["healthy"] == (found["differences"] == [])
    return sorted({item["kind"] for item in found["differences"]})


def tap(vapp: Vapp) -> str:
    card = parse(xml_of(vapp.operator, vapp.domain("near"))).find("devices/interface/target")
    assert card is not None
    return card.attrib["dev"]


def card(vapp: Vapp, name: str, without: str = "nothing") -> str:
    """The XML of the workload's card as libvirt has it but for one element, in a file of the host."""
    text = xml_of(vapp.operator, vapp.domain("near"))
    begin, end = text.index("<interface"), text.index("</interface>") + len("</interface>")
    lines = [line for line in text[begin:end].splitlines() if f"<{without} " not in line]
    return write(vapp, name, "\n".join(lines))


def write(vapp: Vapp, name: str, text: str) -> str:
    path = f"{FILES}/{name}"
    done = vapp.operator.at("h1", "sh", "-c", 'printf %s "$1" >"$2"', "sh", text, path)
    assert done.code == 0, done.err
    return path


@contextmanager
def broken(vapp: Vapp, breaking: Sequence[str], undoing: Sequence[str]) -> Iterator[None]:
    on_host(vapp, *breaking)
    yield
    on_host(vapp, *undoing)


@dataclass(frozen=True, slots=True)
class Breakage:
    """What hands change on the host, how `status` calls it, and the steps that mend it."""

    commands: Sequence[str]
    kinds: Sequence[str]
    steps: Sequence[str]
    problems: int = 1
    """What libvirt tells as well is told once."""


def breakages(vapp: Vapp) -> Iterator[Breakage]:
    """From the least disruptive to mend to the most disruptive."""
    virsh, port, domain = "virsh --quiet", tap(vapp), vapp.domain("near")
    yield Breakage([f"bridge link set dev {port} isolated off"], ["isolation"], ["mend VM"])
    yield Breakage([f"{virsh} nwfilter-binding-delete {port}"], ["filter"], ["mend VM"])
    yield Breakage(["ebtables -t nat -F"], ["filter"], ["mend VM"])
    yield Breakage(
        [f"{virsh} update-device {domain} {card(vapp, 'bare.xml', 'filterref')} --live"],
        ["filter"],
        ["mend VM"],
        problems=2,  # the card's definition, and that no filter is bound to it
    )
    yield Breakage(
        [
            f"ip link set {port} master uplink0",
            f"bridge link set dev {port} isolated on",
            f"bridge link set dev {port} hairpin on",
            f"tc qdisc add dev {port} clsact",
            f"ip address add 10.250.0.1/24 dev {BRIDGE}",
            f"ip route add 10.251.0.0/16 via 10.250.0.2 dev {BRIDGE}",
            f"ip link set {BRIDGE} type bridge group_fwd_mask 8 ageing_time 0",
            "ip link add sided0 type veth peer name sided1",
            f"ip link set sided0 master {BRIDGE}",
        ],
        ["bridge flags", "card", "foreign port", "host address", "host route", "tc"],
        ["mend host"],
        problems=8,
    )
    yield Breakage(
        [f"ip link delete {BRIDGE}"],
        ["bridge", "card"],
        ["load firewall", "make network anew", "restart VM"],
        problems=3,  # the bridge, and the cards of both VMs
    )


def test_what_root_breaks_on_the_host_is_named_and_mended_by_a_plain_up(vapp: Vapp) -> None:
    for broken in breakages(vapp):
        on_host(vapp, *broken.commands)
        status = vapp.operator.status(NAME)
        assert kinds_of(status) == broken.kinds, broken
        assert len(status["problems"]) == broken.problems, status["problems"]
        assert steps(vapp) == broken.steps, broken
        assert "up and protected" in vapp.operator.up(vapp.file).out, broken
        assert kinds(vapp) == [], broken
        assert "nothing to do" in vapp.operator.up(vapp.file).out, broken
    on_host(vapp, "ip link delete sided0")


def steps(vapp: Vapp) -> list[str]:
    """The kinds of steps that `plan` shows."""
    planned = vapp.operator.run("plan", str(vapp.file), "-o", "json").data
    assert planned["unmended"] == []
    return sorted({step["verb"] for step in planned["steps"]})


def test_what_belongs_to_others_is_left_to_them_and_nothing_is_called_protected(
    vapp: Vapp,
) -> None:
    """What vcloud may mend beside it is mended."""
    port = tap(vapp)
    rule = f"PREROUTING -i {port} -j ACCEPT"
    on_host(vapp, f"ebtables -t nat -I {rule}", f"bridge link set dev {port} isolated off")
    assert kinds(vapp) == ["foreign rule", "isolation"]
    planned = vapp.operator.run("plan", str(vapp.file), "--exit-code", code=3).out
    assert "not protected, and not for `vcloud up` to end" in planned
    for _ in ("mends the card", "has nothing to do"):
        failed = vapp.operator.up(vapp.file, code=1)
        assert "is up, and is not protected" in failed.err
        assert "vcloud does not change rules that others made" in failed.err
        assert "up and protected" not in failed.out
        assert kinds(vapp) == ["foreign rule"]
    on_host(vapp, f"ebtables -t nat -D {rule}")
    assert "nothing to do" in vapp.operator.up(vapp.file).out
    assert kinds(vapp) == []


def test_a_process_that_has_a_disk_of_the_vapp_open_is_named(vapp: Vapp) -> None:
    """A QEMU that nobody told libvirt of, on the disk of a VM that runs."""
    disk = parse(xml_of(vapp.operator, vapp.domain("near"))).find("devices/disk/source")
    assert disk is not None
    foreign = (
        "qemu-system-x86_64 -machine none -S -nodefaults -display none -daemonize "
        f"-pidfile {FILES}/number -blockdev driver=qcow2,node-name=d,read-only=on,"
        f"file.driver=file,file.locking=off,file.filename={disk.attrib['file']}"
    )
    with broken(vapp, [foreign], [f"pkill --pidfile {FILES}/number"]):
        assert kinds(vapp) == ["foreign process"]


def test_verify_has_a_check_for_each(vapp: Vapp) -> None:
    port = tap(vapp)
    on_host(
        vapp,
        f"bridge link set dev {port} isolated off",
        f"virsh --quiet nwfilter-binding-delete {port}",
    )
    found = vapp.operator.run("verify", NAME, "-o", "json", code=4).data
    failed = {check["id"] for check in found["checks"] if check["outcome"] == "fail"}
    assert {"config/host/isolation", "config/host/filter"} <= failed
    assert "config/host/foreign-port" not in failed
    vapp.operator.up(vapp.file)
    assert kinds(vapp) == []
    assert tap(vapp) == port == tap_name(NAME, "near", "one")


def test_what_was_not_looked_at_is_not_called_protected(vapp: Vapp) -> None:
    said = vapp.operator.run("status", NAME).out
    assert f"{NAME} on h1: protected, 2 of 2 VMs run" in said
    with broken(vapp, ["mount --bind /dev/null /usr/sbin/nft"], ["umount /usr/sbin/nft"]):
        unseen = vapp.operator.run("status", NAME)
        data = vapp.operator.status(NAME)
        nothing = vapp.operator.up(vapp.file).out
    assert "nothing to do as far as libvirt tells; the host's side was not looked at" in nothing
    assert (
        "protected as far as libvirt tells; the host's side was not looked at; 2 of 2 VMs run"
        in unseen.out
    )
    assert "nft is not installed" in unseen.err
    assert data["healthy"]
    assert data["host_side"]["not_looked_at"] == ["filter", "foreign rule", "redirect"]


def test_an_ordinary_user_sees_all_with_the_installed_reporter_and_is_told_without(
    vapp: Vapp, tmp_path: Path
) -> None:
    """The reporter's own sudo rule: tests/netns/host/test_install.py."""
    unseen = "as far as libvirt tells; the host's side was not looked at"
    with desk(vapp.operator, vapp.file, tmp_path) as at:
        status, plan = at.as_user("status", NAME), at.as_user("plan", vapp.file.name)
        assert f"protected {unseen}; 2 of 2 VMs run" in status.out, status.err
        assert "is not installed there, and vcloud is not root" in status.err
        assert "`vcloud doctor --fix` installs a reporter" in status.err
        assert f"nothing to do {unseen}" in plan.out, plan.err

        assert "host-report" in at.as_root("doctor", "--fix").err
        status, plan = at.as_user("status", NAME), at.as_user("plan", vapp.file.name)
        assert "protected, 2 of 2 VMs run" in status.out, status.err
        assert plan.out.endswith("nothing to do\n"), plan.err

        address = f"10.250.0.1/24 dev {BRIDGE}"
        with broken(vapp, [f"ip address add {address}"], [f"ip address delete {address}"]):
            failed = at.as_user("up", vapp.file.name)
        assert failed.code == 1
        assert f"as root on the host, run: ip address delete {address}" in failed.err
