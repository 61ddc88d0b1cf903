"""The shop, as its customers, its attackers and its operator see it."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from tests.vm.conftest import SHOP
from tests.vm.driver import Operator, Probe, Vapp, must_open, parse, wait_until
from vcloud.design.names import filter_name

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]

CARD = "4111111111111111"
KINDS = {"config", "flow", "denied", "spoofed", "host", "ips", "leak"}
SERVER = {4: "203.0.113.10", 6: "2001:db8:203::10"}
FAMILIES = (4, 6)


def order(shop: Vapp, family: int = 4, item: str = "teapot") -> dict[str, Any]:
    placed = shop.curl(
        "/orders", "--fail", "-d", json.dumps({"item": item, "card": CARD}), family=family
    )
    assert placed.code == 0, placed.err
    answer: dict[str, Any] = json.loads(placed.out)
    return answer


def address(shop: Vapp, vm: str, family: int) -> str:
    return (shop.addresses4 if family == 4 else shop.addresses6)[vm]


# Customers


@pytest.mark.parametrize("family", FAMILIES)
def test_a_customer_orders_and_finds_the_order_with_its_card_masked(
    shop: Vapp, family: int
) -> None:
    item = f"teapot {uuid.uuid4()}"
    assert order(shop, family, item)["card"] == "************1111"
    listed = shop.curl("/orders", "--fail", family=family)
    assert item in listed.out
    assert CARD not in listed.out


@pytest.mark.parametrize("family", FAMILIES)
def test_a_card_number_never_reaches_a_customer_and_the_ips_says_so(
    shop: Vapp, family: int
) -> None:
    """The near miss is the same request for an order that does not exist: its answer arrives."""
    number = order(shop, family)["order"]
    before = leaks_told(shop)
    assert "no such order" in shop.curl("/orders/999999/card", family=family).out
    leaked = shop.curl(f"/orders/{number}/card", family=family, patience=8)
    assert leaked.code != 0
    assert CARD not in leaked.out
    wait_until("The IPS tells of the leak", lambda: leaks_told(shop) > before)


def leaks_told(shop: Vapp) -> int:
    return shop.operator.run("logs", shop.vm("ips"), "-n", "500").out.count("leak of card-number")


def test_the_order_store_itself_has_the_whole_card_number(shop: Vapp) -> None:
    """So that what did not arrive had been there to be sent."""
    order(shop)
    assert CARD in shop.inside(
        "db", "runuser -u postgres -- psql -At shop -c 'select card from orders'"
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_from_outside_only_the_published_port_is_open(shop: Vapp, family: int) -> None:
    """nmap does not wait long for an answer, so the open port is asked by itself."""
    target = shop.uplink[0] if family == 4 else shop.uplink[1]
    ports = "22,80,443,5432,8000,8079-8081,9000-9100"
    version = ["-6"] if family == 6 else []
    done = shop.operator.at(
        "customer",
        "nmap",
        "-n",
        "-Pn",
        *version,
        "-sT",
        "--max-retries",
        "0",
        "-T5",
        "--open",
        "-p",
        ports,
        "-oG",
        "-",
        target,
    )
    assert done.code == 0, done.err
    opened = [part.split("/")[0].split()[-1] for part in done.out.split(", ") if "/open/" in part]
    assert set(opened) <= {"8080"}
    assert shop.operator.at("customer", "nc", "-z", "-w", "120", target, "8080").code == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_the_outside_reaches_no_vm_past_the_firewall_address(shop: Vapp, family: int) -> None:
    """A route to the zones by way of the firewall helps nobody."""
    via, network = shop.uplink[family == 6], address(shop, "web-1", family)
    version = ["-6"] if family == 6 else []
    shop.operator.at("customer", "ip", *version, "route", "add", network, "via", via)
    try:
        assert (
            shop.operator.at(
                "customer", "curl", "-sS", "-m", "4", f"http://{bracketed(network)}:80/orders"
            ).code
            != 0
        )
    finally:
        shop.operator.at("customer", "ip", *version, "route", "del", network, "via", via)
    assert shop.curl("/orders", "--fail", family=family).code == 0


def bracketed(text: str) -> str:
    return f"[{text}]" if ":" in text else text


# Inside


def test_declared_flows_pass_between_the_tiers(shop: Vapp) -> None:
    assert (
        shop.probe("web-1", *(must_open(address(shop, "api", family), 8000) for family in FAMILIES))
        == ["open"] * 2
    )
    assert (
        shop.probe("api", *(must_open(address(shop, "db", family), 5432) for family in FAMILIES))
        == ["open"] * 2
    )
    assert (
        shop.probe("api", *(must_open(SERVER[family], 443) for family in FAMILIES)) == ["open"] * 2
    )


UNDECLARED = (
    ("web-1", "db", 5432),
    ("web-1", "api", 22),
    ("api", "db", 22),
    ("db", "api", 8000),
    ("db", "web-1", 80),
    ("api", "web-1", 80),
)
"""Source, target and port of TCP connections from each zone into each other zone. No flow declares
them.
"""


def test_what_no_flow_names_is_dropped_and_counted_while_the_target_answers(shop: Vapp) -> None:
    """In both families. Each target also asks itself, which shows that it would have answered."""
    attempts = [(*attempt, family) for attempt in UNDECLARED for family in FAMILIES]
    for vm in ("web-1", "api", "db"):
        own = [
            must_open(address(shop, vm, family), port)
            for _, target, port, family in attempts
            if target == vm
        ]
        assert shop.probe(vm, *own) == ["open"] * len(own), vm
        others = [
            Probe("tcp", address(shop, target, family), port)
            for source, target, port, family in attempts
            if source == vm
        ]
        assert shop.probe(vm, *others) == ["timeout"] * len(others), vm
    logged = shop.operator.run("logs", shop.vm("firewall"), "-n", "2000").out
    denied = [
        f"{address(shop, source, family)} -> {address(shop, target, family)} tcp/{port}"
        for source, target, port, family in attempts
    ]
    assert [line for line in denied if line not in logged] == []


@pytest.mark.parametrize("source", ["web-1", "api", "db"])
def test_no_vm_reaches_the_outside_but_by_its_flows(shop: Vapp, source: str) -> None:
    probes = [
        Probe(protocol, SERVER[family], port)
        for protocol, port in (("tcp", 22), ("udp", 53), ("icmp", 0))
        for family in FAMILIES
    ]
    assert set(shop.probe(source, *probes)) <= {"timeout", "unreachable"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_false_source_goes_no_further_than_the_firewall(shop: Vapp, family: int) -> None:
    """web-1 sends as api, who may talk to the database: the IPS takes in no source of another zone.
    Then it sends as a neighbour that does not exist: the firewall drops that.
    """
    before = counted(shop.firewall_report(), "ctl:antispoof")
    send_as(shop, address(shop, "api", family), family)
    assert counted(shop.firewall_report(), "ctl:antispoof") == before
    send_as(shop, str(ip_address(address(shop, "web-1", family)) + 1), family)
    assert counted(shop.firewall_report(), "ctl:antispoof") > before


def send_as(shop: Vapp, source: str, family: int) -> None:
    """web-1 sends to the database with a false source."""
    shop.probe("web-1", Probe("spoof-tcp", address(shop, "db", family), 5432, source=source))


def counted(report: Any, comment: str) -> int:
    rules = [
        item["rule"]
        for item in report["ruleset"]["nftables"]
        if item.get("rule", {}).get("comment") == comment
    ]
    return sum(
        part["counter"]["packets"] for rule in rules for part in rule["expr"] if "counter" in part
    )


def test_a_vm_that_gives_itself_a_route_and_a_neighbour_meets_nobody(shop: Vapp) -> None:
    """Root in one VM tries to reach the database's card directly; zones are separate wires, so
    nobody answers.
    """
    target = address(shop, "db", 4)
    card = shop.inside(
        "web-1",
        "ip -o route show default | awk '{for (i = 1; i < NF; i++) if ($i == \"dev\") print $(i + 1)}'",
    ).strip()
    shop.inside("web-1", f"ip route add {target}/32 dev {card}")
    try:
        assert shop.probe("web-1", Probe("tcp", target, 5432))[0] in ("timeout", "unreachable")
    finally:
        shop.inside("web-1", f"ip route del {target}/32 dev {card}")
    assert shop.curl("/orders", "--fail").code == 0


@pytest.mark.parametrize("vm", ["web-1", "api", "db"])
def test_the_host_has_no_way_to_a_vm(shop: Vapp, vm: str) -> None:
    for family in FAMILIES:
        done = shop.operator.at("h1", "nc", "-z", "-w", "2", address(shop, vm, family), "22")
        assert done.code != 0


def test_the_host_has_no_address_on_any_zone(shop: Vapp) -> None:
    links = json.loads(shop.operator.at("h1", "ip", "-j", "address").out)
    bridges = {
        bridge_of(shop.operator, name)
        for name in shop.operator.virsh("net-list", "--name").split()
        if name.startswith("shop.")
    }
    assert len(bridges) == 2 * 3, "each zone is inspected, and has a side towards the firewall"
    found = {link["ifname"]: link["addr_info"] for link in links if link["ifname"] in bridges}
    assert set(found) == bridges
    assert not any(found.values())


def bridge_of(operator: Operator, network: str) -> str:
    bridge = parse(operator.virsh("net-dumpxml", network)).find("bridge")
    assert bridge is not None
    return bridge.attrib["name"]


def test_status_tells_how_the_shop_is_reached(shop: Vapp) -> None:
    status = shop.operator.status("shop")
    assert status["healthy"]
    assert status["phase"] == "ready"
    assert status["problems"] == []
    assert any(":8080 -> web tcp/80 (checkout)" in line for line in status["published"])
    assert {vm["name"]: vm["state"] for vm in status["vms"]} == dict.fromkeys(
        ("firewall", "ips", "web-1", "api", "db"), "running"
    )
    assert shop.operator.run("status", "shop", "--exit-code").code == 0


# Verify


def outcomes(shop: Vapp, code: int | None = None) -> Any:
    return shop.operator.run("verify", "shop", "-o", "json", code=code).data


def test_verify_tries_every_kind_of_promise_and_all_are_kept(shop: Vapp, tmp_path: Path) -> None:
    junit = tmp_path / "verify.xml"
    found = shop.operator.run("verify", "shop", "-o", "json", "--junit", str(junit), code=None)
    told = [
        (check["id"], check["outcome"], check["detail"])
        for check in found.data["checks"]
        if check["outcome"] != "pass"
    ]
    assert told == []
    assert found.code == found.data["exit"] == 0
    assert {check["kind"] for check in found.data["checks"]} == KINDS
    for kind in ("flow", "denied", "spoofed", "host"):
        assert {
            check["id"].rpartition("/")[2]
            for check in found.data["checks"]
            if check["kind"] == kind
        } == {"4", "6"}
    suites = parse(junit.read_text())
    assert {suite.get("name") for suite in suites} == KINDS
    assert len(list(suites.iter("testcase"))) == len(found.data["checks"])


@contextmanager
def busy_processors(count: int = 2) -> Iterator[None]:
    """Other work on this machine, which takes whatever it gets."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def test_verify_finds_a_healthy_shop_healthy_on_a_busy_machine(shop: Vapp) -> None:
    with busy_processors():
        found = outcomes(shop)
    assert [check for check in found["checks"] if check["outcome"] != "pass"] == []
    assert found["exit"] == 0


@contextmanager
def broken(shop: Vapp, vm: str, script: str, mend: str) -> Iterator[None]:
    """An appliance is tampered with, and afterwards as it was."""
    shop.inside(vm, script)
    try:
        yield
    finally:
        shop.inside(vm, mend)


@contextmanager
def without_mac_filter(shop: Vapp, file: Path) -> Iterator[None]:
    """The host lets every frame of the shop's VMs pass."""
    name = filter_name("shop")
    kept = shop.operator.virsh("nwfilter-dumpxml", name)
    file.write_text(kept.replace("action='drop'", "action='return'"))
    shop.operator.virsh("nwfilter-define", str(file))
    try:
        yield
    finally:
        file.write_text(kept)
        shop.operator.virsh("nwfilter-define", str(file))


def test_verify_goes_red_when_the_ips_only_watches_and_the_host_filters_no_mac_addresses(
    shop: Vapp, tmp_path: Path
) -> None:
    """The IPS's own rules are each turned from drop to alert, behind vcloud's back."""
    weaken = "cd /etc/vcloud/ips && cp -a . /tmp/ips.kept && sed -i 's/^drop /alert /' rules/*.rules *.rules 2>/dev/null; "
    reload = "/usr/lib/vcloud/guest suricata ruleset-reload-rules"
    with (
        without_mac_filter(shop, tmp_path / "filter.xml"),
        broken(
            shop,
            "ips",
            weaken + reload,
            f"cp -a /tmp/ips.kept/. /etc/vcloud/ips/ && rm -r /tmp/ips.kept && {reload}",
        ),
    ):
        found = outcomes(shop, code=4)
    failed = [check for check in found["checks"] if check["outcome"] == "fail"]
    assert {check["kind"] for check in failed} == {"config", "ips", "leak", "spoofed"}
    assert {check["id"] for check in failed if check["kind"] == "spoofed"} == {
        f"spoofed/{vm}/mac/4" for vm in ("web-1", "api", "db")
    }
    number = order(shop)["order"]
    wait_until(
        "The leak is stopped again",
        lambda: CARD not in shop.curl(f"/orders/{number}/card", patience=8).out,
    )


def test_up_after_all_of_it_finds_nothing_to_do(shop: Vapp) -> None:
    assert "nothing to do" in shop.operator.up(SHOP).out
