"""A host with one vApp as libvirt leaves it there, in namespaces: real bridges, real QEMU processes
with taps and disks, and the rules that libvirt's driver of ebtables makes.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.design_builder import UPLINK, build_design
from tests.netns.namespaces import held
from vcloud.compile.libvirt.network import vapp_networks
from vcloud.compile.libvirt.nwfilter import OPEN_RULES, FilterRule, closed_rules
from vcloud.design.model import Nic, Role, Vm
from vcloud.design.names import root_volume
from vcloud.hosts.host_side import program
from vcloud.plan.host_difference import HostDifference
from vcloud.plan.host_look import Look
from vcloud.plan.host_report import HostReport, parse_host_report
from vcloud.plan.host_side import host_differences

DESIGN = build_design(
    zones="dmz:inspected app wide:open",
    vms={"web": "dmz", "api": "app wide", "tool": "wide"},
    vapp="side",
)
RUNNING = frozenset(vm.name for vm in DESIGN.vms)
PYTHON = "/usr/bin/python3"
START = """\
hostname side
mount -t tmpfs run /run
mkdir -p /run/libvirt/qemu
mount -t tmpfs -o mode=755 disks /mnt
ip link set lo up
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """The host. `pid` holds its namespaces."""

    pid: int

    def enter(self, *argv: str) -> list[str]:
        return ["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", "--uts", *argv]

    def run(self, command: str, stdin: bytes = b"", code: int | None = 0) -> str:
        """Runs one command, without a shell."""
        done = subprocess.run(
            self.enter(*shlex.split(command)), input=stdin, capture_output=True, timeout=600
        )
        assert code in (None, done.returncode), f"{command}: {done.stderr.decode()}"
        return done.stdout.decode()

    @contextmanager
    def running(self, *argv: str) -> Iterator[None]:
        """A program that says `ready` and ends with its input."""
        with subprocess.Popen(
            self.enter(*argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            assert process.stdout.readline() == "ready\n"
            yield
            process.stdin.close()

    def report(self) -> HostReport:
        """What the real reporter sees, sent through stdin as vcloud sends it."""
        return parse_host_report(self.run(f"{PYTHON} -I -", stdin=program()).encode())

    def differences(self) -> tuple[HostDifference, ...]:
        return host_differences(DESIGN, RUNNING, UPLINK.bridge, self.report())

    def qemu(self, name: str, nics: tuple[Nic, ...], disk: str) -> int:
        """QEMU without a machine, which has what it holds open. Its number."""
        pidfile = f"/mnt/{name}.number"
        taps = [
            f"-netdev tap,id=n{index},ifname={nic.tap},script=no,downscript=no"
            for index, nic in enumerate(nics)
        ]
        self.run(
            f"qemu-system-x86_64 -machine none -S -nodefaults -display none -daemonize "
            f"-name guest={name},debug-threads=on -pidfile {pidfile} {' '.join(taps)} "
            f"-blockdev driver=qcow2,node-name=d,file.driver=file,file.filename={disk}"
        )
        return int(self.run(f"cat {pidfile}"))


def disk_of(vm: Vm) -> str:
    return f"/mnt/{root_volume(vm.domain)}"


@contextmanager
def machine() -> Iterator[Machine]:
    """The host with everything of the vApp as it should be."""
    with held("uts", script=START) as pid:
        host = Machine(pid)
        host.run(f"ip link add {UPLINK.bridge} up type bridge")
        for _, network in vapp_networks(DESIGN):
            host.run(f"ip link add {network.bridge} type bridge forward_delay 0")
            host.run(f"sysctl -qw net.ipv6.conf.{network.bridge}.disable_ipv6=1")
            host.run(f"ip link set {network.bridge} up")
        for vm in DESIGN.vms:
            host.run(f"qemu-img create -q -f qcow2 {disk_of(vm)} 1M")
            number = host.qemu(vm.domain, vm.nics, disk_of(vm))
            host.run(f"cp /mnt/{vm.domain}.number /run/libvirt/qemu/{vm.domain}.pid")
            assert number > 1
        for card in Look(DESIGN, RUNNING, UPLINK.bridge, host.report()).cards:
            plug(host, card.nic, card.bridge)
            if card.vm.role is Role.WORKLOAD:
                bind(host, card.nic)
        yield host


def plug(host: Machine, nic: Nic, bridge: str) -> None:
    """What libvirt does with a tap (virNetDevTapCreateInBridgePort)."""
    host.run(f"ip link set {nic.tap} master {bridge} address fe{nic.mac[2:]} up")
    host.run(f"tc qdisc add dev {nic.tap} root noqueue")
    if nic.isolated:
        host.run(f"bridge link set dev {nic.tap} isolated on")


def bind(host: Machine, nic: Nic) -> None:
    """The rules of a card's network filter, by libvirt's own commands (ebtables)."""
    chain = f"libvirt-I-{nic.tap}"
    host.run(f"ebtables -t nat -N {chain}")
    for rule in closed_rules(DESIGN) if nic.isolated else OPEN_RULES:
        host.run(f"ebtables -t nat -A {chain} {words_of(rule, nic.mac)}")
    host.run(f"ebtables -t nat -A PREROUTING -i {nic.tap} -j {chain}")


def words_of(rule: FilterRule, mac: str) -> str:
    """A rule of a network filter as libvirt gives it to ebtables (ebtablesCreateRuleInstance)."""
    source = f"-s ! {mac} " if rule.forged else ""
    protocol = {"": "", "arp": "-p 0x806 ", "ipv6": "-p 0x86dd "}[rule.protocol]
    mask = f"/{rule.mask}" if rule.mask else ""
    target = f"-d {rule.target}{mask} " if rule.target else ""
    return f"{protocol}{source}{target}-j {rule.verdict.upper()}"


def unbind(host: Machine, nic: Nic) -> None:
    chain = f"libvirt-I-{nic.tap}"
    host.run(f"ebtables -t nat -D PREROUTING -i {nic.tap} -j {chain}")
    host.run(f"ebtables -t nat -F {chain}")
    host.run(f"ebtables -t nat -X {chain}")
