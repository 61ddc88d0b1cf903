"""Building images for real: what goes in comes out, and what fails or is killed leaves neither
image nor mount nor process.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vm.qemu import booted
from vcloud.data import images_dir
from vcloud.errors import ImageError
from vcloud.images.build import build
from vcloud.images.cache import Cache, Image
from vcloud.images.recipe import load_recipe

pytestmark = pytest.mark.vm


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """A cache of the test's own that has the shipped base."""
    base = build(load_recipe(images_dir() / "base"))
    cache = Cache(tmp_path / "cache")
    cache.folder.mkdir()
    subprocess.run(["cp", "--archive", "--link", str(base.folder), str(cache.folder)], check=True)
    return cache


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The folder of a user's own recipe."""
    folder = tmp_path / "api"
    (folder / "files/etc").mkdir(parents=True)
    (folder / "files/usr/local/bin").mkdir(parents=True)
    (folder / "files/etc/api.conf").write_text("answer=42\n")
    (folder / "files/etc/api.conf").chmod(0o660)
    (folder / "files/usr/local/bin/api").write_text("#!/bin/sh\ncat /etc/api.conf\n")
    (folder / "files/usr/local/bin/api").chmod(0o777)
    (folder / "files/etc/api.link").symlink_to("api.conf")
    return folder


def write(folder: Path, text: str) -> Path:
    (folder / "image.yaml").write_text(text)
    return folder


def mounts_in(folder: Path) -> list[str]:
    """Other tests may mount what they like elsewhere meanwhile."""
    return [
        line for line in Path("/proc/self/mounts").read_text().splitlines() if str(folder) in line
    ]


def test_a_recipe_of_ones_own_has_its_files_commands_and_packages(
    recipe: Path, cache: Cache, tmp_path: Path
) -> None:
    write(
        recipe,
        "packages: [tree]\ncommands:\n  - api > /etc/api.said\n  - 'echo \"$0\" ''quoted'' >> /etc/api.said'\n"
        "  - mkdir /srv/data && echo row > /srv/data/row\ndisks: {data: /srv/data}\ncheck: tree --version\n",
    )
    said = list[str]()
    image = build(load_recipe(recipe), ("less",), cache=cache, progress=said.append)
    assert mounts_in(cache.folder) == []
    assert "api: installing packages" in said
    names = {package.partition("=")[0] for package in image.packages}
    assert {"tree", "less", "bash"} <= names
    assert any(name.startswith("linux-image-6") for name in names)
    assert list(image.packages) == sorted(image.packages)
    with booted(image, tmp_path) as guest:
        assert guest.shell("cat /etc/api.said") == "answer=42\n/bin/sh quoted\n"
        assert guest.shell(
            "cd /; stat -c '%a %U:%G %F' etc/api.conf usr/local/bin/api etc/api.link"
        ) == (
            "640 root:root regular file\n755 root:root regular file\n777 root:root symbolic link\n"
        )
        guest.shell("tree --version; less --version")
        content = "/usr/lib/vcloud/disks/srv/data.ext4"
        assert (
            guest.shell(f"stat -c '%a %U' {content}; debugfs -R 'cat /row' {content} 2>/dev/null")
            == "600 root\nrow\n"
        )
        assert guest.shell("systemctl list-units --failed --no-legend") == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "packages: [no-such-package-anywhere]",
            "Unable to locate package no-such-package-anywhere",
        ),
        ("commands: ['echo about to fail; false']", "about to fail"),
        ("check: 'echo not healthy; exit 3'", "not healthy"),
        ("modules: [warp_drive]", "warp_drive"),
        (
            "commands: ['ln -s /etc /srv/data']\ndisks: {data: /srv/data}",
            "has a symbolic link in the path /srv/data",
        ),
    ],
    ids=["package", "command", "check", "module", "disk"],
)
def test_a_failed_build_shows_the_end_of_its_output_and_leaves_nothing(
    recipe: Path, cache: Cache, text: str, shown: str
) -> None:
    with pytest.raises(ImageError, match=shown) as failure:
        build(load_recipe(write(recipe, text)), cache=cache)
    assert failure.value.hint
    assert mounts_in(cache.folder) == []
    assert [image.name for image in cache.list()] == ["base"]
    assert not list(cache.folder.glob("*.partial"))


def test_a_program_that_is_missing_is_named_with_its_package(
    recipe: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ImageError) as failure:
        build(load_recipe(write(recipe, "memory: 200M")), cache=cache)
    assert failure.value.hint.startswith("Run: apt-get install ")
    assert "mmdebstrap" in failure.value.hint


BUILDER = """
import sys
from pathlib import Path
from vcloud.images.build import build
from vcloud.images.cache import Cache
from vcloud.images.recipe import load_recipe
print(build(load_recipe(Path(sys.argv[1])), cache=Cache(Path(sys.argv[2])), progress=lambda line: print(line, flush=True)).digest)
"""


def start_builder(recipe: Path, cache: Cache) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(recipe), str(cache.folder)],
        stdout=subprocess.PIPE,
        text=True,
    )


def processes_in(folder: Path) -> list[str]:
    """Command lines of the processes that name the folder or have their root in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (
                (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
            if int(process.name) != os.getpid() and (
                str(folder) in command or str(folder) in str((process / "root").readlink())
            ):
                found.append(command)
    return found


def wait_for(condition: Callable[[], object], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_killed_build_leaves_no_process_and_no_mount_and_the_next_one_cleans_up(
    recipe: Path, cache: Cache
) -> None:
    write(recipe, "commands: [touch /reached, '! test -e /etc/api.wait || sleep 1000']")
    (recipe / "files/etc/api.wait").touch()
    builder = start_builder(recipe, cache)
    wait_for(lambda: list(cache.folder.glob("*.partial/root/reached")))
    assert processes_in(cache.folder)
    builder.send_signal(signal.SIGKILL)
    builder.communicate()
    wait_for(lambda: not processes_in(cache.folder), 10)
    assert mounts_in(cache.folder) == []
    assert [image.name for image in cache.list()] == ["base"]
    (recipe / "files/etc/api.wait").unlink()
    build(load_recipe(recipe), cache=cache)
    assert not list(cache.folder.glob("*.partial"))
    assert [image.name for image in cache.list()] == ["api", "base"]


def test_two_builds_of_one_recipe_at_once_make_one_image(recipe: Path, cache: Cache) -> None:
    write(recipe, "commands: [date +%s%N > /etc/api.time]")
    builders = [start_builder(recipe, cache) for _ in range(2)]
    outputs = [builder.communicate(timeout=300)[0].splitlines() for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0]
    assert outputs[0][-1] == outputs[1][-1]
    assert sum("api: installing packages" in output for output in outputs) == 1
    assert (
        sum(any("waiting for another build" in line for line in output) for output in outputs) == 1
    )


def test_every_shipped_image_is_small_whole_and_says_what_is_in_it(
    images: dict[str, Image],
) -> None:
    for name, image in images.items():
        info = json.loads(
            subprocess.run(
                ["qemu-img", "info", "--output=json", str(image.disk)],
                capture_output=True,
                check=True,
            ).stdout
        )
        assert "backing-filename" not in info
        assert info["actual-size"] < 450 << 20, name
        assert image.kernel is not None
        assert image.initrd is not None
        assert image.initrd.stat().st_size < 3 << 20
    assert {"nginx", "postgresql-17"} <= {
        package.partition("=")[0] for image in images.values() for package in image.packages
    }


@pytest.fixture(scope="module")
def images() -> dict[str, Image]:
    names = ("base", "firewall", "ips", "nginx", "postgres")
    return {name: build(load_recipe(images_dir() / name)) for name in names}
