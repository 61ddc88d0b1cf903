"""What tests do at the places of a lab: on its hosts, in its outside world, and on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import vcloud as package
from vcloud.lab import lab as labs
from vcloud.lab.layout import Host, Lab

CHECKOUT = Path(package.__file__).parents[1]
MACHINE = """\
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><interface type='network'><source network='uplink'/><model type='virtio'/></interface></devices>
</domain>
"""


def command(argv: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, input=text, capture_output=True, text=True, check=False, timeout=600
    )


def at(lab: Lab, where: str, *argv: str, text: str = "") -> str:
    done = command([*labs.enter(lab, where), *argv], text)
    assert done.returncode == 0, done.stderr
    return done.stdout


def cli(lab: Lab, *argv: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"VCLOUD_LAB_DIR": str(lab.folder.parent), "VCLOUD_LAB": lab.name}
    return subprocess.run(
        [sys.executable, "-m", "vcloud", "lab", *argv],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        cwd=CHECKOUT,
        env=environment,
    )


def virsh(uri: str, *argv: str) -> str:
    done = command(["virsh", "--quiet", "--connect", uri, *argv])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def start_machine(host: Host, tmp_path: Path, name: str = "m") -> None:
    xml = tmp_path / f"{name}.xml"
    xml.write_text(MACHINE.format(name=name))
    virsh(host.uri, "define", str(xml))
    virsh(host.uri, "start", name)


def log(lab: Lab, **wanted: object) -> list[dict[str, object]]:
    """The lines of the responder's log that have these values."""
    lines = map(json.loads, lab.responder_log.read_text().splitlines())
    return [line for line in lines if all(line.get(key) == value for key, value in wanted.items())]


def not_running(lab: Lab) -> set[tuple[str, str]]:
    return {(part.where, part.what) for part in labs.status(lab) if not part.runs}


def pid_in(lab: Lab, where: str, name: str) -> str:
    return at(lab, where, "pgrep", "--oldest", "--exact", name).split()[0]


def vcloud(lab: Lab, *argv: str) -> subprocess.CompletedProcess[str]:
    """A command of vcloud's for the hosts of the lab."""
    return subprocess.run(
        [sys.executable, "-m", "vcloud", *argv],
        env=os.environ | {"VCLOUD_INVENTORY": str(lab.inventory)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
