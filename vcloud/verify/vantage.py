"""The places from which probes are sent: the vApp's VMs, the host, and the world outside.

The user can name test servers outside, with `--outside` or in the inventory entry of a host; a
lab's hosts have such an entry. Without one, checks that must reach the outside are `not run`, with
the reason. Packets that must not leave are then sent to the uplink's gateway, where they end if the
firewall is broken. Packets from outside are sent by the host, unless the inventory names a network
namespace.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_address

from vcloud.design.model import Uplink, Vm
from vcloud.documents.field import FieldError
from vcloud.errors import UsageError
from vcloud.guests.probes import Prober, checked
from vcloud.hosts import machines
from vcloud.hosts.connection import Host
from vcloud.hosts.executed import Executed
from vcloud.hosts.shell import LocalShell
from vcloud.hosts.uplink import NETWORK
from vcloud.proof.world import Address, Server, World
from vcloud.spec.types import parse_services
from vcloud.values import Protocol

NAMESPACES = "/run/netns"
"""The folder of iproute2's named network namespaces (ip-netns(8))."""
PROBE_SECONDS = 240
_SERVER = re.compile(r"(?:(?P<v4>[0-9]+\.[0-9.]+)|\[(?P<v6>[0-9A-Fa-f:.]+)\]):(?P<port>.+)")
AGENT_SECONDS = 10
"""Seconds to wait for the guest agent of a user's own image, which may have none."""


def world_of(host: Host, named: Sequence[Server] = ()) -> World:
    """The test servers outside: those that the user named for this run, otherwise those of the
    inventory.
    """
    outside = host.ref.outside
    if named or outside is None:
        return World(tuple(named))
    addresses: tuple[Address | None, ...] = (outside.server4, outside.server6)
    return World(tuple(Server(address, outside.answers) for address in addresses if address))


def parse_server(text: str) -> Server:
    """A test server as the user writes it: `192.0.2.7` answers on every port, `192.0.2.7:443` or
    `[2001:db8::7]:udp/53` only on this one. Raises UsageError.
    """
    found = _SERVER.fullmatch(text)
    written = str(found["v6"] or found["v4"]) if found else text
    try:
        address: Address = ip_address(written)
        port = found["port"] if found else ""
        wanted = f"{Protocol.TCP}/{port}" if port.isdigit() else port
        return Server(address, parse_services(wanted) if wanted else ())
    except (ValueError, FieldError):
        raise UsageError(
            f"--outside: '{text[:80]}' is not the address of a server",
            "Write it like 192.0.2.7, 192.0.2.7:443, 192.0.2.7:udp/53 or [2001:db8::7]:443.",
        ) from None


def host_prober(host: Host) -> Prober:
    """Sends probes from the host."""

    def run(argv: Sequence[str], stdin: bytes) -> Executed:
        return checked(host.shell.run(argv, stdin=stdin, timeout=PROBE_SECONDS), host.name)

    return Prober(run, shipped=False)


def outside_prober(host: Host, uplink: Uplink) -> Prober:
    """Sends probes from outside: from the place that the inventory names, or else from the host.

    If the vApp's uplink is the host's own NAT network, only the host can reach the vApp's address
    there.
    """
    outside = host.ref.outside
    if outside is None or outside.netns is None or uplink.network == NETWORK:
        return host_prober(host)
    here, enter = (
        LocalShell("this machine"),
        ("nsenter", f"--net={NAMESPACES}/{outside.netns}", "--"),
    )

    def run(argv: Sequence[str], stdin: bytes) -> Executed:
        return checked(
            here.run([*enter, *argv], stdin=stdin, timeout=PROBE_SECONDS),
            f"the network namespace '{outside.netns}'",
        )

    return Prober(run, shipped=False)


def vm_prober(host: Host, vm: Vm) -> Prober:
    """Sends probes from a VM, through its guest agent."""

    def run(argv: Sequence[str], stdin: bytes) -> Executed:
        return machines.agent_of(host, vm.domain).execute(argv, stdin=stdin, timeout=PROBE_SECONDS)

    return Prober(run, shipped=bool(vm.image.recipe))


def wait_for_agent(host: Host, vm: Vm) -> None:
    """Waits until the guest agent answers and the VM can run the probe program. Raises GuestError,
    HostError.
    """
    machines.agent_of(host, vm.domain).wait(AGENT_SECONDS)
    vm_prober(host, vm).try_out(f"'{vm.name}'")
