"""An operator and a customer, for tests: the real command in a process of its own, a host of a lab,
and its outside world.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import yaml

from tests.vm import commands, stock
from vcloud.lab import lab as labs
from vcloud.lab.layout import Lab

ROOT = Path(__file__).resolve().parents[2]
LABS = Path("/var/lib/vcloud/test-labs")
"""Beside the user's own labs: theirs stay the only ones that commands find by themselves."""
VCLOUD = (sys.executable, "-m", "vcloud")
GUEST = "/usr/lib/vcloud/guest"
NAMESPACE = "https://vcloud.dev/ns/1"
TINY: dict[str, Any] = {
    "vcloud": 1,
    "name": "tiny",
    "zones": {"one": {}},
    "vms": {"solo": {"image": "base", "memory": "256M", "zone": "one", "ready": {"tcp": 22}}},
    "flows": [
        {"id": "login", "from": "internet", "to": "solo", "service": "tcp/22", "publish": 2222}
    ],
}
"""A vApp of one VM that a customer may log in to."""


def with_data_disk(name: str, **fields: Any) -> dict[str, Any]:
    """A vApp of one VM that has a data disk at /srv/d. `fields` are more of the VM."""
    vm = {
        "image": "base",
        "zone": "one",
        "memory": "256M",
        "disks": {"data": {"size": "64M", "mount": "/srv/d"}},
    }
    return {"vcloud": 1, "name": name, "zones": {"one": {}}, "vms": {"solo": vm | fields}}


@dataclass(frozen=True, slots=True)
class Done:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """Its stdout as JSON."""
        return json.loads(self.out)


def environment(lab: str, home: Path) -> dict[str, str]:
    """What an operator of the lab has in their shell; nothing of it comes from whoever runs the
    tests, but where images are kept.
    """
    cache = os.environ.get("VCLOUD_CACHE_DIR") or str(
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vcloud"
    )
    inherited = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("VCLOUD_", "LIBVIRT_", "XDG_"))
    }
    return inherited | {
        "HOME": str(home),
        "VCLOUD_LAB": lab,
        "VCLOUD_LAB_DIR": str(LABS),
        "VCLOUD_INVENTORY": str(LABS / lab / "hosts.yaml"),
        "VCLOUD_CACHE_DIR": cache,
        # On a slow machine a VM may boot for so long.
        "VCLOUD_BOOT_TIMEOUT": "3000",
        # Where tests.vm.cloud_image keeps what it builds.
        "VCLOUD_IMAGE_FOLDERS": f"{cache}/test-images",
        "NO_COLOR": "1",
    }


@dataclass(frozen=True, slots=True)
class Operator:
    """Somebody at the command line, with their environment."""

    env: Mapping[str, str]
    fresh: bool = False
    """Whether each command starts Python anew, as at a shell. It takes longer, and is what
    measurements measure.
    """

    def elsewhere(self, home: Path, **env: str) -> Operator:
        """The same person on another machine: nothing of what an earlier command left in HOME is
        there.
        """
        return replace(self, env={**self.env, "HOME": str(home), **env})

    def with_host(self, folder: Path, change: Callable[[dict[str, Any]], object]) -> Operator:
        """The same person elsewhere, whose inventory says something else of the lab's host."""
        inventory = yaml.safe_load((LABS / self.env["VCLOUD_LAB"] / "hosts.yaml").read_text())
        change(inventory["hosts"]["h1"])
        (folder / "hosts.yaml").write_text(yaml.safe_dump(inventory))
        return self.elsewhere(folder / "home", VCLOUD_INVENTORY=str(folder / "hosts.yaml"))

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """Begins `vcloud ARGV...` and returns at once; it is the head of its own process group, as
        under a shell.
        """
        return subprocess.Popen(
            [*VCLOUD, *argv],
            env=dict(self.env),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *argv: str, code: int | None = 0, stdin: str = "", timeout: float = 2400) -> Done:
        """Runs `vcloud ARGV...` to its end, and asks for this exit code; None takes any."""
        run = commands.start_and_run if self.fresh else commands.server().run
        done = run(argv, self.env, stdin, timeout)
        assert code in (None, done.returncode), (
            f"vcloud {' '.join(argv)} ended with {done.returncode}, not {code}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def up(self, path: Path, *argv: str, code: int = 0) -> Done:
        return self.run("up", "--yes", str(path), *argv, code=code)

    def status(self, vapp: str) -> Any:
        return self.run("status", vapp, "-o", "json").data

    def inside(self, vm: str, script: str, code: int | None = 0, stdin: str = "") -> str:
        """Stdout of a shell line in a VM (`shop/web-1`)."""
        return self.run("exec", vm, "--", "sh", "-c", script, code=code, stdin=stdin).out

    def boot_id(self, vm: str, code: int | None = 0) -> str:
        """Another one after every boot; the same where a VM goes on from its memory."""
        return self.inside(vm, "cat /proc/sys/kernel/random/boot_id", code)

    def at(self, where: str, *argv: str, timeout: float = 300) -> Done:
        """A command on a host of the lab (`h1`) or in its outside world (`customer`), as `vcloud
        lab exec` runs it.
        """
        name = self.env["VCLOUD_LAB"]
        enter = labs.enter(Lab(name, LABS / name), where)
        done = subprocess.run(
            [*enter, "--", *argv],
            env=dict(self.env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def virsh(self, *argv: str, code: int | None = 0) -> str:
        """virsh on the lab's host, through its socket on this machine: fast enough to look many
        times a second.
        """
        socket = LABS / self.env["VCLOUD_LAB"] / "h1/run/libvirt/libvirt-sock"
        done = subprocess.run(
            ["virsh", "-q", "-c", f"qemu+unix:///system?socket={socket}", *argv],
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert code in (None, done.returncode), f"virsh {' '.join(argv)}: {done.stderr}"
        return done.stdout

    def probe(self, vm: str, *probes: Probe) -> list[str]:
        """What came of each probe that `guest probe` sent from a VM."""
        done = self.run(
            "exec",
            vm,
            "--",
            GUEST,
            "probe",
            stdin="".join(f"{number} {probe}\n" for number, probe in enumerate(probes)),
        )
        results = {
            int(line["id"]): line["result"] for line in map(json.loads, done.out.splitlines())
        }
        return [results[number] for number in range(len(probes))]

    def listen(self, vm: str, *services: str, seconds: int = 7200) -> None:
        """Services in a VM that send back what they get, until the VM ends or the time is up: `tcp
        10.0.0.2 7000`.
        """
        self.run(
            "exec",
            vm,
            "--",
            GUEST,
            "listen",
            str(seconds),
            stdin="".join(f"{service}\n" for service in services),
        )


@contextmanager
def lab(name: str, home: Path, *, stocked: bool = False) -> Iterator[Operator]:
    """Somebody at the command line with a lab of one host, which is new, and gone in the end.

    A stocked host has images and memory images from the start (`tests.vm.stock`).
    """
    operator = Operator(environment(name, home))
    with _alone(name):
        operator.run("lab", "down")
        operator.run("lab", "up")
        try:
            if stocked:
                stock.give(LABS / name)
            yield operator
        finally:
            operator.run("lab", "down")


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """Another run of the tests on this machine would end a lab of the same name: it waits."""
    LABS.mkdir(parents=True, exist_ok=True)
    with (LABS / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


PATIENT = 60_000
"""Milliseconds for a probe that must be answered. It ends with the answer."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One question of `guest probe`. The time is long enough where silence is expected."""

    protocol: str
    target: str
    port: int = 0
    source: str = "-"
    milliseconds: int = 2500
    payload: bytes = b""

    def __str__(self) -> str:
        payload = base64.b64encode(self.payload).decode() or "-"
        return (
            f"{self.protocol} {self.source} {self.target} {self.port} {self.milliseconds} {payload}"
        )


def must_open(target: str, port: int) -> Probe:
    return Probe("tcp", target, port, milliseconds=PATIENT)


@dataclass(frozen=True, slots=True)
class Vapp:
    """A vApp that runs."""

    operator: Operator
    name: str
    file: Path
    addresses4: Mapping[str, str] = field(default_factory=dict)
    """VM -> the address of its first card."""
    addresses6: Mapping[str, str] = field(default_factory=dict)
    uplink: Sequence[str] = ()
    """The published addresses, IPv4 first."""

    def vm(self, name: str) -> str:
        """As the command line wants it."""
        return f"{self.name}/{name}"

    def domain(self, name: str) -> str:
        return f"{self.name}.{name}"

    def inside(self, vm: str, script: str, code: int | None = 0, stdin: str = "") -> str:
        return self.operator.inside(self.vm(vm), script, code, stdin)

    def boot_id(self, vm: str, code: int | None = 0) -> str:
        return self.operator.boot_id(self.vm(vm), code)

    def clock_error(self, vm: str) -> float:
        """Seconds between a VM's clock and the one here. While the VM is asked, the clock here goes
        on: all times in between count as right.
        """
        asked = time.time()
        there = float(self.inside(vm, "date +%s.%N"))
        return max(asked - there, there - time.time(), 0.0)

    def probe(self, vm: str, *probes: Probe) -> list[str]:
        return self.operator.probe(self.vm(vm), *probes)

    def again(self) -> Vapp:
        """The same with the VMs that it has now."""
        return standing(self.operator, self.name, self.file)

    def curl(
        self, path: str, *argv: str, port: int = 8080, family: int = 4, patience: int = 120
    ) -> Done:
        """A customer's request to the published port."""
        address = self.uplink[0] if family == 4 else f"[{self.uplink[1]}]"
        return self.operator.at(
            "customer", "curl", "-sS", "-m", str(patience), *argv, f"http://{address}:{port}{path}"
        )

    def firewall_report(self) -> Any:
        return self.operator.run(
            "exec", self.vm("firewall"), "--", "/usr/lib/vcloud/firewall-report", "counts"
        ).data


def standing(operator: Operator, name: str, file: Path) -> Vapp:
    """What `vcloud status` says of it."""
    status = operator.status(name)
    workloads = [vm for vm in status["vms"] if vm["role"] == "workload"]
    addresses4, addresses6 = (
        {vm["name"]: vm[key][0] for vm in workloads} for key in ("ipv4", "ipv6")
    )
    return Vapp(operator, name, file, addresses4, addresses6, status["uplink"])


def stages(done: Done, vm: str) -> list[str]:
    """What `up` said of a VM."""
    return [line.partition(f"  {vm}: ")[2] for line in done.err.splitlines() if f"  {vm}: " in line]


def stop_at(
    operator: Operator, file: Path, stage: str, number: signal.Signals, *argv: str
) -> tuple[int, str]:
    """Runs `up` until it says that it has come to a stage, and signals its whole process group as a
    terminal would.
    """
    process = operator.start("up", "--yes", str(file), *argv)
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if stage in line:
            break
    else:
        raise AssertionError(f"up never said '{stage}':\n{''.join(said)}")
    os.killpg(process.pid, number)
    said.append(process.stderr.read())
    return process.wait(600), "".join(said)


def write_vapp(path: Path, document: Mapping[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(dict(document), sort_keys=False))
    return path


# What libvirt knows, asked past vcloud


def domains(operator: Operator, vapp: str, *, live: bool = False) -> dict[str, str]:
    """Domain -> its number, which changes with every start; `-` for one that does not run."""
    listed = operator.virsh("list", *(() if live else ("--all",))).splitlines()
    rows = [line.split(maxsplit=2) for line in listed if line.strip()]
    return {row[1]: row[0] for row in rows if row[1].startswith(f"{vapp}.")}


def parse(text: str) -> Element:
    """An element from libvirt's or vcloud's own XML."""
    return ElementTree.fromstring(text)  # noqa: S314


def xml_of(operator: Operator, domain: str) -> str:
    return operator.virsh("dumpxml", domain)


def links(operator: Operator, domain: str) -> set[str]:
    """States of a running domain's cards; empty when it is not there."""
    text = operator.virsh("dumpxml", domain, code=None)
    if not text:
        return set()
    return {link.attrib["state"] for link in parse(text).iterfind("devices/interface/link")}


def mark(operator: Operator, domain: str) -> dict[str, str]:
    """Attributes of vcloud's element in a domain's metadata; empty when it is not there."""
    text = operator.virsh("dumpxml", domain, code=None)
    found = parse(text).find(f"metadata/{{{NAMESPACE}}}vm") if text else None
    return {} if found is None else dict(found.attrib)


def volumes(operator: Operator, *prefixes: str) -> list[str]:
    """Of vcloud's pool, those whose names begin so."""
    listed = operator.virsh("vol-list", "vcloud", code=None).splitlines()
    return [
        name
        for name in (line.split()[0] for line in listed if line.strip())
        if name.startswith(prefixes)
    ]


def remains(operator: Operator, vapp: str) -> list[str]:
    """Domains, networks, filters, records and volumes that are a vApp's."""
    listed = [
        *operator.virsh("list", "--all", "--name").split(),
        *operator.virsh("net-list", "--all", "--name").split(),
    ]
    listed += [
        line.split()[1] for line in operator.virsh("nwfilter-list").splitlines() if line.strip()
    ]
    prefixes = tuple(f"{kind}{vapp}." for kind in ("", "root.", "vm.", "console.", "seed."))
    records = (
        f"vcloud-manifest-{vapp}",
        f"vcloud-lock-{vapp}",
        f"vcloud-{vapp}",
        f"vcloud-{vapp}.open",
    )
    return [name for name in listed if name.startswith(prefixes) or name in records] + volumes(
        operator, *prefixes
    )


def wait_until(what: str, holds: Callable[[], bool], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not after {seconds} s"
        time.sleep(0.3)
