"""The places from which probes are sent: the vApp's VMs, the host, and the world outside.

The inventory entry of a host can name a place outside, as that of a lab's host does. Otherwise no
server outside is known. Then nothing is sent to the outside that must pass: each such check is `not
run`, and says so. What must not leave is sent to the uplink's gateway, where it would end if the
firewall were broken. What comes in from outside is sent by the host.
"""

from __future__ import annotations

from collections.abc import Sequence

from vcloud.design.model import Uplink, Vm
from vcloud.guests.probes import Prober, checked
from vcloud.hosts import machines
from vcloud.hosts.connection import Host
from vcloud.hosts.executed import Executed
from vcloud.hosts.shell import LocalShell
from vcloud.hosts.uplink import NETWORK
from vcloud.proof.checks import World

NAMESPACES = "/run/netns"
"""Where iproute2 keeps named network namespaces (ip-netns(8))."""
PROBE_SECONDS = 240
AGENT_SECONDS = 10
"""Seconds to wait for the agent of a user's own image, which need not have one."""


def world_of(host: Host) -> World:
    """The servers outside that answer on every port."""
    outside = host.ref.outside
    return World(outside.server4, outside.server6) if outside else World(None, None)


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
    if outside is None or uplink.network == NETWORK:
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
