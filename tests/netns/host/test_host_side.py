"""The reporter and the comparison on a real host: what root can do to a vApp's side of it is named,
and nothing is named while all is as it should be.
"""

from __future__ import annotations

import resource
import shlex
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.netns.host.machine import (
    DESIGN,
    PYTHON,
    RUNNING,
    UPLINK,
    Machine,
    bind,
    disk_of,
    unbind,
)
from tests.netns.namespaces import Sockets
from vcloud.hosts.host_side import program
from vcloud.plan.host_difference import HostDifference, HostKind, HostSide
from vcloud.plan.host_mending import Command, host_steps
from vcloud.plan.host_side import host_differences, unseen_kinds

WEB, API, TOOL = (
    next(vm for vm in DESIGN.vms if vm.name == name) for name in ("web", "api", "tool")
)
TAP, MAC = WEB.nics[0].tap, WEB.nics[0].mac
ZONE = DESIGN.zone("dmz").network
BRIDGE = ZONE.bridge
FIREWALL_TAP = DESIGN.zone("app").gateway.tap
VETH = "ip link add foreign type veth peer name other"
BPF = Path(__file__).with_name("bpf.py")
PORTS = sorted(nic.tap for vm in DESIGN.vms for nic in vm.nics if nic.network == ZONE.name)
ETHERNET = 0x0003
"""ETH_P_ALL."""

BREAKAGES = {
    "isolation": (
        [f"bridge link set dev {TAP} isolated off"],
        [f"bridge link set dev {TAP} isolated on"],
        [(HostKind.ISOLATION, TAP)],
    ),
    "isolation of the firewall": (
        [f"bridge link set dev {FIREWALL_TAP} isolated on"],
        [f"bridge link set dev {FIREWALL_TAP} isolated off"],
        [(HostKind.ISOLATION, FIREWALL_TAP)],
    ),
    "filter without the drop": (
        [f"ebtables -t nat -D libvirt-I-{TAP} -j DROP"],
        [f"ebtables -t nat -A libvirt-I-{TAP} -j DROP"],
        [(HostKind.FILTER, TAP)],
    ),
    "filter with one more address": (
        [f"ebtables -t nat -I libvirt-I-{TAP} -s 2:0:0:0:0:7 -j RETURN"],
        [f"ebtables -t nat -D libvirt-I-{TAP} -s 2:0:0:0:0:7 -j RETURN"],
        [(HostKind.FILTER, TAP)],
    ),
    "veth": (
        [VETH, f"ip link set foreign master {BRIDGE}"],
        ["ip link delete foreign"],
        [(HostKind.PORT, BRIDGE)],
    ),
    "tap": (
        ["ip tuntap add foreign mode tap", f"ip link set foreign master {BRIDGE}"],
        ["ip link delete foreign"],
        [(HostKind.PORT, BRIDGE)],
    ),
    "vxlan": (
        [
            "ip link add foreign type vxlan id 7 dstport 4789 local 127.0.0.1",
            f"ip link set foreign master {BRIDGE}",
        ],
        ["ip link delete foreign"],
        [(HostKind.PORT, BRIDGE)],
    ),
    "NIC": (
        ["ip link add foreign type ifb", f"ip link set foreign master {BRIDGE}"],
        ["ip link delete foreign"],
        [(HostKind.PORT, BRIDGE)],
    ),
    "macvlan": (
        [f"ip link add link {BRIDGE} name foreign type macvlan"],
        ["ip link delete foreign"],
        [(HostKind.STACKED, BRIDGE)],
    ),
    "address": (
        [f"ip address add 10.1.2.3/24 dev {BRIDGE}"],
        [f"ip address delete 10.1.2.3/24 dev {BRIDGE}"],
        [(HostKind.ADDRESS, BRIDGE)],
    ),
    "address of the link": (
        [
            f"sysctl -qw net.ipv6.conf.{BRIDGE}.addr_gen_mode=1",
            f"sysctl -qw net.ipv6.conf.{BRIDGE}.disable_ipv6=0",
            f"ip address add fe80::7/64 dev {BRIDGE} nodad",
        ],
        [f"sysctl -qw net.ipv6.conf.{BRIDGE}.disable_ipv6=1"],
        [(HostKind.ADDRESS, BRIDGE)],
    ),
    "address on a card": (
        [f"ip address add 10.1.2.3/32 dev {TAP}"],
        [f"ip address delete 10.1.2.3/32 dev {TAP}"],
        [(HostKind.ADDRESS, TAP)],
    ),
    "route": (
        [f"ip route add 10.1.2.3/32 dev {BRIDGE} table 77"],
        [f"ip route delete 10.1.2.3/32 dev {BRIDGE} table 77"],
        [(HostKind.ROUTE, BRIDGE)],
    ),
    "card on the uplink": (
        [f"ip link set {TAP} master lab0", f"bridge link set dev {TAP} isolated on"],
        [f"ip link set {TAP} master {BRIDGE}", f"bridge link set dev {TAP} isolated on"],
        [(HostKind.CARD, TAP)],
    ),
    "card without a bridge": (
        [f"ip link set {TAP} nomaster"],
        [f"ip link set {TAP} master {BRIDGE}", f"bridge link set dev {TAP} isolated on"],
        [(HostKind.CARD, TAP)],
    ),
    "clsact": (
        [f"tc qdisc add dev {TAP} clsact"],
        [f"tc qdisc delete dev {TAP} clsact"],
        [(HostKind.QUEUE, TAP)],
    ),
    "htb": (
        [f"tc qdisc add dev {BRIDGE} root handle 1: htb"],
        [f"tc qdisc delete dev {BRIDGE} root"],
        [(HostKind.QUEUE, BRIDGE)],
    ),
    "spanning tree": (
        [f"ip link set {BRIDGE} type bridge stp_state 1"],
        [f"ip link set {BRIDGE} type bridge stp_state 0"],
        [(HostKind.FLAGS, BRIDGE)],
    ),
    "forwarding of what bridges keep": (
        [f"ip link set {BRIDGE} type bridge group_fwd_mask 8"],
        [f"ip link set {BRIDGE} type bridge group_fwd_mask 0"],
        [(HostKind.FLAGS, BRIDGE)],
    ),
    "hairpin": (
        [f"bridge link set dev {TAP} hairpin on"],
        [f"bridge link set dev {TAP} hairpin off"],
        [(HostKind.FLAGS, TAP)],
    ),
    "learning": (
        [f"bridge link set dev {TAP} learning off"],
        [f"bridge link set dev {TAP} learning on"],
        [(HostKind.FLAGS, TAP)],
    ),
    "flood": (
        [f"bridge link set dev {TAP} flood off"],
        [f"bridge link set dev {TAP} flood on"],
        [(HostKind.FLAGS, TAP)],
    ),
    "a bridge that forgets at once": (
        [f"ip link set {BRIDGE} type bridge ageing_time 0"],
        [f"ip link set {BRIDGE} type bridge ageing_time 30000"],
        [(HostKind.FLAGS, BRIDGE)],
    ),
    "MTU of a card": (
        [f"ip link set {TAP} mtu 1400"],
        [f"ip link set {TAP} mtu 1500"],
        [(HostKind.FLAGS, TAP)],
    ),
    "MTU of a bridge": (
        [f"ip link set {BRIDGE} mtu 1400"],
        [f"ip link set {BRIDGE} mtu 1500"],
        [(HostKind.FLAGS, BRIDGE)],
    ),
    "a card that is down, whose port the kernel then disables": (
        [f"ip link set {TAP} down"],
        [f"ip link set {TAP} up"],
        [(HostKind.CARD, TAP), (HostKind.FLAGS, TAP)],
    ),
    "a bridge that is down, and its ports with it": (
        [f"ip link set {BRIDGE} down"],
        [f"ip link set {BRIDGE} up"],
        [(HostKind.BRIDGE, BRIDGE), *((HostKind.FLAGS, tap) for tap in PORTS)],
    ),
    "backup port": (
        [f"ip link set {TAP} type bridge_slave backup_port {DESIGN.ips.nics[0].tap}"],
        [f"ip link set {TAP} type bridge_slave nobackup_port"],
        [(HostKind.FLAGS, TAP)],
    ),
    "static entry": (
        [f"bridge fdb add 52:54:00:11:22:33 dev {TAP} master static"],
        [f"bridge fdb delete 52:54:00:11:22:33 dev {TAP} master"],
        [(HostKind.STATIC, TAP)],
    ),
    "rule for a card": (
        [f"ebtables -A FORWARD -i {TAP} -j ACCEPT"],
        [f"ebtables -D FORWARD -i {TAP} -j ACCEPT"],
        [(HostKind.RULE, TAP)],
    ),
    "rule before all filters": (
        ["ebtables -t nat -I PREROUTING -s 2:0:0:0:0:7 -j ACCEPT"],
        ["ebtables -t nat -D PREROUTING -s 2:0:0:0:0:7 -j ACCEPT"],
        [(HostKind.RULE, "")],
    ),
    "rule for cards of any name": (
        ["ebtables -A FORWARD -i vc+ -j ACCEPT"],
        ["ebtables -D FORWARD -i vc+ -j ACCEPT"],
        [(HostKind.RULE, "")],
    ),
    "policy": (
        ["ebtables -P FORWARD DROP"],
        ["ebtables -P FORWARD ACCEPT"],
        [(HostKind.RULE, "")],
    ),
    "rule for what goes to a bridge": (
        [
            "nft add table bridge foreign",
            "nft add chain bridge foreign out { type filter hook output priority 0; }",
            f"nft add rule bridge foreign out meta oifname {{ {TAP}, {FIREWALL_TAP} }} accept",
        ],
        ["nft delete table bridge foreign"],
        [(HostKind.RULE, min(TAP, FIREWALL_TAP))],
    ),
    "ingress": (
        [
            "nft add table netdev foreign",
            f"nft add chain netdev foreign in {{ type filter hook ingress device {TAP} priority 0; }}",
        ],
        ["nft delete table netdev foreign"],
        [(HostKind.RULE, TAP)],
    ),
}
"""Name -> commands that break it, commands that undo that, and the kinds and devices that must be
named.
"""


def named(host: Machine) -> list[tuple[HostKind, str]]:
    return [(difference.kind, difference.device) for difference in host.differences()]


@pytest.mark.parametrize("name", BREAKAGES)
def test_what_is_broken_by_hand_is_named_alone_and_ended(host: Machine, name: str) -> None:
    """By the commands of the plan, where libvirt has no call for it. The fixture has seen the healthy
    twin before, and sees it again afterwards.
    """
    breaking, undoing, expected = BREAKAGES[name]
    for command in breaking:
        host.run(command)
    found = host.differences()
    commands = commands_of(found)
    for words in commands:
        host.run(shlex.join(words), code=None)
    after = named(host) if commands else []
    for command in undoing:
        host.run(command, code=None if commands else 0)
    assert [(difference.kind, difference.device) for difference in found] == expected
    assert after == []
    assert bool(commands) == (not {kind for kind, _ in expected} & NOT_BY_COMMANDS)


NOT_BY_COMMANDS = {HostKind.ISOLATION, HostKind.FILTER, HostKind.STACKED, HostKind.RULE}


def commands_of(differences: Sequence[HostDifference]) -> tuple[Command, ...]:
    """What `vcloud up` runs as root."""
    steps = host_steps(HostSide(as_root=True), differences, "h1", ())
    return tuple(command for step in steps for command in step.commands)


def test_a_card_comes_back_isolated(host: Machine) -> None:
    """It is never on its bridge without: the port has its flag before it is up."""
    host.run(f"ip link set {TAP} master lab0")
    commands = commands_of(host.differences())
    for words in commands:
        host.run(shlex.join(words))
    assert [words[5] for words in commands] == ["down", "master", "type", "up"]
    assert named(host) == []


def test_what_hangs_on_an_address_goes_with_it(host: Machine) -> None:
    """A route by a gateway goes with the address that it was made by, and no command fails then. A
    route without a gateway stays, and is taken away by itself.
    """
    for command in (
        f"sysctl -qw net.ipv6.conf.{BRIDGE}.addr_gen_mode=1",
        f"sysctl -qw net.ipv6.conf.{BRIDGE}.disable_ipv6=0",
        f"ip -6 route add default dev {BRIDGE}",
        f"ip address add 10.1.2.3/24 dev {BRIDGE}",
        f"ip route add 10.9.0.0/16 via 10.1.2.4 dev {BRIDGE}",
        f"ip route add default via 10.1.2.4 dev {BRIDGE}",
    ):
        host.run(command)
    found = host.differences()
    for words in commands_of(found):
        host.run(shlex.join(words))
    assert [difference.kind for difference in found] == [
        HostKind.ADDRESS,
        HostKind.ROUTE,
        HostKind.ROUTE,
    ]
    assert named(host) == []
    host.run(f"sysctl -qw net.ipv6.conf.{BRIDGE}.disable_ipv6=1")


def test_a_binding_that_was_deleted_is_named(host: Machine) -> None:
    unbind(host, WEB.nics[0])
    found = named(host)
    bind(host, WEB.nics[0])
    assert found == [(HostKind.FILTER, TAP)]


def test_two_breakages_at_once_are_both_named(host: Machine) -> None:
    host.run(f"bridge link set dev {TAP} isolated off")
    unbind(host, API.nics[1])
    found = named(host)
    bind(host, API.nics[1])
    host.run(f"bridge link set dev {TAP} isolated on")
    assert found == [(HostKind.ISOLATION, TAP), (HostKind.FILTER, API.nics[1].tap)]


def test_rules_and_devices_of_others_are_not_named(host: Machine) -> None:
    """Another VM of libvirt, with its filter, its bridge with an address, a queue and a route."""
    others = [
        "ip link add virbr9 up type bridge",
        "ip tuntap add vnet9 mode tap",
        "ip link set vnet9 master virbr9 up",
        "ip address add 10.9.9.1/24 dev virbr9",
        "ip route add 10.99.0.0/16 via 10.9.9.2",
        "tc qdisc add dev vnet9 clsact",
        "ebtables -t nat -N libvirt-I-vnet9",
        "ebtables -t nat -A libvirt-I-vnet9 -j DROP",
        "ebtables -t nat -A PREROUTING -i vnet9 -j libvirt-I-vnet9",
        "ebtables -A FORWARD -o vnet9 -j DROP",
    ]
    undoing = [
        "ebtables -t nat -D PREROUTING -i vnet9 -j libvirt-I-vnet9",
        "ebtables -t nat -F libvirt-I-vnet9",
        "ebtables -t nat -X libvirt-I-vnet9",
        "ebtables -D FORWARD -o vnet9 -j DROP",
        "ip link delete vnet9",
        "ip link delete virbr9",
    ]
    for command in others:
        host.run(command)
    found = named(host)
    for command in undoing:
        host.run(command)
    assert found == []


def test_an_address_that_a_bridge_has_learnt_is_not_named(host: Machine) -> None:
    """Its twin is the static entry above."""
    host.run(f"bridge fdb add 52:54:00:11:22:33 dev {TAP} master dynamic")
    listed = host.run(f"bridge fdb show dev {TAP}")
    found = named(host)
    host.run(f"bridge fdb delete 52:54:00:11:22:33 dev {TAP} master")
    assert "52:54:00:11:22:33" in listed
    assert found == []


@pytest.mark.parametrize("place", ["xdp", "ingress", "egress"])
def test_a_bpf_program_is_named(host: Machine, place: str) -> None:
    """tc lists none of them: `ingress` and `egress` are attached as tcx."""
    number = host.run(f"ip -o link show {TAP}").partition(":")[0]
    with host.running(PYTHON, str(BPF), place, number):
        assert named(host) == [(HostKind.PROGRAM, TAP)]


def test_a_socket_for_whole_frames_is_named(host: Machine) -> None:
    sockets = Sockets(Path(f"/proc/{host.pid}/ns/net"))
    with sockets.make(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERNET)) as sniffer:
        assert named(host) == [(HostKind.SOCKET, "")]  # it reads at all devices
        sniffer.bind(("lo", 0))
        assert named(host) == []
        sniffer.bind((BRIDGE, 0))
        assert named(host) == [(HostKind.SOCKET, BRIDGE)]
    sockets.close()


def test_a_qemu_that_libvirt_does_not_know_is_named(host: Machine) -> None:
    """It has a VM's disk open by another path. Another QEMU with a disk of its own is not named."""
    host.run("qemu-img create -q -f qcow2 /mnt/root.other.vm.qcow2 1M")
    host.run(f"ln {disk_of(WEB)} /mnt/innocent.img")
    foreign = (
        "qemu-system-x86_64 -machine none -S -nodefaults -display none -daemonize "
        "-pidfile /mnt/foreign.number -blockdev "
        "driver=qcow2,node-name=d,file.driver=file,file.locking=off,file.filename="
    )
    found = {}
    for disk in ("root.other.vm.qcow2", "innocent.img"):
        host.run(f"{foreign}/mnt/{disk}")
        found[disk] = [difference.kind for difference in host.differences()]
        end(host, int(host.run("cat /mnt/foreign.number")))
    host.run("rm /mnt/innocent.img")
    assert found == {"root.other.vm.qcow2": [], "innocent.img": [HostKind.PROCESS]}


def test_files_of_a_user_neither_blind_the_reporter_nor_alarm_it(host: Machine) -> None:
    """A name that is no text, a name of a volume in another folder, and very many files."""
    host.run("mkdir -p /mnt/home")
    hold = (
        "import os, sys\n"
        "names = [b'\\xff.qcow2', sys.argv[1].encode(), *(b'%d.qcow2' % n for n in range(500))]\n"
        "files = [open(b'/mnt/home/' + name, 'w') for name in names]\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
    )
    argv = host.enter(PYTHON, "-c", hold, disk_of(WEB).rpartition("/")[2])
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"\n", "all of them are open"
        report = host.report()
        assert host_differences(DESIGN, RUNNING, UPLINK.bridge, report) == ()
        assert not [one for one in report.processes if len(one.disks) > 100]
        holder.communicate()
    host.run("rm -r /mnt/home")


def end(host: Machine, number: int) -> None:
    """Ends a process of the host, and waits until it is gone."""
    host.run(f"kill -KILL {number}")
    deadline = time.monotonic() + 120
    while host.run(f"cat /proc/{number}/cmdline", code=None):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_card_that_a_foreign_qemu_holds_is_a_foreign_port(host: Machine) -> None:
    """The difference says whose it is."""
    host.run(
        "qemu-system-x86_64 -machine none -S -nodefaults -display none -daemonize "
        "-pidfile /mnt/foreign.number -netdev tap,id=n,ifname=foreign,script=no,downscript=no"
    )
    host.run(f"ip link set foreign master {BRIDGE}")
    number = int(host.run("cat /mnt/foreign.number"))
    found = host.differences()
    end(host, number)
    assert [(difference.kind, difference.other) for difference in found] == [
        (HostKind.PORT, "foreign")
    ]
    assert f"of process {number} (qemu-system-x86_64)" in found[0].what


def test_a_vm_that_does_not_run_is_not_missed_on_the_host(host: Machine) -> None:
    """But a tap of it that is there, without libvirt's knowledge, is named with its process."""
    running = {vm.name for vm in DESIGN.vms} - {"tool"}
    found = host_differences(DESIGN, running, "lab0", host.report())
    assert [difference.kind for difference in found] == [HostKind.PORT, HostKind.PROCESS]
    assert TOOL.nics[0].tap in found[1].what


def test_a_part_that_cannot_be_looked_at_is_no_clean_part(host: Machine) -> None:
    host.run("mount --bind /dev/null /usr/sbin/nft")
    report = host.report()
    host.run("umount /usr/sbin/nft")
    assert set(unseen_kinds(report)) == {HostKind.FILTER, HostKind.REDIRECT, HostKind.RULE}


def test_it_needs_little_time_with_many_ports(host: Machine) -> None:
    """Processor time of the reporter and of what it starts, which a busy machine does not change."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        host.report()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    few = min(seconds() for _ in range(3))
    ports = range(60)
    add = "".join(
        f"link add many{port} type veth peer name peer{port}\nlink set many{port} master lab0\n"
        for port in ports
    )
    host.run("ip -batch -", stdin=add.encode())
    many = min(seconds() for _ in range(3))
    host.run("ip -batch -", stdin="".join(f"link delete many{port}\n" for port in ports).encode())
    assert few < 0.3
    assert many < few + 0.2


def test_it_takes_no_input(host: Machine, tmp_path: Path) -> None:
    """Neither words, nor the environment, nor files in the current folder change what it prints."""
    (tmp_path / "json.py").write_text("raise SystemExit('taken from the current folder')")
    done = subprocess.run(
        host.enter("env", f"PYTHONPATH={tmp_path}", "PATH=/nowhere", PYTHON, "-I", "-", "--all"),
        input=program(),
        cwd=tmp_path,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 1000
