"""A lab ends without a trace, and what cannot become a lab is refused."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.places import (
    CHECKOUT,
    at,
    log,
    not_running,
    start_machine,
    virsh,
)
from vcloud.errors import Exit, HostError, UsageError
from vcloud.lab import lab as labs
from vcloud.lab import layout, namespaces
from vcloud.lab.layout import Lab

pytestmark = pytest.mark.netns


def leftovers(lab: Lab, pids: list[int]) -> list[str]:
    mounts = [
        line
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if f"{lab.name}-" in line or str(lab.folder) in line
    ]
    alive = [
        str(pid)
        for pid in pids
        if Path(f"/proc/{pid}").exists()
        and Path(f"/proc/{pid}/status").read_text().find("Z (zombie)") < 0
    ]
    folders = [str(lab.folder)] if lab.folder.exists() else []
    return [*mounts, *alive, *folders, *filter(lab.owns, namespaces.names())]


def all_processes(lab: Lab) -> list[int]:
    return [
        pid for name in namespaces.names() if lab.owns(name) for pid in namespaces.processes(name)
    ]


def test_down_leaves_nothing(make: Callable[[str], Lab], tmp_path: Path) -> None:
    lab = make("t-end")
    labs.up(lab)
    start_machine(lab.host(1), tmp_path)
    pids = all_processes(lab)
    assert len(pids) > 5
    assert len(leftovers(lab, pids)) > len(pids)
    assert labs.down(lab)
    assert leftovers(lab, pids) == []
    assert not labs.down(lab)
    assert leftovers(lab, pids) == []


def test_down_ends_a_lab_whose_folder_is_gone(make: Callable[[str], Lab], tmp_path: Path) -> None:
    lab = make("t-gone")
    labs.up(lab)
    start_machine(lab.host(1), tmp_path)
    pids = all_processes(lab)
    shutil.rmtree(lab.folder)
    assert labs.down(lab)
    assert leftovers(lab, pids) == []


def test_up_and_down_finish_what_a_kill_or_a_reboot_left(make: Callable[[str], Lab]) -> None:
    """A reboot leaves folders only, a killed `ip netns add` a file that is no namespace, a killed
    ssh-keygen half a pair of keys.
    """
    lab = make("t-half")
    labs.up(lab)
    for name in filter(lab.owns, namespaces.names()):
        namespaces.delete(name)
    (namespaces.FOLDER / lab.host(1).namespace).touch()
    lab.host(1).host_key.with_suffix(".pub").unlink()
    labs.up(lab)
    assert virsh(lab.host(1).uri, "hostname") == "h1"
    for name in filter(lab.owns, namespaces.names()):
        namespaces.delete(name)
    (namespaces.FOLDER / lab.switch).touch()
    assert labs.down(lab)
    assert leftovers(lab, []) == []


def test_two_labs_side_by_side_do_not_meet(lab: Lab, make: Callable[[str], Lab]) -> None:
    """They have the same addresses, so only their wires keep them apart."""
    other = make("t-lab-2")
    labs.up(other)
    paths = {one.name: f"/{uuid.uuid4()}" for one in (lab, other)}
    for one in (lab, other):
        at(one, "h1", "curl", "-sS", "-m", "30", f"http://203.0.113.10{paths[one.name]}")
    for one in (lab, other):
        assert [name for name, path in paths.items() if log(one, event="http", path=path)] == [
            one.name
        ]
    assert virsh(other.host(1).uri, "capabilities") != virsh(lab.host(1).uri, "capabilities")
    labs.down(other)
    assert not not_running(lab)


def test_several_ups_at_once_make_one_lab(make: Callable[[str], Lab]) -> None:
    lab = make("t-rush")
    argv = [sys.executable, "-m", "vcloud", "lab", "up"]
    environment = os.environ | {"VCLOUD_LAB_DIR": str(lab.folder.parent), "VCLOUD_LAB": lab.name}
    rush = [
        subprocess.Popen(
            argv,
            cwd=CHECKOUT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(3)
    ]
    assert [one.wait(600) for one in rush] == [0, 0, 0]
    assert not not_running(lab)
    assert len(at(lab, "h1", "pgrep", "-x", "libvirtd").split()) == 1
    rush = [
        subprocess.Popen(
            [*argv[:-1], verb], cwd=CHECKOUT, env=environment, stderr=subprocess.DEVNULL
        )
        for verb in ("down", "up", "down", "up")
    ]
    assert [one.wait(600) for one in rush] == [0, 0, 0, 0]
    labs.down(lab)
    assert leftovers(lab, []) == []


@pytest.mark.parametrize("name", ["", "Lab", "1ab", "a/b", "../x", "a" * 21, "a b", "a;b", "a\n"])
def test_names_that_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        layout.lab(name)


@pytest.mark.parametrize("folder", ["relative", "/a b", "/x" * 60, "/a'b"])
def test_folders_that_do_not_fit_are_refused(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VCLOUD_LAB_DIR", folder)
    with pytest.raises(UsageError):
        layout.lab("x")


@pytest.mark.parametrize("count", [0, -1, layout.MAX_HOSTS + 1])
def test_impossible_numbers_of_hosts_are_refused(count: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        labs.up(Lab("t-none", tmp_path / "t-none"), count)
    assert not (tmp_path / "t-none").exists()


def test_without_root_one_sentence_says_so(tmp_path: Path) -> None:
    os.seteuid(65534)
    try:
        with pytest.raises(HostError, match="only root can start"):
            labs.up(Lab("t-none", tmp_path / "t-none"))
    finally:
        os.seteuid(0)


def test_missing_programs_are_named_with_their_packages(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """In a mount namespace in which two programs cannot be run: /dev/null lies over them."""
    folder = tmp_path_factory.mktemp("bare")
    hidden = [namespaces.program(name) for name in ("nc", "virsh")]
    script = (
        "".join(f"mount --bind /dev/null {path} && " for path in hidden)
        + f"exec {sys.executable} -m vcloud lab up --name t-none"
    )
    environment = os.environ | {"VCLOUD_LAB_DIR": str(folder)}
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        env=environment,
        timeout=600,
    )
    assert done.returncode == Exit.FAILED, done
    assert re.search(
        r"nc, virsh\.\n  Run: apt-get install -y libvirt-clients netcat-openbsd$",
        done.stderr.strip(),
    ), done
    assert not (folder / "t-none").exists()
