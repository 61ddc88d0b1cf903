"""Which services of a vApp's workloads are down, as the guests tell it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor

from vcloud.design.model import Vm
from vcloud.design.names import path_of
from vcloud.errors import GuestError, HostError
from vcloud.guests.services import is_ready_by_command, services_of
from vcloud.hosts import machines
from vcloud.hosts.connection import MAX_CALLS, Host, run_both

COMMAND_TIMEOUT = 20
"""Seconds that `ready.command` may take."""


def down_services(host: Host, workloads: Collection[Vm]) -> Iterator[str]:
    """What is wrong with the services of these workloads, which all run."""
    with ThreadPoolExecutor(MAX_CALLS) as pool:
        for found in pool.map(lambda vm: tuple(_down(host, vm)), workloads):
            yield from found


def _down(host: Host, vm: Vm) -> Iterator[str]:
    """A VM of a user's own image may have no guest agent. Then nothing is known of it."""
    try:
        agent = machines.agent_of(host, vm.domain)
        if not vm.image.recipe:
            agent.ask_once()
        down, ready = run_both(
            lambda: services_of(agent, vm),
            lambda: (
                not vm.ready.command or is_ready_by_command(agent, vm, COMMAND_TIMEOUT).code == 0
            ),
        )
    except (GuestError, HostError) as error:
        if vm.image.recipe:
            yield f"the services of '{vm.name}' could not be looked at: {error.what}"
        return
    for unit in down.failed_units:
        yield f"in '{vm.name}', {unit} has failed; see vcloud exec {path_of(vm.domain)} -- systemctl status {unit}"
    for unit in down.restarting:
        yield f"in '{vm.name}', {unit} fails and is started again and again; see vcloud exec {path_of(vm.domain)} -- systemctl status {unit}"
    if down.silent:
        yield f"'{vm.name}' is not ready: nothing listens on tcp/{vm.ready.tcp}"
    if not ready:
        yield f"'{vm.name}' is not ready: its command does not succeed"
