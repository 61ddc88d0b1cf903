"""What users do on the second day: stop and start VMs, copy files, forward a port, and reach VMs with
plain ssh and scp. One small vApp stands for all of it.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.vm.conftest import Raise
from tests.vm.driver import Operator, Vapp, domains, links, parse, write_vapp

pytestmark = [pytest.mark.vm, pytest.mark.long, pytest.mark.timeout(3000)]

NAME = "second"
DOCUMENT: dict[str, Any] = {
    "vcloud": 1,
    "name": NAME,
    "zones": {"one": {}},
    "vms": {
        "near": {
            "image": "base",
            "zone": "one",
            "memory": "256M",
            "files": {"/etc/note": "of the file\n"},
        },
        "far": {"image": "base", "zone": "one", "memory": "256M"},
    },
    "flows": [{"id": "talk", "from": "near", "to": "far", "service": "tcp/22"}],
}


@pytest.fixture(scope="module")
def vapp(raised: Raise, tmp_path_factory: pytest.TempPathFactory) -> Vapp:
    return raised(NAME, write_vapp(tmp_path_factory.mktemp(NAME) / "second.yaml", DOCUMENT))


def states(vapp: Vapp) -> dict[str, str]:
    return {vm["name"]: vm["state"] for vm in vapp.operator.status(NAME)["vms"]}


def listed(operator: Operator) -> tuple[str, int]:
    (row,) = operator.run("list", "-o", "json").data
    return row["state"], row["running"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def forwarded(vapp: Vapp, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A `vcloud` that forwards ports, when it says so."""
    running = vapp.operator.start(*options)
    assert running.stdout
    assert "->" in running.stdout.readline()
    yield running
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=600)


def test_a_stopped_vm_is_no_problem_and_starts_without_the_file(vapp: Vapp) -> None:
    vapp.inside("near", "echo by hand > /root/mark")
    before = vapp.boot_id("near")
    others = domains(vapp.operator, NAME)
    done = vapp.operator.run("stop", f"{NAME}/near", "-o", "json").data
    assert (done["stopped"], done["powered_off"]) == (["near"], [])
    status = vapp.operator.run("status", NAME, "--exit-code", "-o", "json").data
    assert status["healthy"]
    assert states(vapp) == {"firewall": "running", "near": "stopped", "far": "running"}
    assert listed(vapp.operator) == ("ready", 2)
    vapp.operator.run("start", f"{NAME}/near")
    assert vapp.boot_id("near") != before
    assert vapp.inside("near", "cat /root/mark /etc/note") == "by hand\nof the file\n"
    assert links(vapp.operator, vapp.domain("near")) == links(vapp.operator, vapp.domain("far"))
    after = domains(vapp.operator, NAME)
    assert {name for name in after if after[name] != others[name]} == {vapp.domain("near")}
    assert vapp.operator.run("plan", str(vapp.file), "--exit-code")
    vapp.operator.run("status", NAME, "--exit-code")


def test_a_vm_that_fell_over_is_told_from_one_that_was_stopped(vapp: Vapp) -> None:
    vapp.operator.run("stop", f"{NAME}/near")
    vapp.operator.virsh("destroy", vapp.domain("far"))
    status = vapp.operator.run("status", NAME, "--exit-code", "-o", "json", code=3).data
    (problem,) = status["problems"]
    assert "'far' is shut off" in problem
    assert states(vapp)["near"] == "stopped"
    told = vapp.operator.up(vapp.file).err
    assert "stopped by `vcloud stop`, and started again: near" in told
    vapp.operator.run("status", NAME, "--exit-code")


def test_a_whole_vapp_stops_and_starts_in_the_order_of_its_protection(vapp: Vapp) -> None:
    refused = vapp.operator.run("stop", f"{NAME}/firewall", code=2)
    assert "protects the other VMs" in refused.err
    told = vapp.operator.run("stop", NAME).err.splitlines()
    stages = [
        next(i for i, line in enumerate(told) if end in line)
        for end in ("near: stopped", "firewall: shutting down")
    ]
    assert stages == sorted(stages)
    assert listed(vapp.operator) == ("stopped", 0)
    vapp.operator.run("status", NAME, "--exit-code")
    told = vapp.operator.run("start", NAME).err.splitlines()
    stages = [
        next(i for i, line in enumerate(told) if end in line)
        for end in ("firewall: rules loaded and checked", "near: ready")
    ]
    assert stages == sorted(stages)
    vapp.operator.run("restart", f"{NAME}/firewall")
    vapp.operator.run("status", NAME, "--exit-code")
    assert listed(vapp.operator) == ("ready", 3)


def test_a_port_is_forwarded_on_loopback_only(vapp: Vapp) -> None:
    port = free_port()
    with (
        forwarded(vapp, "port-forward", f"{NAME}/near", f"{port}:22"),
        socket.create_connection(("127.0.0.1", port)) as connection,
    ):
        assert connection.recv(4) == b"SSH-"
    wide = ["ssh", f"{NAME}/near", "-N", "-L", f"0.0.0.0:{port}:localhost:22"]
    assert "past its firewall" in vapp.operator.run(*wide, code=2).err
    assert "-R is refused" in vapp.operator.run("ssh", f"{NAME}/near", "-R", "1:x:2", code=2).err


def test_files_go_in_and_come_out(vapp: Vapp, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/big").write_bytes(b"0123456789abcdef" * (3 << 16))
    (folder / "note").write_text("note")
    vapp.operator.run("cp", str(folder), f"{NAME}/near:/root/")
    assert (
        vapp.inside("near", "cat /root/folder/note; stat -c %s /root/folder/sub/big")
        == "note3145728\n"
    )
    vapp.operator.run("cp", f"{NAME}/near:/root/folder", str(tmp_path / "back"))
    assert (tmp_path / "back/sub/big").read_bytes() == (folder / "sub/big").read_bytes()
    vapp.operator.run("cp", f"{NAME}/near:/etc/note", str(tmp_path))
    assert (tmp_path / "note").read_text() == "of the file\n"
    assert vapp.operator.run("cp", f"{NAME}/near:/none", str(tmp_path), code=2)


def test_plain_ssh_and_scp_and_an_inventory(vapp: Vapp, tmp_path: Path) -> None:
    operator = vapp.operator
    operator.run("ssh-config")
    data = operator.run("inventory", "--list").data
    assert data["second__near"] == {"hosts": [f"near.{NAME}"]}
    arguments = data["_meta"]["hostvars"][f"near.{NAME}"]["ansible_ssh_common_args"]
    config = arguments.removeprefix("-F ").strip("'")
    assert json.loads(operator.run("inventory", "--host", f"far.{NAME}").out)["vcloud_vm"] == "far"
    for argv, said in (
        (["ssh", "-F", config, "-o", "BatchMode=yes", f"near.{NAME}", "hostname"], "near\n"),
        (["scp", "-q", "-F", config, f"near.{NAME}:/etc/note", str(tmp_path / "note")], ""),
    ):
        done = subprocess.run(
            argv, env=dict(operator.env), capture_output=True, text=True, timeout=900, check=False
        )
        assert (done.returncode, done.stdout) == (0, said), done.stderr
    assert (tmp_path / "note").read_text() == "of the file\n"
    # No port for ssh is left in the VM.
    xml = parse(operator.virsh("dumpxml", vapp.domain("near")))
    names = [target.get("name", "") for target in xml.iterfind("devices/channel/target")]
    assert not [name for name in names if "ssh" in name]
