"""Where the boot of a user's own image waits while it becomes a template: before any service of it has run.

An image of vcloud's waits by itself (vcloud-gate.target). Another one is told by its host: systemd, from version 254 on, takes units from
SMBIOS (`systemd.extra-unit.*`, systemd.system-credentials(7)). So nothing of the image is changed, and what its services make for
themselves when they first run, keys above all, is made by each VM on its own. After the gate comes all that would come in a cold boot,
cloud-init included, in the same order.

The machine of a VM that has woken may boot again, and tells the same: a file on its disk lets it through.
"""

from __future__ import annotations

import base64
import json

from vcloud.compile.environment import render

DESCRIPTION = "Wait until this VM knows who it is"
OPENED = "/var/lib/vcloud/opened"
"""There once a VM has been let through."""
DEFAULT = "readlink -e /etc/systemd/system/default.target || readlink -e /usr/lib/systemd/system/default.target"
"""What the image boots to: our own unit of that name hides it from systemctl. A `$` is doubled in a unit."""
GO_ON = "vcloud-opened.service"
TARGET = f"""\
[Unit]
Description={DESCRIPTION}
Requires=basic.target
After=basic.target
Wants=qemu-guest-agent.service {GO_ON}
AllowIsolate=yes
"""
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
    """OEM strings of SMBIOS (its type 11) that make an image wait."""
    units = {"default.target": TARGET, GO_ON: SERVICE}
    return tuple(
        f"io.systemd.credential.binary:systemd.extra-unit.{name}={base64.b64encode(text.encode()).decode()}" for name, text in units.items()
    )


def wake_program() -> str:
    """What the guest's Python, which every image with cloud-init has, runs to let a VM be one of its own and go on."""
    return render("cloudinit/wake.py")


def wake_values(seed: bytes, machine_id: str, now: float) -> bytes:
    """What that program reads."""
    return json.dumps(
        {"seed": base64.b64encode(seed).decode(), "machine_id": machine_id, "now": now, "opened": OPENED, "go_on": GO_ON}
    ).encode()
