"""Waits for a VM of a user's own image. cloud-init sets it up, and reports its progress on the
serial port. No agent is needed.
"""

from __future__ import annotations

import time

from vcloud.design.model import Vm
from vcloud.design.names import path_of
from vcloud.errors import GuestError
from vcloud.guests.services import NotReadyError
from vcloud.guests.setup import RUN_TIMEOUT
from vcloud.hosts import machines
from vcloud.hosts.connection import Host
from vcloud.hosts.volumes import VappVolumes

BOOT_TIMEOUT = 600
"""Seconds from power-on until cloud-init has finished its own work. A distribution's image takes
two or three minutes without KVM.
"""
LONGEST_BOOT = 1800
"""The same for a VM whose console still prints lines. A slow boot on a busy machine is not an
error.
"""
SILENCE = 120
"""After so many seconds without a new line on the console, `BOOT_TIMEOUT` applies."""
POLL = 1.0
MARK = "vcloud: "
"""Each line that templates/cloudinit/finish.sh writes to the serial port begins with it."""
NOT_READY = "failed: not ready"
"""The report of a VM that was made but does not become ready begins with it."""
LINES = 200
"""Lines of the console that are read each time. It is more than a guest prints between two reads."""
ALL_LINES = 5000
"""Lines that the first read takes, because the VM may have been ready long before this run.
virtlogd keeps 2 MiB.
"""


def wait_for_cloud_init(host: Host, volumes: VappVolumes, vm: Vm) -> None:
    """Waits until the VM has its identity, has run its `run:` lines, and is ready.

    Raises GuestError if the guest reports a failure, if it stops, or when the time is up.
    """
    begun, lines = time.monotonic(), ALL_LINES
    last_line, printed = "", begun
    while True:
        console = volumes.console_tail(vm.domain, lines)
        if console and console[-1] != last_line:
            last_line, printed = console[-1], time.monotonic()
        reported = [line.removeprefix(MARK) for line in console if line.startswith(MARK)]
        lines = LINES
        if "ready" in reported:
            return
        if failed := [line for line in reported if line.startswith("failed: ")]:
            raise _error_of(failed[-1])(
                f"'{vm.name}' {failed[-1]}", f"Look inside: vcloud console {path_of(vm.domain)}."
            )
        if not machines.is_running(host, vm.domain):
            raise GuestError(
                f"'{vm.name}' stopped while it booted",
                f"See what it reported last: vcloud logs {path_of(vm.domain)}.",
            )
        # The VM reports for the first time when cloud-init has finished. Then the times of the
        # `run:` lines and of `ready` count as well.
        if reported:
            allowed = BOOT_TIMEOUT + len(vm.run) * RUN_TIMEOUT + vm.ready.timeout
        else:
            goes_on = time.monotonic() < printed + SILENCE
            allowed = LONGEST_BOOT if goes_on else BOOT_TIMEOUT
        if time.monotonic() > begun + allowed and reported:
            raise GuestError(
                f"'{vm.name}' has not become ready after {allowed} s, though cloud-init has finished",
                f"Look inside: vcloud console {path_of(vm.domain)}.",
            )
        if time.monotonic() > begun + allowed:
            raise GuestError(
                f"cloud-init in '{vm.name}' has not finished after {allowed} s",
                f"The image needs cloud-init with its NoCloud data source, and a serial port. See vcloud logs {path_of(vm.domain)}.",
            )
        time.sleep(POLL)


def _error_of(reported: str) -> type[GuestError]:
    """NotReadyError only if the VM reports that it is not ready: it has then run all of its `run:`
    lines.
    """
    return NotReadyError if reported.startswith(NOT_READY) else GuestError
