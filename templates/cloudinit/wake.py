"""Runs in a VM of a user's own image that has just woken from a memory image: makes it a machine of
its own, and continues its boot.

It reads JSON on its standard input: `entropy` (random bytes as base64), `machine_id`, `now`
(seconds since 1970), `opened` (the file that opens the gate in the VM's boot, at later boots too)
and `go_on` (the unit that continues the boot).
"""

import base64
import fcntl
import json
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

RNDADDENTROPY, RNDRESEEDCRNG = 0x40085203, 0x5207
MACHINE_IDS = ("/etc/machine-id", "/var/lib/dbus/machine-id")
OF_THE_MEMORY_IMAGE = (
    *("run/cloud-init", "var/log/journal/{machine_id}*", "run/log/journal/{machine_id}*"),
    *("var/lib/systemd/random-seed", "var/lib/systemd/credential.secret", "etc/ssh/ssh_host_*"),
)
"""Files that belong to the machine whose memory was saved. They are removed; cloud-init, which has
not run yet, brings the pinned host key.
"""

JOURNAL = "systemctl restart systemd-journald.service"
"""The journal writes to a folder that is called after the machine ID."""
SETTLE = "udevadm settle"
GENERATE = "systemctl daemon-reload"
"""Makes systemd run its generators again: one of them looks for cloud-init's seed disk."""
HOLD = "systemctl stop network-pre.target systemd-networkd.service"
"""Stops network management, which a NIC that was plugged in has started, so that it waits for
cloud-init. Not every image has this service.
"""


def reseed(entropy: bytes) -> None:
    """Without this, all VMs that wake from one memory image would draw the same random numbers."""
    with Path("/dev/urandom").open("wb", buffering=0) as pool:
        fcntl.ioctl(
            pool, RNDADDENTROPY, struct.pack("ii", 8 * len(entropy), len(entropy)) + entropy
        )
        fcntl.ioctl(pool, RNDRESEEDCRNG)


def replace(path: Path, text: str, mode: int) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.chmod(mode)
    new.rename(path)


def forget(machine_id: str) -> None:
    for pattern in OF_THE_MEMORY_IMAGE:
        for path in Path("/").glob(pattern.format(machine_id=machine_id)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def go_on(opened: Path, unit: str) -> None:
    """Continues the boot with the image's own default target, which starts cloud-init and
    everything else.
    """
    opened.parent.mkdir(parents=True, exist_ok=True)
    opened.touch()
    for command in (JOURNAL, SETTLE, GENERATE, HOLD, f"systemctl start {unit}"):
        subprocess.run(command.split(), check=command != HOLD)


def main() -> None:
    given = json.load(sys.stdin)
    reseed(base64.b64decode(given["entropy"]))
    time.clock_settime(time.CLOCK_REALTIME, given["now"])
    forget(Path(MACHINE_IDS[0]).read_text().strip())
    for path in map(Path, MACHINE_IDS):
        if path.is_file() and not path.is_symlink():
            replace(path, f"{given['machine_id']}\n", 0o444)
    go_on(Path(given["opened"]), given["go_on"])


main()
