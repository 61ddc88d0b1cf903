"""Changes of a vApp that runs: what differs is changed, at the cost that the plan names, and
nothing else is touched.
"""

from __future__ import annotations

import copy
import json
import select
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.vm.conftest import Raise
from tests.vm.driver import ROOT, VCLOUD, Done, Vapp, domains, remains, write_vapp, xml_of
from vcloud.lab.layout import HOST_OFFSET, SERVER, SERVERS4, UPLINK4

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]

NAME = "change"
ECHO = 7000
"""Flows stand first: rules name their lines, which do not move when a VM changes."""
BASE: dict[str, Any] = {
    "vcloud": 1,
    "name": NAME,
    "zones": {"front": {}, "back": {}},
    "flows": [
        {"id": "echo", "from": "internet", "to": "web", "service": f"tcp/{ECHO}"},
        {"id": "inner", "from": "web", "to": "store", "service": ["tcp/22", "icmp"]},
    ],
    "vms": {
        "web": {
            "image": "base",
            "zone": "front",
            "memory": "256M",
            "count": 1,
            "ready": {"tcp": 22},
            "files": {"/etc/note": "one\n"},
        },
        "store": {
            "image": "base",
            "zone": "back",
            "memory": "256M",
            "disks": {"data": {"size": "64M", "mount": "/srv/data"}},
        },
    },
}

Change = Callable[[dict[str, Any]], None]
LONG, SHORT = 120, 4
"""Seconds for what must be answered, and for what must stay silent."""


@dataclass
class Park:
    """The vApp under change, and the file that describes it now."""

    vapp: Vapp
    file: Path
    current: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(BASE))

    @property
    def operator(self) -> Any:
        return self.vapp.operator

    def write(self, change: Change | None = None) -> Path:
        """Writes BASE with one change."""
        self.current = copy.deepcopy(BASE)
        if change:
            change(self.current)
        return write_vapp(self.file, self.current)

    def plan(self) -> list[tuple[str, str, str]]:
        """(what, name, cost) of each step."""
        steps = self.operator.run("plan", str(self.file), "-o", "json").data["steps"]
        return [(step["verb"], step["subject"], step["cost"]) for step in steps]

    def up(self, change: Change | None = None, *argv: str) -> list[tuple[str, str, str]]:
        """Plans, brings up, checks that afterwards nothing is left to do, and returns what was
        planned.
        """
        path = self.write(change)
        planned = self.plan()
        code = self.operator.run("plan", str(path), "--exit-code", code=None).code
        assert code == (3 if planned else 0)
        done = self.operator.run("up", "--yes", *argv, str(path), "-o", "json").data
        assert done["steps"] == len(planned)
        assert self.operator.run("plan", str(path), "--exit-code").code == 0
        self.vapp = self.vapp.again()
        return planned

    def restarted(self, before: dict[str, str]) -> set[str]:
        """VMs that were started, stopped or removed since."""
        after = domains(self.operator, NAME)
        return {
            name.partition(".")[2]
            for name in before.keys() | after.keys()
            if before.get(name) != after.get(name)
        }


@pytest.fixture(scope="module")
def shared(raised: Raise, tmp_path_factory: pytest.TempPathFactory) -> Park:
    file = write_vapp(tmp_path_factory.mktemp(NAME) / "change.yaml", BASE)
    return Park(raised(NAME, file), file)


@pytest.fixture
def park(shared: Park) -> Park:
    """As BASE says, whatever the last test did; web-1 echoes."""
    if shared.current != BASE:
        shared.up()
    shared.operator.inside(
        shared.vapp.vm("web-1"), "pkill -f '/usr/lib/vcloud/[g]uest listen' || :"
    )
    shared.operator.listen(shared.vapp.vm("web-1"), f"tcp {shared.vapp.addresses4['web-1']} {ECHO}")
    return shared


class Line:
    """A TCP connection of a customer that stays open."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def echoes(self, seconds: float = LONG) -> bool:
        """Whether a new word comes back."""
        word = f"{uuid.uuid4()}\n".encode()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(word)
            self.process.stdin.flush()
        except OSError:
            return False
        while select.select([self.process.stdout], [], [], seconds)[0]:
            line = self.process.stdout.readline()
            if line in (word, b""):
                return line == word
        return False

    def is_dead(self) -> bool:
        return not self.echoes(SHORT)


@contextmanager
def connection(vapp: Vapp, port: int = ECHO) -> Iterator[Line]:
    command = [
        *VCLOUD,
        "lab",
        "exec",
        "customer",
        "--",
        "nc",
        "-w",
        "3000",
        vapp.uplink[0],
        str(port),
    ]
    process = subprocess.Popen(
        command,
        env=dict(vapp.operator.env),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    )
    try:
        yield Line(process)
    finally:
        process.kill()
        process.wait()


def reaches(vapp: Vapp, port: int = ECHO, seconds: float = LONG) -> bool:
    with connection(vapp, port) as line:
        return line.echoes(seconds)


def is_closed(vapp: Vapp, port: int = ECHO) -> bool:
    return not reaches(vapp, port, 6)


def flows(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {flow["id"]: flow for flow in document["flows"]}


# Nothing


def test_a_second_up_does_nothing_and_changes_nothing(park: Park) -> None:
    numbers = domains(park.operator, NAME)
    before = {name: xml_of(park.operator, name) for name in numbers}
    networks = {
        name: park.operator.virsh("net-dumpxml", name) for name in (f"{NAME}.front", f"{NAME}.back")
    }
    listed = remains(park.operator, NAME)
    assert park.up() == []
    assert "nothing to do" in park.operator.run("up", str(park.file)).out
    assert domains(park.operator, NAME) == numbers
    assert {name: xml_of(park.operator, name) for name in numbers} == before
    assert {name: park.operator.virsh("net-dumpxml", name) for name in networks} == networks
    assert remains(park.operator, NAME) == listed


def test_a_plan_and_a_dry_run_change_nothing_and_say_the_same(park: Park) -> None:
    path = park.write(lambda file: file["flows"].pop(0))
    numbers, rules = (
        domains(park.operator, NAME),
        park.operator.inside(f"{NAME}/firewall", "cat /etc/vcloud/firewall.nft"),
    )
    assert park.plan() == [("load firewall", "firewall", "live")]
    assert (
        park.operator.run("up", "--dry-run", str(path), "-o", "json").data
        == park.operator.run("plan", str(path), "-o", "json").data
    )
    assert domains(park.operator, NAME) == numbers
    assert park.operator.inside(f"{NAME}/firewall", "cat /etc/vcloud/firewall.nft") == rules
    assert park.operator.run("plan", str(path), "--exit-code", code=3)
    assert "revokes echo" in park.operator.run("plan", str(path)).out


# Flows


def test_a_new_flow_opens_live_and_a_connection_of_before_goes_on(park: Park) -> None:
    park.operator.listen(park.vapp.vm("web-1"), f"tcp {park.vapp.addresses4['web-1']} 7001")
    numbers = domains(park.operator, NAME)
    with connection(park.vapp) as line:
        assert line.echoes()
        assert is_closed(park.vapp, 7001)
        planned = park.up(
            lambda file: file["flows"].append(
                {"id": "more", "from": "internet", "to": "web", "service": "tcp/7001"}
            )
        )
        assert planned == [("load firewall", "firewall", "live")]
        assert line.echoes()
        assert reaches(park.vapp, 7001)
    assert park.restarted(numbers) == set()


def test_a_revoked_flow_dies_under_an_open_connection(park: Park) -> None:
    numbers = domains(park.operator, NAME)
    with connection(park.vapp) as line:
        assert line.echoes()
        assert park.up(lambda file: file["flows"].pop(0)) == [("load firewall", "firewall", "live")]
        assert line.is_dead()
        assert is_closed(park.vapp)
        assert park.up() == [("load firewall", "firewall", "live")]
        assert reaches(park.vapp)
    assert park.restarted(numbers) == set()


def test_a_published_port_moves(park: Park) -> None:
    assert reaches(park.vapp)
    planned = park.up(lambda file: flows(file)["echo"].update(publish=9000))
    assert planned == [("load firewall", "firewall", "live")]
    assert reaches(park.vapp, 9000)
    assert is_closed(park.vapp)


def calls(park: Park, source: str, address: str, port: int, seconds: int = LONG) -> str:
    """What a VM gets that opens a connection."""
    argv = ("exec", f"{NAME}/{source}", "--", "timeout", str(seconds), "bash", "-c")
    done: Done = park.operator.run(*argv, f"exec 3<>/dev/tcp/{address}/{port}", code=None)
    return {0: "open", 1: "refused"}.get(done.code, "silence")


def test_a_flow_outwards_leads_to_public_addresses_and_to_what_the_vapp_publishes(
    park: Park,
) -> None:
    """To a machine beside the host, and to the host, only a flow that names it. Other VMs are told
    at once where their zone says so.
    """
    own, server, host = park.vapp.uplink[0], str(SERVERS4[SERVER]), str(UPLINK4[HOST_OFFSET + 1])

    def outwards(file: dict[str, Any]) -> None:
        file["flows"].append({"id": "out", "from": "store", "to": "internet", "service": "all"})
        file["zones"]["front"] = {"denied": "reject"}

    def to_host(file: dict[str, Any]) -> None:
        file["flows"].append({"id": "host", "from": "store", "to": host, "service": "tcp/22"})

    assert calls(park, "store", own, ECHO, SHORT) == "silence"
    numbers = domains(park.operator, NAME)
    assert park.up(outwards) == [("load firewall", "firewall", "live")]
    assert calls(park, "store", own, ECHO) == "open"
    assert calls(park, "store", server, 22) == "open"
    assert calls(park, "store", host, 22, SHORT) == "silence"
    assert calls(park, "web-1", server, 22) == "refused"
    assert park.up(to_host) == [("load firewall", "firewall", "live")]
    assert calls(park, "store", host, 22) == "refused", "the host's sshd listens elsewhere"
    assert calls(park, "store", server, 22, SHORT) == "silence"
    assert calls(park, "web-1", server, 22, SHORT) == "silence"
    assert park.restarted(numbers) == set()


# VMs


def test_vms_join_and_leave_while_the_others_go_on(park: Park) -> None:
    """One more of a tier and one of a new tier; afterwards both are gone with their volumes."""

    def grow(file: dict[str, Any]) -> None:
        file["vms"]["web"]["count"] = 2
        file["vms"]["extra"] = {"image": "base", "zone": "back", "memory": "256M"}
        file["flows"].append({"id": "help", "from": "extra", "to": "web", "service": "tcp/22"})

    numbers = domains(park.operator, NAME)
    with connection(park.vapp) as line:
        assert line.echoes()
        planned = park.up(grow)
        assert {("make VM", "web-2", "new"), ("make VM", "extra", "new")} <= set(planned)
        assert not [step for step in planned if step[2] in ("restart", "recreate", "remove")]
        assert park.restarted(numbers) == {"web-2", "extra"}
        assert line.echoes()
        for name in ("web-1", "web-2"):
            assert ssh_banner(park, "extra", name)
        assert ssh_banner(park, "web-2", "store")
        assert not ssh_banner(park, "web-1", "web-2", 10)
        assert not ssh_banner(park, "store", "extra", 10)
        planned = park.up()
        assert {step for step in planned if step[2] == "remove"} == {
            ("remove VM", f"{NAME}.web-2", "remove"),
            ("remove VM", f"{NAME}.extra", "remove"),
        }
        assert line.echoes()
    assert park.restarted(numbers) == set()
    assert not [name for name in remains(park.operator, NAME) if "web-2" in name or "extra" in name]
    assert "web-2" not in park.operator.inside(f"{NAME}/web-1", "cat /etc/hosts")


def ssh_banner(park: Park, source: str, target: str, seconds: int = LONG) -> bool:
    """Whether a VM gets a word from the sshd of another, by its name."""
    script = f"exec 3<>/dev/tcp/{target}/22 && head -c 4 <&3"
    done: Done = park.operator.run(
        "exec", f"{NAME}/{source}", "--", "timeout", str(seconds), "bash", "-c", script, code=None
    )
    return done.out == "SSH-"


def test_more_memory_restarts_exactly_that_vm_and_keeps_its_disks(park: Park) -> None:
    park.operator.inside(
        f"{NAME}/store", "echo kept > /var/lib/mine; echo kept > /srv/data/mine; sync"
    )
    numbers = domains(park.operator, NAME)
    planned = park.up(lambda file: file["vms"]["store"].update(memory="448M"))
    assert planned == [("restart VM", "store", "restart")]
    assert park.restarted(numbers) == {"store"}
    assert (
        park.operator.inside(f"{NAME}/store", "cat /var/lib/mine /srv/data/mine") == "kept\nkept\n"
    )
    assert (
        int(park.operator.inside(f"{NAME}/store", "awk '/MemTotal/ {print $2}' /proc/meminfo"))
        > 400 << 10
    )
    assert ssh_banner(park, "web-1", "store")


def test_another_run_line_makes_exactly_that_vm_anew_and_keeps_only_its_data_disk(
    park: Park,
) -> None:
    park.operator.inside(
        f"{NAME}/store", "echo old > /var/lib/old; echo data > /srv/data/mine; sync"
    )
    numbers = domains(park.operator, NAME)
    before = park.operator.inside(f"{NAME}/store", "cat /etc/ssh/ssh_host_ed25519_key.pub")
    planned = park.up(lambda file: file["vms"]["store"].update(run=["echo new > /var/lib/new"]))
    assert planned == [("make VM anew", "store", "recreate")]
    assert park.restarted(numbers) == {"store"}
    assert (
        park.operator.inside(
            f"{NAME}/store", "cat /var/lib/new /srv/data/mine; ls /var/lib/old 2>/dev/null || :"
        )
        == "new\ndata\n"
    )
    assert park.operator.inside(f"{NAME}/store", "cat /etc/ssh/ssh_host_ed25519_key.pub") != before
    assert park.operator.run("ssh", f"{NAME}/store", "--", "cat", "/var/lib/new").out == "new\n"
    assert ssh_banner(park, "web-1", "store")


@pytest.mark.long
def test_a_failed_making_anew_keeps_the_data_of_before(park: Park) -> None:
    park.operator.inside(f"{NAME}/store", "echo older > /srv/data/mine; sync")
    path = park.write(lambda file: file["vms"]["store"].update(run=["false"]))
    assert (
        "run[0] of 'store' ended with 1" in park.operator.run("up", "--yes", str(path), code=1).err
    )
    assert park.up(lambda file: file["vms"]["store"].update(run=["echo new > /srv/data/new"]))
    assert (
        park.operator.inside(f"{NAME}/store", "cat /srv/data/mine /srv/data/new") == "older\nnew\n"
    )


def test_a_data_disk_grows_with_its_content_and_never_shrinks(park: Park) -> None:
    park.operator.inside(f"{NAME}/store", "echo grown > /srv/data/mine; sync")
    assert park.up(lambda file: file["vms"]["store"]["disks"]["data"].update(size="128M")) == [
        ("restart VM", "store", "restart")
    ]
    told = park.operator.inside(
        f"{NAME}/store", "cat /srv/data/mine; df --output=size --block-size=1M /srv/data"
    ).split()
    assert told[0] == "grown"
    assert int(told[-1]) > 100
    numbers = domains(park.operator, NAME)
    for command in ("plan", "up"):
        assert "cannot become smaller" in park.operator.run(command, str(park.write()), code=6).err
    assert park.restarted(numbers) == set()

    def without_store(file: dict[str, Any]) -> None:
        del file["vms"]["store"], file["flows"][1]

    park.up(without_store, "--accept-data-loss")


def test_files_and_keys_that_are_no_longer_named_are_gone(park: Park) -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA me@desk"

    def more(file: dict[str, Any]) -> None:
        file["authorized_keys"] = [key]
        file["vms"]["web"]["files"]["/etc/more"] = "more\n"

    park.up(more)
    assert (
        park.operator.inside(f"{NAME}/web-1", "cat /etc/more /root/.ssh/authorized_keys")
        == f"more\n{key}\n"
    )
    park.up()
    assert (
        park.operator.inside(
            f"{NAME}/web-1",
            "cat /etc/note; ls /etc/more /root/.ssh/authorized_keys 2>/dev/null || :",
        )
        == "one\n"
    )


def test_a_changed_file_is_applied_live(park: Park) -> None:
    numbers = domains(park.operator, NAME)
    note = {"content": "two\n", "mode": "0640", "owner": "root:adm"}
    with connection(park.vapp) as line:
        assert line.echoes()
        planned = park.up(lambda file: file["vms"]["web"].update(files={"/etc/note": note}))
        assert planned == [("configure VM", "web-1", "live")]
        assert line.echoes()
    assert park.restarted(numbers) == set()
    assert (
        park.operator.inside(f"{NAME}/web-1", "cat /etc/note; stat -c '%a %U:%G' /etc/note")
        == "two\n640 root:adm\n"
    )


def test_a_changed_description_is_recorded_and_touches_nothing(park: Park) -> None:
    numbers = domains(park.operator, NAME)
    before = {name: xml_of(park.operator, name) for name in numbers}
    planned = park.up(lambda file: file["flows"][0].update(why="somebody else asked for it"))
    assert planned == [("record", NAME, "live")]
    assert {name: xml_of(park.operator, name) for name in numbers} == before


@pytest.mark.long
def test_another_owner_is_told_to_the_host_and_restarts_nothing(park: Park) -> None:
    """Rules of other vApps may name it, so the terms of tenancy of each VM have it."""
    numbers = domains(park.operator, NAME)
    boot = park.operator.boot_id(f"{NAME}/web-1")
    planned = park.up(lambda file: file.update(owner="somebody else"))
    assert {(verb, cost) for verb, _, cost in planned} == {("mend VM", "live")}
    assert domains(park.operator, NAME) == numbers
    assert park.operator.boot_id(f"{NAME}/web-1") == boot
    assert all("somebody else" in xml_of(park.operator, name) for name in numbers)
    (row,) = [row for row in park.operator.run("list", "-o", "json").data if row["vapp"] == NAME]
    assert row["owner"] == "somebody else"


# Refusals


def test_an_invalid_file_changes_nothing_and_names_the_line(park: Park) -> None:
    numbers = domains(park.operator, NAME)
    park.write(lambda file: file["flows"][0].update(to="nowhere"))
    done = park.operator.run("up", str(park.file), code=2)
    assert f"{park.file.name}:" in done.err
    assert "nowhere" in done.err
    assert "nothing was changed" in done.err
    assert domains(park.operator, NAME) == numbers
    assert json.loads(park.operator.run("status", NAME, "-o", "json").out)["healthy"]
    park.write()
