"""Runs the real command many times without paying for Python's imports each time.

A server process has imported vcloud and waits. For each command it forks a process, which gets its
own standard streams, environment and session, and then does what `python -m vcloud` does. Half of
the processor time of a short command are imports.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PRELOADED = (
    "vcloud.cli.app",
    "vcloud.apply.up",
    "vcloud.apply.down",
    "vcloud.apply.save",
    "vcloud.verify.run",
    "vcloud.views.status",
    "vcloud.guests.access",
    "vcloud.lab.lab",
    "paramiko",
    "libvirt",
    "libvirt_qemu",
    "jinja2",
    "yaml",
)
LONGEST_REQUEST = 1 << 20


class Server:
    """The process that forks commands. One command runs at a time; several threads may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            argv = [
                sys.executable,
                "-c",
                "from tests.vm.commands import serve; serve()",
                str(theirs.fileno()),
            ]
            self._process = subprocess.Popen(
                argv, cwd=ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
            )

    def run(
        self, argv: Sequence[str], env: Mapping[str, str], stdin: str, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """`python -m vcloud ARGV...`. Raises subprocess.TimeoutExpired after the command was
        killed.
        """
        with (
            self._lock,
            tempfile.TemporaryFile() as given,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
        ):
            given.write(stdin.encode())
            given.seek(0)
            request = json.dumps({"argv": list(argv), "env": dict(env)}).encode()
            socket.send_fds(self._channel, [request], [given.fileno(), out.fileno(), err.fileno()])
            code = self._ended(argv, timeout)
            for stream in (out, err):
                stream.seek(0)
            return subprocess.CompletedProcess(
                list(argv), code, *(_text(stream.read()) for stream in (out, err))
            )

    def _ended(self, argv: Sequence[str], timeout: float) -> int:
        pid = self._answer()
        self._channel.settimeout(timeout)
        try:
            return self._answer()
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            self._channel.settimeout(None)
            self._answer()
            raise subprocess.TimeoutExpired(list(argv), timeout) from None
        finally:
            self._channel.settimeout(None)

    def _answer(self) -> int:
        answer = self._channel.recv(64)
        assert answer, "the process that runs commands has ended"
        return int(answer)

    def close(self) -> None:
        self._channel.close()
        self._process.wait(60)


@cache
def server() -> Server:
    """The one of this process. It ends with it."""
    return Server()


def start_and_run(
    argv: Sequence[str], env: Mapping[str, str], stdin: str, timeout: float
) -> subprocess.CompletedProcess[str]:
    """The same without the server: in a process that begins with Python's start."""
    whole = [sys.executable, "-m", "vcloud", *argv]
    return subprocess.run(
        whole,
        env=dict(env),
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def _text(output: bytes) -> str:
    """As subprocess reads text."""
    return output.decode().replace("\r\n", "\n")


def serve() -> None:
    """The server's program. Returns, and ends with the code of the command, only in the processes
    of commands.
    """
    for module in PRELOADED:
        importlib.import_module(module)
    gc.freeze()  # what was imported is garbage of no command
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        while True:
            request, streams, _, _ = socket.recv_fds(channel, LONGEST_REQUEST, 3)
            if not request:
                return
            pid = os.fork()
            if pid == 0:
                break
            for stream in streams:
                os.close(stream)
            channel.send(str(pid).encode())
            channel.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
    _become(json.loads(request), streams)


def _become(request: Any, streams: Sequence[int]) -> None:
    """The command that was asked for, in a session and a process group of its own."""
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = [str(ROOT / "vcloud/__main__.py"), *request["argv"]]
    from vcloud.cli.app import main

    main()
