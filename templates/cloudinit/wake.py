"""Runs in a VM of a user's own image that has just woken: makes it one of its own, and lets it go on with its boot.

On stdin, as JSON: `seed` (random bytes as base64), `machine_id`, `now` (seconds since 1970), `opened` (the file that lets the VM through,
at later boots too) and `go_on` (the unit that does).
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
OF_THE_TEMPLATE = (
    *("run/cloud-init", "var/log/journal/{machine_id}*", "run/log/journal/{machine_id}*"),
    *("var/lib/systemd/random-seed", "var/lib/systemd/credential.secret", "etc/ssh/ssh_host_*"),
)
"""What is not this VM's; cloud-init itself has not run yet. Host keys that came with the image are nobody's: cloud-init brings the pinned one."""

JOURNAL = "systemctl restart systemd-journald.service"
"""It writes under the machine ID."""
SETTLE = "udevadm settle"
GENERATE = "systemctl daemon-reload"
"""Generators look for cloud-init's seed once more."""
HOLD = "systemctl stop network-pre.target systemd-networkd.service"
"""What manages the network, and starts where a card is plugged in, waits for cloud-init once more. Not every image has it."""


def reseed(seed: bytes) -> None:
    """Clones of one memory image have the same random numbers before them; after this they have not."""
    with Path("/dev/urandom").open("wb", buffering=0) as pool:
        fcntl.ioctl(pool, RNDADDENTROPY, struct.pack("ii", 8 * len(seed), len(seed)) + seed)
        fcntl.ioctl(pool, RNDRESEEDCRNG)


def replace(path: Path, text: str, mode: int) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.chmod(mode)
    new.rename(path)


def forget(machine_id: str) -> None:
    for pattern in OF_THE_TEMPLATE:
        for path in Path("/").glob(pattern.format(machine_id=machine_id)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def go_on(opened: Path, unit: str) -> None:
    """What the image boots to brings all that it wants, cloud-init included."""
    opened.parent.mkdir(parents=True, exist_ok=True)
    opened.touch()
    for command in (JOURNAL, SETTLE, GENERATE, HOLD, f"systemctl start {unit}"):
        subprocess.run(command.split(), check=command != HOLD)


def main() -> None:
    given = json.load(sys.stdin)
    reseed(base64.b64decode(given["seed"]))
    time.clock_settime(time.CLOCK_REALTIME, given["now"])
    forget(Path(MACHINE_IDS[0]).read_text().strip())
    for path in map(Path, MACHINE_IDS):
        if path.is_file() and not path.is_symlink():
            replace(path, f"{given['machine_id']}\n", 0o444)
    go_on(Path(given["opened"]), given["go_on"])


main()
