"""Vapps unlike the shop: ranges, datagrams, cards in two zones, an open zone, leaks in answers
only. `verify` must prove every promise of each.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.vm.driver import Operator, remains
from vcloud.hosts.connection import open_host
from vcloud.hosts.inventory import load_inventory
from vcloud.proof.checks import Probe
from vcloud.verify.vantage import host_prober

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]

VAPPS = {
    "mesh": """\
zones: {edge: {}, core: {}, vault: {holds: [secrets]}, bench: {open: true}}
vms:
  gw: {image: base, zone: [edge, core], count: 2, memory: 256M}
  names: {image: base, zone: core, memory: 256M}
  safe: {image: base, zone: vault, memory: 256M}
  tool: {image: base, zone: [bench, core], count: 2, memory: 256M}
flows:
  - {id: visit, from: internet, to: gw, service: tcp/8000-8003, publish: 9000-9003}
  - {id: dns, from: gw, to: names, service: udp/53}
  - {id: up-dns, from: names, to: internet, service: [udp/53, tcp/53]}
  - {id: get, from: gw, to: safe, service: [tcp/7000, icmp]}
  - {id: rtp, from: "zone:bench", to: names, service: udp/5000-5010}
  - {id: round, from: names, to: "zone:edge", service: [tcp/22, icmp]}
  - {id: back, from: names, to: "zone:bench", service: [tcp/22, icmp]}
protection:
  ips: {inspect: [core], mode: detect}
  dlp: [{detect: {name: passport, regex: 'P[0-9]{7}X', at_least: 2}, leaving: [vault], action: block}]
""",
    "three": """\
zones: {a: {}, b: {}, c: {}}
vms:
  x: {image: nginx, zone: a, memory: 256M, count: 2}
  y: {image: base, zone: b, memory: 256M, run: ["touch /root/ran"], ready: {command: "test -e /root/ran", tcp: 22}}
  z: {image: base, zone: c, memory: 256M, after: [y], disks: {data: {size: 64M, mount: /srv/d}}}
flows:
  - {id: web, from: internet, to: x, service: tcp/80, publish: 80}
  - {id: peer, from: x, to: x, service: tcp/80}
  - {id: any, from: "zone:a", to: "zone:b", service: [tcp/22, udp/4000, icmp]}
  - {id: deep, from: y, to: z, service: tcp/1-1024}
  - {id: out, from: z, to: internet, service: [tcp/80, icmp]}
protection:
  ips: {inspect: [a, b, c], mode: prevent}
  dlp:
    - {detect: card-number, leaving: [c], action: block}
    - {detect: card-number, leaving: [b, c], action: alert}
""",
}


@pytest.mark.parametrize("name", [pytest.param("mesh", marks=pytest.mark.long), "three"])
def test_every_promise_is_proven(operator: Operator, tmp_path: Path, name: str) -> None:
    file = tmp_path / f"{name}.yaml"
    file.write_text(f"vcloud: 1\nname: {name}\n{VAPPS[name]}")
    operator.up(file)
    try:
        found = operator.run("verify", name, "-o", "json", code=None)
        assert [check for check in found.data["checks"] if check["outcome"] != "pass"] == []
        assert found.code == 0
        assert {"flow", "denied", "spoofed", "host", "ips", "leak", "config"} == {
            check["kind"] for check in found.data["checks"]
        }
    finally:
        operator.run("down", "--yes", name)
    assert remains(operator, name) == []


def test_several_may_send_from_the_host_at_once(operator: Operator) -> None:
    """As they do where the outside is the host as well. Each port is closed, and says so only after
    a while.
    """
    (ref,) = load_inventory(Path(operator.env["VCLOUD_INVENTORY"]))
    probes = [
        Probe("udp", "-", ip_address("127.0.0.1"), 9000 + number, timeout_ms=30_000)
        for number in range(3)
    ]
    with open_host(ref) as host, ThreadPoolExecutor() as pool:
        before = operator.at("h1", "find", "/run", "/tmp", "-type", "f").out  # noqa: S108
        sent = list(pool.map(lambda _: host_prober(host).probe(probes), range(4)))
        after = operator.at("h1", "find", "/run", "/tmp", "-type", "f").out  # noqa: S108
    assert [[answer.result for answer in answers] for answers in sent] == [["refused"] * 3] * 4
    assert after == before, "the program leaves nothing behind"


def test_a_host_without_a_segment_of_its_own_gets_a_nat_network_while_it_is_needed(
    operator: Operator, tmp_path: Path
) -> None:
    plain = operator.with_host(tmp_path, lambda host: host.pop("uplink"))
    before = operator.virsh("net-list", "--all", "--name").split()
    file = tmp_path / "natted.yaml"
    file.write_text("""\
vcloud: 1
name: natted
zones: {a: {}}
vms: {x: {image: base, zone: a, memory: 256M, ready: {tcp: 22}}}
flows:
  - {id: in, from: internet, to: x, service: tcp/22, publish: 2222}
  - {id: out, from: x, to: internet, service: tcp/80}
""")
    plain.up(file)
    try:
        assert "vcloud-uplink" in operator.virsh("net-list", "--name").split()
        verdict = plain.run("verify", "natted", "-o", "json").data
        assert {"flow/in/internet/x/tcp/22/4", "flow/out/x/internet/tcp/80/6"} <= {
            check["id"] for check in verdict["checks"]
        }
        operator.virsh("net-destroy", "vcloud-uplink")
        assert any("uplink" in problem for problem in plain.status("natted")["problems"])
        assert (
            "libvirt connects its NICs again only when it starts"
            in plain.run("plan", str(file), "-o", "json").out
        )
        plain.up(file)
        assert plain.status("natted")["healthy"]
        assert plain.run("verify", "natted", "-o", "json").data["summary"] == verdict["summary"]
    finally:
        plain.run("down", "--yes", "natted")
    assert operator.virsh("net-list", "--all", "--name").split() == before
