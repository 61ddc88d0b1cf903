"""Waits for a VM of a user's own image. cloud-init sets it up, and reports its progress on the
serial port. No agent is needed.
"""

from __future__ import annotations

import time

from vcloud.design.model import Vm
from vcloud.errors import GuestError
from vcloud.guests.setup import RUN_TIMEOUT, path_of
from vcloud.hosts import machines
from vcloud.hosts.connection import Host
from vcloud.hosts.volumes import VappVolumes

BOOT_TIMEOUT = 600
"""Seconds from power-on until cloud-init has finished its own work. A distribution's image takes
two or three minutes without KVM.
"""
POLL = 1.0
MARK = "vcloud: "
"""Begins each line that templates/cloudinit/finish.sh writes to the serial port."""
LINES = 200
"""Lines of the console that are read each time: more than a guest prints between two reads."""
ALL_LINES = 5000
"""Lines that are read at first, because the VM may have been ready long before this run. virtlogd
keeps 2 MiB.
"""


def wait_for_cloud_init(host: Host, volumes: VappVolumes, vm: Vm) -> None:
    """Waits until the VM has its identity, has run its `run:` lines, and is ready.

    Raises GuestError if the guest reports a failure, if it stops, or when the time is up.
    """
    begun, lines = time.monotonic(), ALL_LINES
    while True:
        reported = [
            line.removeprefix(MARK)
            for line in volumes.console_tail(vm.domain, lines)
            if line.startswith(MARK)
        ]
        lines = LINES
        if "ready" in reported:
            return
        if failed := [line for line in reported if line.startswith("failed: ")]:
            raise GuestError(
                f"'{vm.name}' {failed[-1]}", f"Look inside: vcloud console {path_of(vm)}."
            )
        if not machines.is_running(host, vm.domain):
            raise GuestError(
                f"'{vm.name}' stopped while it booted",
                f"See what it reported last: vcloud logs {path_of(vm)}.",
            )
        allowed = BOOT_TIMEOUT + (len(vm.run) * RUN_TIMEOUT + vm.ready.timeout if reported else 0)
        if time.monotonic() > begun + allowed:
            raise GuestError(
                f"cloud-init in '{vm.name}' has not finished after {allowed} s",
                f"The image needs cloud-init with its NoCloud data source, and a serial port. See vcloud logs {path_of(vm)}.",
            )
        time.sleep(POLL)
