"""QEMU alone, restoring the memory of a template as libvirt would have it: the limit of what waking
can cost.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import secrets
import signal
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.vm.driver import LABS, VCLOUD, Operator
from vcloud.hosts.saveimage import HEADER, read_head
from vcloud.lab import namespaces
from vcloud.lab.host import WITHOUT_HUGE_PAGES
from vcloud.lab.lab import enter
from vcloud.lab.layout import Lab

POOL = "/var/lib/libvirt/images/vcloud"
AGENT = """\
import json, socket, sys, time
deadline = time.monotonic() + 60

def connected(path):
    while True:
        channel = socket.socket(socket.AF_UNIX)
        try:
            channel.connect(path)
            channel.settimeout(0.05)
            return channel
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.01)

monitor, agent = map(connected, sys.argv[1:])
ask, size = json.dumps({"execute": "guest-sync", "arguments": {"id": 1}}).encode() + b"\\n", 0
while time.monotonic() < deadline:
    monitor.sendall(b"cont\\n")
    try:
        if not size:
            agent.sendall(ask)
        size = len(ask)
        if agent.recv(4096):
            sys.exit(0)
    except TimeoutError:
        pass
sys.exit(1)
"""
"""Lets the VM run as soon as its memory is there (it was saved paused), and ends when its agent
answers.
"""


@dataclass(frozen=True)
class Model:
    """A woken VM's QEMU, and the memory that it woke from."""

    argv: tuple[str, ...]
    memory: str
    stream: int
    """Where QEMU's own bytes begin in it."""
    disk: str


def model_of(operator: Operator, domain: str) -> Model:
    """By a VM that runs: its command line has no card but its template's, and its disk lies over
    the template's.
    """
    argv = next(text for name, text in processes(operator, "cmdline") if name == domain).split(
        "\0"
    )[:-1]
    info = operator.at(
        "h1", "qemu-img", "info", "-U", "--output=json", f"{POOL}/root.{domain}.qcow2"
    ).out
    disk = json.loads(info)["backing-filename"]
    memory = disk.removesuffix(".qcow2") + ".save"
    head = subprocess.run(
        [*VCLOUD, "lab", "exec", "h1", "--", "head", "-c", "524288", memory],
        env=dict(operator.env),
        capture_output=True,
        check=True,
    )
    return Model(tuple(argv), memory, HEADER.size + read_head(head.stdout).length, disk)


def processes(operator: Operator, file: str) -> Iterator[tuple[str, str]]:
    """(domain, what this file of proc(5) says) of every QEMU that runs on the host of the
    operator's lab.
    """
    name = operator.env["VCLOUD_LAB"]
    for pid in namespaces.processes(Lab(name, LABS / name).host(1).namespace):
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            if found := re.search(r"\0-name\0guest=([^,\0]+)", words):
                yield found[1], Path(f"/proc/{pid}/{file}").read_bytes().decode(errors="replace")


@contextmanager
def restored(operator: Operator, models: Sequence[Model]) -> Iterator[None]:
    """All of them side by side, until the last one's agent has answered; afterwards nothing is
    left.
    """
    stem = f"{POOL}/bare-{secrets.token_hex(4)}"
    running: list[subprocess.Popen[bytes]] = []
    for number, model in enumerate(models):
        operator.at(
            "h1",
            "qemu-img",
            "create",
            "-q",
            "-f",
            "qcow2",
            "-b",
            model.disk,
            "-F",
            "qcow2",
            f"{stem}.{number}.qcow2",
        )
    try:
        with ThreadPoolExecutor(len(models)) as pool:
            for number, model in enumerate(models):
                running.append(_on_host(operator, *_argv(model, f"{stem}.{number}")))
            sockets = [
                (f"{stem}.{number}.monitor", f"{stem}.{number}.agent")
                for number in range(len(models))
            ]
            agents = [_on_host(operator, "python3", "-c", AGENT, *pair) for pair in sockets]
            assert list(pool.map(lambda process: process.wait(90), agents)) == [0] * len(models)
        yield
    finally:
        for process in running:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        operator.at("h1", "sh", "-c", f"rm -f {stem}.*")


def _on_host(operator: Operator, *argv: str) -> subprocess.Popen[bytes]:
    """Without the command line's own start, which would count for QEMU's, and like the host's
    libvirtd without huge pages.
    """
    name = operator.env["VCLOUD_LAB"]
    return subprocess.Popen(
        [*WITHOUT_HUGE_PAGES, *enter(Lab(name, LABS / name), "h1"), *argv],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def _argv(model: Model, stem: str) -> Iterator[str]:
    """libvirt's command line with sockets and files of our own, and without the sandbox, in which
    nothing can read the memory for it.
    """
    yield from (model.argv[0], "-monitor", f"unix:{stem}.monitor,server=on,wait=off")
    for option, value in _options(model.argv[1:]):
        if (
            option in ("-S", "-no-shutdown", "-add-fd", "-mon", "-name", "-sandbox")
            or (option == "-object" and "secret" in value)
            or "charmonitor" in value
        ):
            continue
        yield option
        if option == "-incoming":
            yield f"exec:tail -c +{model.stream + 1} {model.memory}"
        elif option == "-netdev":  # libvirt opens the card's end on the host and passes it on
            card = re.search(r"\bid\W+(\w+)", value)
            yield f"tap,id={card[1] if card else 'hostnet0'},script=no,downscript=no"
        elif option == "-chardev":
            name = value.partition("id=")[2].partition(",")[0]
            yield (
                f"socket,id={name},path={stem}.agent,server=on,wait=off"
                if "channel" in name
                else f"null,id={name}"
            )
        elif value:
            yield re.sub(rf"{POOL}/root\.[^\"]*\.qcow2", f"{stem}.qcow2", value)


def _options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options with their values; empty for those that have none."""
    for word, following in itertools.pairwise((*words, "-")):
        if word.startswith("-"):
            yield word, "" if following.startswith("-") else following
