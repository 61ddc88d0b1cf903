"""Hands with virsh change what libvirt has of a running vApp. `status` and `verify` name each
change, and the next `up` mends it with the least disturbance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.vm.conftest import Raise
from tests.vm.driver import Operator, Vapp, parse, with_data_disk, write_vapp, xml_of

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]

NAME = "drift"
VM = "drift.solo"
DOCUMENT = with_data_disk(NAME) | {
    "flows": [{"id": "out", "from": "solo", "to": "internet", "service": "tcp/80"}]
}


@pytest.fixture(scope="module")
def drift(raised: Raise, tmp_path_factory: pytest.TempPathFactory) -> Vapp:
    return raised(NAME, write_vapp(tmp_path_factory.mktemp(NAME) / "drift.yaml", DOCUMENT))


def nic_of(operator: Operator) -> ElementTree.Element:
    found = parse(xml_of(operator, VM)).find("devices/interface")
    assert found is not None
    return found


def tap(operator: Operator) -> str:
    found = nic_of(operator).find("target")
    assert found is not None
    return found.attrib["dev"]


def update_nic(
    operator: Operator, folder: Path, change: Callable[[ElementTree.Element], object]
) -> None:
    nic = nic_of(operator)
    change(nic)
    file = folder / "nic.xml"
    file.write_text(ElementTree.tostring(nic, encoding="unicode"))
    operator.virsh("update-device", VM, str(file), "--live")


def move_to_the_uplink(operator: Operator, folder: Path) -> None:
    def change(nic: ElementTree.Element) -> None:
        source = nic.find("source")
        assert source is not None
        source.attrib = {"network": "uplink"}

    update_nic(operator, folder, change)


def drop_isolation(operator: Operator, folder: Path) -> None:
    def change(nic: ElementTree.Element) -> None:
        port = nic.find("port")
        assert port is not None
        nic.remove(port)

    update_nic(operator, folder, change)


def empty_the_filter(operator: Operator, folder: Path) -> None:
    root = parse(operator.virsh("nwfilter-dumpxml", "vcloud-drift"))
    for rule in root.findall("rule"):
        root.remove(rule)
    (folder / "filter.xml").write_text(ElementTree.tostring(root, encoding="unicode"))
    operator.virsh("nwfilter-define", str(folder / "filter.xml"))


def restart_the_network(operator: Operator, _: Path) -> None:
    operator.virsh("net-destroy", "drift.one")
    operator.virsh("net-start", "drift.one")


HANDS: dict[str, tuple[Callable[[Operator, Path], object], str, set[str]]] = {
    "a NIC on another network": (move_to_the_uplink, "network=uplink", {"mend VM"}),
    "a second NIC": (
        lambda operator, _: operator.virsh(
            "attach-interface", VM, "network", "uplink", "--model", "virtio", "--live"
        ),
        "which vcloud did not put there",
        {"mend VM"},
    ),
    "no isolation": (drop_isolation, "port(isolated=yes)", {"mend VM"}),
    "a cut link": (
        lambda operator, _: operator.virsh("domif-setlink", VM, tap(operator), "down"),
        "its link in zone 'one' is cut",
        {"mend VM"},
    ),
    "a link that is up in the definition": (
        lambda operator, _: operator.virsh("domif-setlink", VM, tap(operator), "up", "--config"),
        "its definition has the link in zone 'one' up",
        {"mend VM"},
    ),
    "no binding of the filter": (
        lambda operator, _: operator.virsh("nwfilter-binding-delete", tap(operator)),
        "the network filter is not bound",
        {"mend VM"},
    ),
    "an empty filter": (empty_the_filter, "the network filter has other rules", {"define filter"}),
    "a start with the host": (
        lambda operator, _: operator.virsh("autostart", VM),
        "it starts with its host",
        {"mend VM"},
    ),
    "no definition": (
        lambda operator, _: operator.virsh("undefine", VM),
        "its definition was removed",
        {"mend VM"},
    ),
    "other memory": (
        lambda operator, _: operator.virsh("setmaxmem", VM, "512M", "--config"),
        "'memory' is",
        {"mend VM"},
    ),
    "a disk less": (
        lambda operator, _: operator.virsh("detach-disk", VM, "vdb", "--live"),
        "'disk vdb' is missing",
        {"restart VM"},
    ),
    "a network that was restarted": (
        restart_the_network,
        "is on no bridge",
        {"restart VM", "load firewall"},
    ),
}


OFTEN = (
    "a NIC on another network",
    "no isolation",
    "a link that is up in the definition",
    "no binding of the filter",
    "an empty filter",
    "no definition",
    "a network that was restarted",
    "no ruleset",
    "forwarding settings",
)
"""What is tried in each run; the others at full count, with those of `test_breakages`."""


def at_full_count(kinds: Iterable[str]) -> list[Any]:
    return [kind if kind in OFTEN else pytest.param(kind, marks=pytest.mark.long) for kind in kinds]


@pytest.mark.parametrize("hands", at_full_count(HANDS))
def test_what_hands_changed_is_named_and_mended(drift: Vapp, tmp_path: Path, hands: str) -> None:
    operator = drift.operator
    change, what, steps = HANDS[hands]
    status = operator.status(NAME)
    assert status["problems"] == []
    change(operator, tmp_path)
    found = operator.status(NAME)
    assert any(what in problem for problem in found["problems"]), found["problems"]
    planned = operator.run("plan", str(drift.file), "-o", "json").data["steps"]
    assert {step["verb"] for step in planned} == steps
    operator.up(drift.file)
    assert operator.status(NAME)["problems"] == []
    assert "nothing to do" in operator.up(drift.file).out


INSIDE = {
    "no ruleset": ("nft flush ruleset", {"load firewall"}),
    "a foreign table": ("nft add table inet other", {"load firewall"}),
    "another rule at the next boot": (
        "echo 'flush ruleset' >> /etc/vcloud/firewall.nft",
        {"load firewall"},
    ),
    "forwarding settings": (
        "echo 1 > /proc/sys/net/ipv4/conf/all/accept_redirects",
        {"configure VM", "load firewall"},
    ),
}


@pytest.mark.parametrize("hands", at_full_count(INSIDE))
def test_what_hands_changed_in_the_firewall_is_named_and_mended(drift: Vapp, hands: str) -> None:
    operator = drift.operator
    script, steps = INSIDE[hands]
    assert operator.status(NAME)["problems"] == []
    drift.inside("firewall", script)
    assert operator.status(NAME)["problems"] != []
    planned = operator.run("plan", str(drift.file), "-o", "json").data["steps"]
    assert {step["verb"] for step in planned} == steps
    operator.up(drift.file)
    assert operator.status(NAME)["problems"] == []
    assert "nothing to do" in operator.up(drift.file).out


def test_verify_names_it_too(drift: Vapp, tmp_path: Path) -> None:
    operator = drift.operator
    right = operator.run("verify", NAME, "-o", "json").data
    assert {check["outcome"] for check in right["checks"]} == {"pass"}
    drop_isolation(operator, tmp_path)
    wrong = operator.run("verify", NAME, "-o", "json", code=4).data
    failed = [check for check in wrong["checks"] if check["outcome"] == "fail"]
    assert "config/libvirt/solo" in [check["id"] for check in failed]
    operator.up(drift.file)
