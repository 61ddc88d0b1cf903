"""What happens inside a VM of a user's own image: cloud-init does it, and the serial port says how far it is. No agent is needed."""

from __future__ import annotations

import time

from vcloud.design.model import Vm
from vcloud.errors import GuestError
from vcloud.guests.setup import RUN_TIMEOUT, path_of
from vcloud.hosts import machines
from vcloud.hosts.connection import Host
from vcloud.hosts.volumes import VappVolumes

BOOT_TIMEOUT = 600
"""Seconds from power-on to the end of cloud-init's own work; a distribution's image takes two or three minutes without KVM."""
POLL = 1.0
SAYS = "vcloud: "
"""Before each line that templates/cloudinit/finish.sh writes to the serial port."""
LINES = 200
"""Of the console that are looked at: more than a guest says between two looks."""
ALL_LINES = 5000
"""At the first look, because the VM may have been ready long before this run. virtlogd keeps 2 MiB."""


def wait_for_cloud_init(host: Host, volumes: VappVolumes, vm: Vm) -> None:
    """Waits until the VM has its identity, has run what is to run once, and is ready.

    Raises GuestError with what the guest says is wrong, or when the time is up.
    """
    begun, lines = time.monotonic(), ALL_LINES
    while True:
        said = [line.removeprefix(SAYS) for line in volumes.console_tail(vm.domain, lines) if line.startswith(SAYS)]
        lines = LINES
        if "ready" in said:
            return
        if failed := [line for line in said if line.startswith("failed: ")]:
            raise GuestError(f"'{vm.name}' {failed[-1]}", f"Look inside: vcloud console {path_of(vm)}.")
        if not machines.is_running(host, vm.domain):
            raise GuestError(f"'{vm.name}' stopped while it booted", f"See what it said last: vcloud logs {path_of(vm)}.")
        allowed = BOOT_TIMEOUT + (len(vm.run) * RUN_TIMEOUT + vm.ready.timeout if said else 0)
        if time.monotonic() > begun + allowed:
            raise GuestError(
                f"cloud-init in '{vm.name}' has not come to its end after {allowed} s",
                f"The image must bring cloud-init, with its NoCloud data source, and a serial port. See vcloud logs {path_of(vm)}.",
            )
        time.sleep(POLL)
