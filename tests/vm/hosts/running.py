"""A VM that some of the tests of this folder share, and programs that use the host beside them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from vcloud.compile.libvirt.host import BootFiles
from vcloud.hosts.agent import Agent
from vcloud.hosts.connection import Host
from vcloud.hosts.volumes import Base, VappVolumes

NAME = "t-hosts.vm"
DOMAIN = """\
<domain type="qemu">
  <name>{name}</name>
  <memory unit="MiB">384</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch="x86_64" machine="q35">hvm</type>
    <kernel>{boot.kernel}</kernel>
    <initrd>{boot.initrd}</initrd>
    <cmdline>{boot.cmdline}</cmdline>
  </os>
  <features><acpi/><apic/><tcg><tb-cache unit="MiB">64</tb-cache></tcg></features>
  <cpu mode="maximum"/>
  <devices>
    <disk type="file" device="disk">
      <driver name="qemu" type="qcow2"/><source file="{boot.disk}"/><target dev="vda" bus="virtio"/>
    </disk>
    <controller type="usb" model="none"/>
    <serial type="pty"><log file="{boot.console}" append="off"/><target port="0"/></serial>
    <console type="pty"><target type="serial" port="0"/></console>
    <channel type="unix"><target type="virtio" name="org.qemu.guest_agent.0"/></channel>
    <video><model type="none"/></video>
    <rng model="virtio"><backend model="random">/dev/urandom</backend></rng>
    <memballoon model="none"/>
  </devices>
</domain>
"""


@dataclass(frozen=True, slots=True)
class Running:
    """The VM that the tests share."""

    volumes: VappVolumes
    base: Base
    boot: BootFiles
    agent: Agent


def stat(host: Host, path: str) -> str:
    return host.shell.run(["stat", "-c", "%a %s", path]).stdout.decode().strip()


def program(text: str, *argv: str) -> subprocess.Popen[str]:
    """A Python program in a process group of its own, as a shell would start it at a terminal."""
    return subprocess.Popen(
        [sys.executable, "-c", text, *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=dict(os.environ),
    )


def line(process: subprocess.Popen[str]) -> str:
    """The next line that the program says; waits for it."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    """Sends a line to a program that waits for one."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def until(what: str, holds: Callable[[], bool], seconds: float = 600) -> None:
    """Waits for something that happens soon. The time is long because the machine may be busy."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not after {seconds:g} s"
        time.sleep(0.1)
