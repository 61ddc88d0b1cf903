"""A vApp with a data disk that moves between two real hosts: nothing of its data is lost, nothing is
left behind, a kill at any step is repaired by the next command, and no two copies ever run.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.lab.places import CHECKOUT, command, virsh
from tests.lab.test_tenancy import BANK, define
from tests.vm import stock
from tests.vm.driver import with_data_disk
from vcloud.errors import Exit
from vcloud.lab import lab as labs
from vcloud.lab.layout import Host, Lab

pytestmark = [pytest.mark.netns, pytest.mark.vm, pytest.mark.timeout(3000)]

NAME = "nomad"
DOMAINS = {f"{NAME}.solo", f"{NAME}.firewall"}
PREFIXES = ("root.", "vm.", "console.", "seed.", "wake.")
BEFORE = "firewall: stopped"
COPYING = f"vm.{NAME}.solo.data.qcow2: copying"
AFTER = "counts from now on"


@dataclass(frozen=True, slots=True)
class Nomad:
    """The vApp, which stands on one of the two hosts."""

    lab: Lab
    file: Path
    digest: str
    """SHA-256 of the file on its data disk."""

    def start(self, *argv: str) -> subprocess.Popen[str]:
        environment = os.environ | {
            "VCLOUD_INVENTORY": str(self.lab.inventory),
            "VCLOUD_BOOT_TIMEOUT": "1500",
            "NO_COLOR": "1",
        }
        return subprocess.Popen(
            [sys.executable, "-m", "vcloud", *argv],
            env=environment,
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *argv: str, code: int = 0) -> tuple[str, str]:
        """Stdout and stderr of a command that ends with this exit code."""
        process = self.start(*argv)
        out, err = process.communicate(timeout=2400)
        assert process.returncode == code, (
            f"{argv}: {process.returncode}\n{out[-3000:]}\n{err[-6000:]}"
        )
        assert "Traceback" not in err
        return out, err

    def killed_at(self, stage: str, *argv: str) -> None:
        """Runs a command until it says that it has come to a stage, and kills it."""
        process = self.start(*argv)
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if stage in line:
                break
        else:
            raise AssertionError(f"it never said '{stage}':\n{''.join(said)}")
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=600)
        assert process.returncode == -signal.SIGKILL

    def home(self) -> Host:
        """The host that `vcloud list` names."""
        rows = json.loads(self.run("list", "-o", "json")[0])
        (name,) = [
            row["host"] for row in rows if row["vapp"] == NAME and "superseded" not in row["state"]
        ]
        return next(host for host in self.lab.hosts() if host.name == name)

    def other(self, host: Host) -> Host:
        return next(one for one in self.lab.hosts() if one.name != host.name)

    def inside(self, script: str) -> str:
        return self.run("exec", f"{NAME}/solo", "--", "sh", "-c", script)[0].strip()

    def is_whole_on(self, host: Host) -> None:
        """It runs there with its data, and nothing of it is on the other host."""
        assert self.home().name == host.name
        assert running(host) == DOMAINS
        assert self.inside("sha256sum </srv/d/file").split()[0] == self.digest
        assert self.inside("cat /etc/note") == "from the file"
        assert remains(self.other(host)) == []
        status = json.loads(self.run("status", NAME, "-o", "json")[0])
        assert status["healthy"]
        assert "nothing to do" in self.run("up", "--yes", str(self.file))[0]


def running(host: Host) -> set[str]:
    return {
        name for name in virsh(host.uri, "list", "--name").split() if name.startswith(f"{NAME}.")
    }


def remains(host: Host) -> list[str]:
    """Domains, networks, records, filters and volumes of the vApp."""
    listed = [
        *virsh(host.uri, "list", "--all", "--name").split(),
        *virsh(host.uri, "net-list", "--all", "--name").split(),
    ]
    filters = virsh(host.uri, "nwfilter-list").splitlines()
    listed += [line.split()[1] for line in filters if line.strip()]
    volumes = command(["virsh", "-q", "-c", host.uri, "vol-list", "vcloud"]).stdout.splitlines()
    names = [line.split()[0] for line in volumes if line.strip()]
    return [
        *(name for name in listed if name.startswith(f"{NAME}.") or name.endswith(f"-{NAME}")),
        *(name for name in names if name.startswith(tuple(f"{one}{NAME}." for one in PREFIXES))),
    ]


@pytest.fixture(scope="module")
def nomad(make: Callable[[str], Lab], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nomad]:
    """It runs on h1."""
    lab = make("t-move")
    labs.up(lab, 2)
    stock.give(lab.folder)
    document = with_data_disk(NAME, files={"/etc/note": "from the file\n"})
    file = tmp_path_factory.mktemp("nomad") / "nomad.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    vapp = Nomad(lab, file, "")
    vapp.run("up", "--yes", "--host", "h1", str(file))
    vapp.inside("dd if=/dev/urandom of=/srv/d/file bs=1M count=24 status=none; sync")
    digest = vapp.inside("sha256sum </srv/d/file").split()[0]
    yield Nomad(lab, file, digest)
    for host in lab.hosts():
        command(["virsh", "-c", host.uri, "destroy", "bank.core"])
        command(["virsh", "-c", host.uri, "undefine", "bank.core"])
    vapp.run("down", "--yes", NAME)
    for host in lab.hosts():
        assert remains(host) == []


@pytest.fixture
def whole(nomad: Nomad) -> Nomad:
    """Whatever the last test did, it runs, and no host is drained."""
    for host in nomad.lab.hosts():
        nomad.run("host", "undrain", host.name)
    nomad.run("up", "--yes", str(nomad.file))
    return nomad


def test_a_vapp_moves_with_its_data_and_leaves_nothing(whole: Nomad) -> None:
    source = whole.home()
    destination = whole.other(source)
    boot = whole.inside("cat /proc/sys/kernel/random/boot_id")
    key = whole.inside("cat /etc/ssh/ssh_host_ed25519_key.pub")
    out, _ = whole.run("migrate", NAME, destination.name, "--dry-run")
    assert "is stopped for the move" in out
    assert "All connections end" in out
    assert f"vm.{NAME}.solo.data.qcow2" in out
    _, err = whole.run("migrate", NAME, destination.name, code=Exit.INVALID)
    assert "add --yes" in err
    assert running(source) == DOMAINS, "without consent nothing is stopped"

    out, _ = whole.run("migrate", NAME, destination.name, "--yes")
    assert f"{NAME} is on {destination.name}, and gone from {source.name}" in out
    whole.is_whole_on(destination)
    assert whole.inside("cat /proc/sys/kernel/random/boot_id") != boot
    assert whole.inside("cat /etc/ssh/ssh_host_ed25519_key.pub") == key
    assert whole.run("ssh", f"{NAME}/solo", "--", "hostname")[0] == "solo\n"
    _, err = whole.run("migrate", NAME, destination.name, "--yes", code=Exit.INVALID)
    assert f"is on {destination.name} already" in err


@pytest.mark.parametrize("stage", [BEFORE, COPYING])
@pytest.mark.long
def test_a_move_that_is_killed_before_its_switch_is_undone_by_up(whole: Nomad, stage: str) -> None:
    source = whole.home()
    destination = whole.other(source)
    whole.killed_at(stage, "migrate", NAME, destination.name, "--yes")
    assert running(source) == set()
    assert running(destination) == set()
    assert whole.home().name == source.name
    if stage == COPYING:
        # Nobody starts it by hand.
        refused = command(["virsh", "-c", source.uri, "start", f"{NAME}.solo"])
        assert refused.returncode != 0
        assert "vcloud:" in refused.stderr
    plan = whole.run("plan", str(whole.file))[1]
    assert "has not ended" in plan
    _, err = whole.run("up", "--yes", str(whole.file))
    assert "interrupted before its switch, and is undone now" in err
    whole.is_whole_on(source)


@pytest.mark.parametrize("repair", ["migrate", "up"])
@pytest.mark.long
def test_a_move_that_is_killed_after_its_switch_is_finished(whole: Nomad, repair: str) -> None:
    source = whole.home()
    destination = whole.other(source)
    whole.killed_at(AFTER, "migrate", NAME, destination.name, "--yes")
    assert running(source) == set()
    assert whole.home().name == destination.name
    started = command(["virsh", "-c", source.uri, "start", f"{NAME}.solo"])
    assert started.returncode != 0
    again = {
        "migrate": ("migrate", NAME, destination.name, "--yes"),
        "up": ("up", "--yes", str(whole.file)),
    }
    _, err = whole.run(*again[repair])
    assert "interrupted after its switch, and is finished now" in err
    whole.is_whole_on(destination)


@pytest.mark.long
def test_no_two_copies_ever_run(whole: Nomad) -> None:
    """Looks all the time while a move is at work."""
    source = whole.home()
    process = whole.start("migrate", NAME, whole.other(source).name, "--yes", "-o", "json")
    both = []
    while process.poll() is None:
        found = [running(host) for host in whole.lab.hosts()]
        both += [found] * all(found)
        time.sleep(0.3)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["source"] == source.name
    assert both == []
    whole.is_whole_on(whole.other(source))


@pytest.mark.long
def test_a_move_that_tenancy_forbids_leaves_the_vapp_running(whole: Nomad, tmp_path: Path) -> None:
    source = whole.home()
    destination = whole.other(source)
    boot = whole.inside("cat /proc/sys/kernel/random/boot_id")
    define(destination, tmp_path, "bank.core", BANK)
    virsh(destination.uri, "start", "bank.core")
    try:
        _, err = whole.run("migrate", NAME, destination.name, "--yes", code=Exit.REFUSED)
        assert "'bank' shares its host with no other vApp" in err
        out, _ = whole.run("host", "drain", source.name, "--yes", code=Exit.REFUSED)
        assert f"{NAME} stays on {source.name}" in out
        rows = json.loads(whole.run("host", "list", "-o", "json")[0])
        assert {row["name"]: row["drained"] for row in rows} == {
            source.name: True,
            destination.name: False,
        }
    finally:
        virsh(destination.uri, "destroy", "bank.core")
        virsh(destination.uri, "undefine", "bank.core")
    assert remains(destination) == []
    assert whole.inside("cat /proc/sys/kernel/random/boot_id") == boot

    # Without that neighbour it may leave, and the drained host takes nothing back.
    out, _ = whole.run("host", "drain", source.name, "--yes")
    assert f"{NAME} is on {destination.name} now" in out
    whole.is_whole_on(destination)
    _, err = whole.run("migrate", NAME, source.name, "--yes", code=Exit.REFUSED)
    assert f"{source.name} is drained" in err
    assert "all vApps (drained)" in whole.run("host", "list")[0]
    assert "yes; no vApp is placed there" in whole.run("host", "show", source.name)[0]
    assert "may be placed" in whole.run("host", "undrain", source.name)[0]
    assert "was not drained" in whole.run("host", "undrain", source.name)[0]


@pytest.mark.long
def test_down_in_the_middle_of_a_move_removes_both_copies(whole: Nomad) -> None:
    """The last test: the vApp is gone then, and made again for whoever comes after it."""
    destination = whole.other(whole.home())
    whole.killed_at(COPYING, "migrate", NAME, destination.name, "--yes")
    assert remains(destination)
    whole.run("down", "--yes", NAME)
    for host in whole.lab.hosts():
        assert remains(host) == []
    whole.run("up", "--yes", str(whole.file))
