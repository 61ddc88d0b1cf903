"""Namespaces for tests, and sockets in them."""

from __future__ import annotations

import ctypes
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNET = 0x40000000


@contextmanager
def held(*kinds: str, script: str = "") -> Iterator[int]:
    """New namespaces for mounts, network, processes and what `kinds` names (as unshare(1) does).
    Yields the number of the process that holds them.

    That process is a `cat` that reads a pipe of this process: whatever ends the tests ends it, and
    with it every NIC, mount and process in the namespaces. `script` runs in them first.
    """
    unshare = ["unshare", "--mount", "--net", "--pid", *(f"--{kind}" for kind in kinds)]
    holder = [*unshare, "--fork", "--kill-child", "--mount-proc"]
    with subprocess.Popen(
        [*holder, "sh", "-ec", f"{script}\necho ready\nexec cat >/dev/null"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())


class Sockets:
    """Makes sockets in a network namespace by a thread in it. A socket stays in the namespace that
    it was made in.
    """

    def __init__(self, namespace: Path) -> None:
        self._namespace = namespace
        self._inside = ThreadPoolExecutor(max_workers=1, initializer=self._enter)

    def _enter(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with self._namespace.open() as namespace:
            if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"setns {self._namespace}")

    def make(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        return self._inside.submit(socket.socket, family, kind, protocol).result()

    def close(self) -> None:
        self._inside.shutdown()
