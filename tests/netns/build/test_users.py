"""Ordinary users who build: what they may, and what they are told where something is missing."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.build import people
from tests.netns.build.people import ANN_IDS, Box

SYSTEM = ("-c", "qemu:///system")
SOCKET = "/run/libvirt/libvirt-sock"
MAKE_SOCKET = f"import socket; socket.socket(socket.AF_UNIX).bind('{SOCKET}')"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with people.box(tmp_path / "homes") as made:
        yield made


def findings(box: Box, user: str, *argv: str, groups: str = "--init-groups") -> dict[str, str]:
    """What doctor says: check -> result, detail and hint."""
    _, out, _ = box.vcloud(user, "doctor", "-o", "json", *(argv or SYSTEM), groups=groups)
    return {
        found["check"]: f"{found['result']}: {found['detail']}. {found['hint']}"
        for found in json.loads(out)
    }


def make_socket(box: Box, mode: str) -> None:
    box.run("/usr/bin/python3", "-c", MAKE_SOCKET)
    box.run("chgrp", "libvirt", SOCKET)
    box.run("chmod", mode, SOCKET)


def test_a_user_with_numbers_of_its_own_may_build_though_path_lacks_sbin(box: Box) -> None:
    found = findings(box, "ann")
    assert found["image tools"] == "ok: all installed. "
    assert found["image building"].startswith(f"ok: root of a build is the user {ANN_IDS} ")
    box.run("mount", "--bind", "/dev/null", "/usr/sbin/mke2fs")
    assert "missing: mke2fs" in findings(box, "ann")["image tools"]


def test_a_user_without_numbers_is_told_the_command(box: Box) -> None:
    way_out = (
        "An administrator runs: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 bob"
    )
    found = findings(box, "bob")["image building"]
    assert found.startswith("note: a build needs 65536 subordinate uids and gids")
    assert way_out in found
    code, _, err = box.vcloud("bob", "image", "build", "base")
    assert code == 1
    assert way_out in err
    left = box.run("find", "/mnt/home/bob", "-name", "*.partial")
    assert left == ""
    box.run("sed", "-i", "/ann/d", "/etc/subgid")
    assert "usermod --add-subgids 100000-165535 ann" in findings(box, "ann")["image building"]
    # The command does what it promises.
    box.run(*way_out.partition(": ")[2].split())
    assert "user 100000 on this machine" in findings(box, "bob")["image building"]


@pytest.mark.parametrize(
    ("program", "package", "for_root"),
    [("newuidmap", "uidmap", False), ("newgidmap", "uidmap", False), ("zstd", "zstd", True)],
)
def test_a_missing_program_is_named_with_its_package(
    box: Box, program: str, package: str, for_root: bool
) -> None:
    box.run("mount", "--bind", "/dev/null", f"/usr/bin/{program}")
    found = findings(box, "ann")
    assert f"missing: {program}" in found["image tools"]
    assert f"apt-get install {package}" in found["image tools"]
    code, _, err = box.vcloud("ann", "image", "build", "base")
    assert code == 1
    assert f"An administrator runs: apt-get install {package}" in err
    assert findings(box, "root")["image tools"].startswith("note" if for_root else "ok")


def test_a_program_without_its_privilege_is_described(box: Box) -> None:
    box.run("cp", "/usr/bin/newuidmap", "/mnt/plain")
    box.run("chmod", "755", "/mnt/plain")
    box.run("mount", "--bind", "/mnt/plain", "/usr/bin/newuidmap")
    found = findings(box, "ann")["image building"]
    assert f"note: newuidmap refuses the ids {ANN_IDS}-{ANN_IDS + 65535}" in found
    assert "setuid" in found


@pytest.mark.parametrize(
    ("first", "what", "way_out"),
    [
        (
            "echo 0 >/proc/sys/user/max_user_namespaces",
            "this machine does not let a build have namespaces of its own (unshare: ENOSPC)",
            "An administrator allows them: sysctl user.max_user_namespaces=10000",
        ),
        (
            "true",
            "root on this machine may not use the ids",
            "This machine is probably a container",
        ),
    ],
    ids=["no namespaces", "no numbers"],
)
def test_a_machine_that_lets_nobody_build_is_described(
    box: Box, first: str, what: str, way_out: str
) -> None:
    """In a user namespace of its own, because the setting holds for all of a machine."""
    assert findings(box, "root")["image building"].startswith("ok")
    command = box.command("root", "image", "build", "base")
    at = command.index("env")
    script = f'{first}; exec "$@"'
    inside = ("unshare", "--user", "--map-root-user", "sh", "-c", script, "sh")
    done = subprocess.run(
        [*command[:at], *inside, *command[at:]], capture_output=True, text=True, timeout=600
    )
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert what in done.stderr
    assert way_out in done.stderr
    assert box.run("find", "/mnt/home", "-name", "*.partial") == ""


def test_a_closed_socket_names_the_group_and_the_command(box: Box) -> None:
    make_socket(box, "770")
    found = findings(box, "bob")["host"]
    assert found.startswith("fail: libvirt on localhost does not allow you to connect")
    assert "An administrator runs: usermod -aG libvirt bob. Then log in again." in found
    before = findings(box, "ann", groups="--clear-groups")["host"]
    assert "your session began before that. Log in again, or run: newgrp libvirt" in before
    # Ann may open it. Nobody listens there.
    assert "libvirt does not run on localhost" in findings(box, "ann")["host"]
    box.run("chmod", "700", SOCKET)
    assert 'unix_sock_group = "libvirt"' in findings(box, "ann")["host"]


def test_the_libvirt_of_one_user_is_refused_with_the_right_uri(box: Box) -> None:
    found = findings(box, "ann", "-c", "qemu:///session")["host"]
    assert found.startswith("fail: qemu:///session is the libvirt of one user")
    assert "Use qemu:///system" in found
    assert "libvirt does not run" in findings(box, "ann")["host"]
    assert box.run("find", "/mnt/home/ann", "-name", "*libvirt*") == "", "none was started"
