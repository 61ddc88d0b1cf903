"""A VM of an image under plain QEMU without KVM and without libvirt, driven through its guest
agent.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vcloud.images.cache import Image

MAC = "52:54:00:12:34:56"
AGENT = "org.qemu.guest_agent.0"
SPARE_PORTS = ("rp0", "rp1")
"""PCIe ports to plug devices into."""


@dataclass(frozen=True)
class Done:
    """How a program in the guest ended."""

    code: int
    out: str
    err: str


class Guest:
    """A running VM. Times are seconds of wall clock, but for `cpu`, which other load on the machine
    does not stretch as much.
    """

    def __init__(
        self,
        image: Image,
        folder: Path,
        *,
        memory: int = 0,
        arguments: tuple[str, ...] = (),
        append: str = "",
    ) -> None:
        self.folder = folder
        self.console = folder / "console"
        disk = folder / "root.qcow2"
        if not disk.exists():
            subprocess.run(
                [
                    "qemu-img",
                    "create",
                    "-q",
                    "-f",
                    "qcow2",
                    "-b",
                    str(image.disk),
                    "-F",
                    "qcow2",
                    str(disk),
                ],
                check=True,
            )
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            self._command(image, disk, memory or image.memory, arguments, append)
        )
        self._agent: socket.socket | None = None
        self._qmp: socket.socket | None = None

    def _command(
        self, image: Image, disk: Path, memory: int, arguments: tuple[str, ...], append: str
    ) -> list[str]:
        return [
            *(
                "qemu-system-x86_64",
                "-machine",
                "q35",
                "-accel",
                "tcg,tb-size=64",
                "-cpu",
                "max",
                "-smp",
                "1",
                "-m",
                str(memory >> 20),
            ),
            *(
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-serial",
                f"file:{self.console}",
            ),
            *(
                "-kernel",
                str(image.kernel),
                "-initrd",
                str(image.initrd),
                "-append",
                f"{image.cmdline} {append}",
            ),
            *(
                "-blockdev",
                f"qcow2,node-name=root,file.driver=file,file.filename={disk}",
                "-device",
                "virtio-blk-pci,drive=root",
            ),
            *(
                "-device",
                "virtio-serial-pci",
                "-chardev",
                f"socket,id=agent,path={self.folder}/agent,server=on,wait=off",
            ),
            *("-device", f"virtserialport,chardev=agent,name={AGENT}", "-device", "virtio-rng-pci"),
            *("-qmp", f"unix:{self.folder}/qmp,server=on,wait=off"),
            *(
                word
                for index, port in enumerate(SPARE_PORTS)
                for word in ("-device", f"pcie-root-port,id={port},chassis={index + 1}")
            ),
            *arguments,
        ]

    @property
    def cpu(self) -> float:
        """Seconds of CPU that QEMU has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def wait_for_agent(self, timeout: float = 900) -> None:
        """Until the agent answers for the first time since it was started."""
        deadline = time.monotonic() + timeout
        self._agent = _connect(self.folder / "agent", deadline)
        token = 0
        while time.monotonic() < deadline:
            token += 1
            self._agent.settimeout(
                2
            )  # QEMU holds a question until the agent is there; more are for one that a reset swallowed
            self._agent.sendall(
                json.dumps({"execute": "guest-sync", "arguments": {"id": token}}).encode() + b"\n"
            )
            # what an agent of an earlier boot or call left is passed over
            with contextlib.suppress(TimeoutError):
                while json.loads(_line(self._agent)).get("return") != token:
                    pass
                self._agent.settimeout(600)
                return
        raise AssertionError(
            f"no answer from the agent; console:\n{self.console.read_text(errors='replace')}"
        )

    def agent(self, command: str, **arguments: Any) -> Any:
        assert self._agent is not None
        self._agent.sendall(
            json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"
        )
        answer = json.loads(_line(self._agent))
        assert "return" in answer, answer
        return answer["return"]

    def shut_down(self, mode: str) -> None:
        """Through the agent, which does not answer: `powerdown` or `reboot`."""
        assert self._agent is not None
        self._agent.sendall(
            json.dumps({"execute": "guest-shutdown", "arguments": {"mode": mode}}).encode() + b"\n"
        )

    def reboot(self, timeout: float = 600) -> None:
        """Through the agent, until it answers again."""
        self.qmp("query-status")  # passes over what QEMU said of an earlier reset
        self.shut_down("reboot")
        connection = self._open_qmp()
        connection.settimeout(timeout)
        while json.loads(_line(connection)).get("event") != "RESET":
            pass
        self.wait_for_agent()

    def run(self, *command: str, stdin: bytes = b"", timeout: float = 600) -> Done:
        deadline = time.monotonic() + timeout
        options = {"input-data": base64.b64encode(stdin).decode(), "capture-output": True}
        pid = self.agent("guest-exec", path=command[0], arg=list(command[1:]), **options)["pid"]
        while time.monotonic() < deadline:
            status = self.agent("guest-exec-status", pid=pid)
            if status["exited"]:
                out, err = (
                    base64.b64decode(status.get(key, "")).decode(errors="replace")
                    for key in ("out-data", "err-data")
                )
                return Done(status.get("exitcode", -1), out, err)
            time.sleep(0.2)
        raise AssertionError(f"{command} did not end")

    def shell(self, line: str) -> str:
        """Output of a shell command that must succeed."""
        done = self.run("/bin/sh", "-c", line)
        assert done.code == 0, (line, done)
        return done.out

    def wait_until(self, line: str, timeout: float = 600) -> None:
        """Until a shell command succeeds."""
        deadline = time.monotonic() + timeout
        while (done := self.run("/bin/sh", "-c", line)).code:
            assert time.monotonic() < deadline, (line, done)
            time.sleep(1)

    def qmp(self, command: str, **arguments: Any) -> None:
        connection = self._open_qmp()
        connection.sendall(
            json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"
        )
        while "return" not in (answer := json.loads(_line(connection))):
            assert "error" not in answer, answer

    def _open_qmp(self) -> socket.socket:
        if self._qmp is None:
            self._qmp = _connect(self.folder / "qmp", time.monotonic() + 600)
            self._qmp.settimeout(600)
            self.qmp("qmp_capabilities")
        return self._qmp

    def stop(self) -> None:
        for connection in (self._agent, self._qmp):
            if connection is not None:
                connection.close()
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def booted(image: Image, folder: Path, **options: Any) -> Iterator[Guest]:
    """A VM whose agent has answered."""
    guest = Guest(image, folder, **options)
    try:
        guest.wait_for_agent()
        yield guest
    finally:
        guest.stop()


def _connect(path: Path, deadline: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    while True:
        try:
            connection.connect(str(path))
        except OSError:
            assert time.monotonic() < deadline, f"{path} does not answer"
            time.sleep(0.02)
        else:
            return connection


def _line(connection: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        assert byte, "QEMU has ended"
        line += byte
    return line
