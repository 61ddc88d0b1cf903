"""The gate in the boot of a user's own image: the boot stops there while vcloud saves the memory
image.

The gate comes before the image's own services. So each VM makes for itself what a service makes
when it first runs, above all keys. After the gate the boot continues as a cold boot does,
cloud-init included, in the same order.

An image of vcloud's has a gate of its own (vcloud-gate.target). A user's image is not changed: from
version 254 on, systemd accepts units from SMBIOS (`systemd.extra-unit.*`,
systemd.system-credentials(7)), and the host puts the gate there.

A woken VM still has these SMBIOS strings when it boots again later. A file on its disk then opens
the gate at once.
"""

from __future__ import annotations

import base64
import json

from vcloud.compile.environment import render

DESCRIPTION = "Wait until this VM knows who it is"
OPENED = "/var/lib/vcloud/opened"
"""A file on the VM's disk. It exists once the VM has passed the gate."""
DEFAULT = "readlink -e /etc/systemd/system/default.target || readlink -e /usr/lib/systemd/system/default.target"
"""A command that finds the image's real default target: vcloud's unit of the same name hides it
from systemctl.
"""
GO_ON = "vcloud-opened.service"
# systemd starts both wanted units. The second one does nothing as long as OPENED does not exist.
TARGET = f"""\
[Unit]
Description={DESCRIPTION}
Requires=basic.target
After=basic.target
Wants=qemu-guest-agent.service {GO_ON}
AllowIsolate=yes
"""
# A `$` is doubled, because systemd expands it in a unit.
SERVICE = f"""\
[Unit]
Description=Go on with the boot of a VM that knows who it is
ConditionPathExists={OPENED}
After=default.target

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'exec systemctl --no-block start "$$(basename "$$({DEFAULT})")"'
"""


def gate_credentials() -> tuple[str, ...]:
    """The OEM strings (SMBIOS type 11) that give an image the gate."""
    units = {"default.target": TARGET, GO_ON: SERVICE}
    return tuple(
        f"io.systemd.credential.binary:systemd.extra-unit.{name}={base64.b64encode(text.encode()).decode()}"
        for name, text in units.items()
    )


def wake_program() -> str:
    """A program for the guest's Python, which every image with cloud-init has. It makes a woken VM
    one of its own and opens the gate.
    """
    return render("cloudinit/wake.py")


def wake_values(entropy: bytes, machine_id: str, now: float) -> bytes:
    """The input of `wake_program`. `now` is in seconds since 1970."""
    return json.dumps(
        {
            "entropy": base64.b64encode(entropy).decode(),
            "machine_id": machine_id,
            "now": now,
            "opened": OPENED,
            "go_on": GO_ON,
        }
    ).encode()
