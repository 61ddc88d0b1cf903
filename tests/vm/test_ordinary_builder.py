"""An ordinary user builds images for real: in a cache of its own, without sudo, and with nothing of
its own within reach of the recipe. tests/netns/build/ has the parts without an image.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.build import people
from tests.netns.build.people import ANN, ANN_IDS, Box
from tests.vm.driver import lab, remains, write_vapp
from tests.vm.ordinary_user import FIRST_ID, desk
from tests.vm.test_image_build import wait_for
from vcloud.data import images_dir
from vcloud.images.build import build
from vcloud.images.recipe import load_recipe

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]

HOME = "/mnt/home/ann"
IMAGES = f"{HOME}/.cache/vcloud/images"
RECIPE = """\
commands:
  - id -u >/etc/built; cat /etc/api.conf >>/etc/built
  - cat {home}/key /proc/1/root{home}/key /mnt/home/ann/key >>/etc/built || true
  - test ! -e /etc/api.wait || {{ touch /reached; sleep 1000; }}
disks: {{data: /srv}}
check: test -s /etc/built
"""


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """The user's cache has the shipped base, which root has built."""
    base = build(load_recipe(images_dir() / "base")).folder
    with people.box(tmp_path / "homes") as made:
        made.run("mkdir", "-p", IMAGES, f"{HOME}/api/files/etc")
        made.run("chown", "-R", f"{ANN}:{ANN}", HOME)
        made.run("cp", "-R", str(base), IMAGES)
        put(made, "api/image.yaml", RECIPE.format(home=HOME))
        put(made, "api/files/etc/api.conf", "answer=42\n")
        put(made, "key", "of ann\n")
        made.run("chown", "-R", f"{ANN}:{ANN}", HOME)
        yield made


def put(box: Box, name: str, text: str) -> None:
    subprocess.run(
        box.enter("sh", "-c", 'cat >"$1"', "put", f"{HOME}/{name}"),
        input=text,
        text=True,
        check=True,
    )


def owners(box: Box, folder: str) -> set[str]:
    return set(box.run("find", folder, "-printf", "%U\n").split())


def test_an_ordinary_user_builds_lists_and_removes(box: Box) -> None:
    code, _, err = box.vcloud("ann", "image", "build", "./api")
    assert code == 0, err
    (listed,) = (
        found
        for found in json.loads(box.vcloud("ann", "image", "list", "-o", "json")[1])
        if found["name"] == "api"
    )
    image = box.run("find", IMAGES, "-maxdepth", "1", "-name", "api-*").strip()
    assert listed["digest"].startswith(image.rpartition("/")[2].split("-")[1].split("+")[0])
    assert owners(box, IMAGES) == {str(ANN)}
    assert box.run("find", IMAGES, "-name", "*.partial") == ""
    raw = "/mnt/home/raw"
    box.run("qemu-img", "convert", "-O", "raw", f"{image}/disk.qcow2", raw)
    # Root in the build, and nothing of the user's home.
    assert box.run("debugfs", "-R", "cat /etc/built", raw) == "0\nanswer=42\n"
    assert "User:     0   Group:     0" in box.run("debugfs", "-R", "stat /etc/built", raw)
    assert "User:    42" in box.run("debugfs", "-R", "stat /var/lib/apt/lists/partial", raw)
    assert "clean" in box.run("e2fsck", "-n", raw)
    assert box.vcloud("ann", "image", "rm", "api")[0] == 0
    assert "api-" not in box.run("ls", IMAGES)


def test_what_a_killed_build_of_a_user_leaves_is_removed_by_the_next(box: Box) -> None:
    """Its files belong to the users of the build, whom the user cannot remove files of."""
    put(box, "api/files/etc/api.wait", "")
    builder = subprocess.Popen(
        box.command("ann", "image", "build", "./api"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    found = ("find", IMAGES, "-path", "*/work/root/reached")
    wait_for(lambda: builder.poll() is not None or box.run(*found, code=None))
    assert builder.poll() is None, builder.stderr and builder.stderr.read()
    # nsenter has started vcloud as its child, and ends with it.
    for pid in children(builder.pid):
        os.kill(pid, signal.SIGKILL)
    builder.communicate()
    assert str(ANN_IDS) in owners(box, IMAGES)
    box.run("rm", f"{HOME}/api/files/etc/api.wait")
    code, _, err = box.vcloud("ann", "image", "build", "./api")
    assert code == 0, err
    assert owners(box, IMAGES) == {str(ANN)}
    assert box.run("find", IMAGES, "-name", "*.partial") == ""


OWN = """\
packages: []
commands: [id -u >/etc/built]
check: test -s /etc/built
"""


def test_a_user_of_group_libvirt_does_all_of_it(tmp_path: Path) -> None:
    """From a recipe of its own to a protected VM and back, on a libvirt host, without root."""
    images = [build(load_recipe(images_dir() / name)) for name in ("base", "appliance", "firewall")]
    document = {
        "vcloud": 1,
        "name": "ordinary",
        "zones": {"one": {}},
        "vms": {"near": {"image": "./near", "zone": "one", "memory": "256M"}},
    }
    file = write_vapp(tmp_path / "ordinary.yaml", document)
    (tmp_path / "desk/near").mkdir(parents=True)
    (tmp_path / "desk/near/image.yaml").write_text(OWN)
    with lab("t-ordinary", tmp_path / "home") as operator:
        with desk(operator, file, tmp_path, images) as at:
            found = {
                item["check"]: item
                for item in json.loads(at.as_user("doctor", "-o", "json", path="/usr/bin:/bin").out)
            }
            assert found["image tools"]["result"] == "ok"
            assert f"user {FIRST_ID} on this machine" in found["image building"]["detail"]
            assert found["host"]["result"] == "ok"
            up = at.as_user("up", file.name, "-y", path="/usr/bin:/bin")
            assert up.code == 0, up.err
            inside = at.as_user("exec", "ordinary/near", "--", "cat", "/etc/built")
            assert inside.out == "0\n", inside.err
            assert "2 of 2 VMs run" in at.as_user("status", "ordinary").out
            down = at.as_user("down", "ordinary", "-y")
            assert down.code == 0, down.err
        assert remains(operator, "ordinary") == []


def children(pid: int) -> list[int]:
    return [
        int(child)
        for path in Path(f"/proc/{pid}/task").glob("*/children")
        for child in path.read_text().split()
    ]
