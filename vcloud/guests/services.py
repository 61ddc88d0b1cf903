"""The services in a guest: waits until they are ready, reloads them after changes, and finds those that
are down.

The names of units that a guest reports may be hostile. A name that no unit could have is left out.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from vcloud.design.model import Change, Vm
from vcloud.design.names import path_of
from vcloud.design.readers import all_changes
from vcloud.errors import GuestError
from vcloud.guests.setup import (
    GUEST,
    SERVICES_TIMEOUT,
    as_by_root,
    open_gate,
    run_line,
    tail_of,
)
from vcloud.hosts.agent import Agent
from vcloud.hosts.executed import Executed

LOOK_TIMEOUT = 120
"""Seconds for a request that a guest normally answers at once."""
LOOK_AGAIN = 1.0
"""Seconds between two checks of the units while `ready.command` does not succeed."""
FAILED_FOR = 3.0
"""If a unit is in the state failed for so many seconds, vcloud stops waiting.
images/base/guest/ready.c has the same number.
"""
LAST_LINES = 10
"""Lines of a failed unit's journal that are shown."""
MOST_UNITS = 20
BAD_USAGE = 2
"""Exit status of the guest program for a command that it does not know."""
_UNIT = re.compile(r"[A-Za-z0-9_.@:\\-]{1,255}")
_FAILED = re.compile(rf"failed (?P<unit>{_UNIT.pattern})(?: (?P<ago>[0-9]{{1,9}}))?")
# The guest program of vcloud's images prints the same.
UNITS_BY_SHELL = r"""
systemctl list-units --all --plain --no-legend --type=service --state=failed,auto-restart |
	while read -r unit _ _ state _; do echo "$state $unit"; done | sed 's/^auto-restart /restarting /'
[ "$1" = 0000 ] || grep -Eqs ": [0-9A-F]+:$1 [0-9A-F]+:0000 0A " /proc/net/tcp /proc/net/tcp6 || echo silent
"""


class NotReadyError(GuestError):
    """A VM was made, but does not become ready as its file demands. The next run keeps the VM."""


@dataclass(frozen=True, slots=True)
class Services:
    """The services of a guest that are down."""

    failed: tuple[tuple[str, int], ...]
    """Units that have failed for good, and how many seconds ago."""
    restarting: tuple[str, ...]
    """Units that have failed, and that systemd will start again."""
    starting: tuple[str, ...]
    """Units that do not run yet, and have not failed."""
    silent: bool
    """Nothing listens on the port of `ready`."""

    @property
    def failed_units(self) -> tuple[str, ...]:
        return tuple(unit for unit, _ in self.failed)

    def failed_since(self, seconds: int) -> bool:
        """Whether a unit has failed for good within the last `seconds`. An earlier failure was not
        caused by the present run.
        """
        return any(ago <= seconds for _, ago in self.failed)


def services_of(agent: Agent, vm: Vm) -> Services:
    """The services of a guest that are down now. Raises GuestError."""
    port = vm.ready.tcp
    by_shell = ["/bin/sh", "-c", UNITS_BY_SHELL, "sh", f"{port:04X}"]
    argv = [GUEST, "services", *([str(port)] if port else [])] if vm.image.recipe else by_shell
    done = agent.execute(argv, timeout=LOOK_TIMEOUT)
    if done.code == BAD_USAGE and vm.image.recipe:
        # The image of an earlier release has a guest program without this command.
        done = agent.execute(by_shell, timeout=LOOK_TIMEOUT)
    elif done.code != 0 and vm.image.recipe:
        raise GuestError(
            f"'{vm.name}' does not report the state of its services: {tail_of(done.stdout)}"
        )
    return parse_services(done.stdout)


def parse_services(output: bytes) -> Services:
    lines = output.decode("ascii", errors="replace").splitlines()
    failed = tuple(
        (found["unit"], int(found["ago"] or 0))
        for found in map(_FAILED.fullmatch, lines)
        if found is not None
    )
    restarting, starting = (
        tuple(
            unit
            for kind, _, unit in (line.partition(" ") for line in lines)
            if kind == word and _UNIT.fullmatch(unit)
        )
        for word in ("restarting", "starting")
    )
    silent = any(line.partition(" ")[0] == "silent" for line in lines)
    return Services(failed[:MOST_UNITS], restarting[:MOST_UNITS], starting[:MOST_UNITS], silent)


def start_services(agent: Agent, vm: Vm) -> None:
    """Lets the services of a VM start, and waits until systemd has started all of them. Raises
    GuestError, which names the services that are not running.
    """
    try:
        open_gate(agent, vm)
    except GuestError as error:
        try:
            units = units_in_words(services_of(agent, vm))
        except GuestError:
            raise error from None
        raise GuestError(f"{error.what}{f' ({units})' if units else ''}", error.hint) from None


def wait_ready(agent: Agent, vm: Vm, begun: float) -> None:
    """Waits until a VM of a shipped image is ready as the file defines it. `begun` is when this run
    began to start or to change its services, by the monotonic clock.

    Raises:
        NotReadyError: the time is up, or a unit has failed for good since `begun`. The message has
            the unit and its last lines.
        GuestError: the guest does not answer.
    """
    if vm.ready.tcp:
        done = agent.execute(
            [GUEST, "wait-tcp", str(vm.ready.tcp), str(vm.ready.timeout), str(_since(begun))],
            timeout=vm.ready.timeout + 30,
        )
        if done.code != 0:
            raise _not_ready(agent, vm, f"nothing listens on tcp/{vm.ready.tcp}")
    if vm.ready.command:
        _wait_for_command(agent, vm, begun)
    elif not vm.ready.tcp and services_of(agent, vm).failed_since(_since(begun)):
        raise _not_ready(agent, vm, "not all of its services have started")


def _since(begun: float) -> int:
    """Whole seconds since `begun`, rounded up."""
    return int(time.monotonic() - begun) + 1


def _wait_for_command(agent: Agent, vm: Vm, begun: float) -> None:
    asked = looked = well = time.monotonic()
    while True:
        done = is_ready_by_command(agent, vm, vm.ready.timeout)
        now = time.monotonic()
        if done.code == 0:
            return
        if now >= looked + LOOK_AGAIN:
            looked = now
            well = well if services_of(agent, vm).failed_since(_since(begun)) else now
        if now - well > FAILED_FOR or now - asked > vm.ready.timeout:
            said = tail_of(done.stderr or done.stdout)
            raise _not_ready(
                agent, vm, f"its command ended with {done.code}{f': {said}' if said else ''}"
            )
        time.sleep(0.5)


def is_ready_by_command(agent: Agent, vm: Vm, timeout: float) -> Executed:
    """The result of one run of `ready.command`. Raises GuestError."""
    return agent.execute(as_by_root(vm.ready.command), timeout=timeout)


def _not_ready(agent: Agent, vm: Vm, what: str) -> NotReadyError:
    """The error with the units that are down, and the last lines of the first one."""
    down = services_of(agent, vm)
    words = units_in_words(down)
    kept = "The VM is kept: correct its file and run `vcloud up` again"
    if not words:
        return NotReadyError(
            f"'{vm.name}' is not ready after {vm.ready.timeout} s: {what}",
            f"{kept}, or look inside: vcloud ssh {path_of(vm.domain)}.",
        )
    first = (*down.failed_units, *down.restarting, *down.starting)[0]
    return NotReadyError(
        f"'{vm.name}' is not ready: {what}, and {words}{last_lines(agent, first)}",
        f"{kept}. A service that does not matter can be masked by a `run` line: systemctl mask {first}.",
    )


def units_in_words(services: Services) -> str:
    """The units that do not run, for a message; empty if all run."""
    return ", ".join(
        f"{unit} {how}"
        for units, how in (
            (services.failed_units, "has failed"),
            (services.restarting, "fails and is started again and again"),
            (services.starting, "is still starting"),
        )
        for unit in units
    )


def last_lines(agent: Agent, unit: str) -> str:
    """The end of a unit's journal, to be added to a message; empty if there is none."""
    try:
        done = agent.execute(
            ["journalctl", "--no-pager", "-o", "cat", "-n", str(LAST_LINES), "-u", unit],
            timeout=LOOK_TIMEOUT,
        )
    except GuestError:
        return ""
    lines = tail_of(done.stdout).splitlines()
    return "".join(["; its last lines:", *(f"\n    {line}" for line in lines)]) if lines else ""


def follow_changes(agent: Agent, vm: Vm, before: Vm | None, changed: Collection[str]) -> None:
    """Runs the commands of the files that have changed, and then reloads or restarts the units that
    read them.

    Args:
        agent: the VM's guest agent.
        vm: the VM.
        before: the VM as it was, which still has the files that are removed now.
        changed: paths of changed files, as the guest reported them.

    Raises GuestError. The guest then keeps the paths, and the next run goes on with them.
    """
    for file in vm.files:
        if file.run and file.path in changed:
            done = run_line(agent, vm, file.run)
            if done.code != 0:
                raise GuestError(
                    f"the command of {file.path} in '{vm.name}' ended with {done.code}: {tail_of(done.stderr or done.stdout)}",
                    "Correct it and run `vcloud up` again.",
                )
    if changed:
        _change_units(agent, vm, all_changes(vm, before, changed))


def _change_units(agent: Agent, vm: Vm, changes: Sequence[tuple[Change, str]]) -> None:
    document = "".join(f"{change} {unit}\n" for change, unit in changes)
    done = agent.execute([GUEST, "change-units"], stdin=document.encode(), timeout=SERVICES_TIMEOUT)
    if done.code == 0:
        return
    said = tail_of(done.stdout or done.stderr)
    number = re.match(r"error ([1-9][0-9]{0,3}) ", said)
    at = int(number[1]) - 1 if number else len(changes)
    if at >= len(changes):
        raise GuestError(
            f"the services of '{vm.name}' could not be reloaded after its files changed: {said}"
        )
    change, unit = changes[at]
    raise GuestError(
        f"'{vm.name}' cannot {change} {unit} after a change of its files{last_lines(agent, unit)}",
        "The VM has the new files. Correct them and run `vcloud up` again.",
    )
