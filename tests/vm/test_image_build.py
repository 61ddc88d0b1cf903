"""Building images for real: what goes in comes out, and what fails or is killed leaves neither
image nor mount nor process.
"""

from __future__ import annotations

import contextlib
import json
import re
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

pytestmark = [pytest.mark.vm, pytest.mark.timeout(2400)]


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
        "packages: [tree]\ncommands:\n  - api > /etc/api.said\n"
        "  - install -g 8 -m 2755 /bin/true /usr/local/bin/group; install -m 4755 /bin/true /usr/local/bin/user\n"
        "  - install -o 1234 -g 4321 /bin/true /usr/local/bin/other; ln /usr/local/bin/other /usr/local/bin/twin\n"
        "  - cp /bin/true /usr/local/bin/capable; setcap cap_net_raw+ep /usr/local/bin/capable\n  - 'echo \"$0\" ''quoted'' >> /etc/api.said'\n"
        "  - mkdir /srv/data && echo row > /srv/data/row && cp -a /usr/local/bin/capable /usr/local/bin/user /srv/data\ndisks: {data: /srv/data}\ncheck: tree --version\n",
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
        # Owners, setuid bits, hard links and capabilities of files. The image of the added package
        # starts from the packed root of the other.
        assert guest.shell("cd /usr/local/bin; stat -c '%n %a %u %g %h' group user other twin") == (
            "group 2755 0 8 1\nuser 4755 0 0 1\nother 755 1234 4321 2\ntwin 755 1234 4321 2\n"
        )
        assert guest.shell("getcap /usr/local/bin/*") == "/usr/local/bin/capable cap_net_raw=ep\n"
        assert guest.shell("find / -xdev '(' -uid +65534 -o -gid +65534 ')'") == ""
        content = "/usr/lib/vcloud/disks/srv/data.ext4"
        assert (
            guest.shell(f"stat -c '%a %U' {content}; debugfs -R 'cat /row' {content} 2>/dev/null")
            == "600 root\nrow\n"
        )
        inside = f"debugfs -R 'ea_list /capable' {content}; debugfs -R 'stat /user' {content}"
        assert re.search(
            r"security\.capability.*Mode: +04755", guest.shell(f"{inside} 2>/dev/null"), re.DOTALL
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
        (
            "commands: ['cp -r /usr/lib/modules/* /usr/lib/modules/other']",
            "the modules of exactly one kernel",
        ),
        ("commands: ['ln -sf true /usr/bin/tar']", "may have replaced tar"),
    ],
    ids=["package", "command", "check", "module", "disk", "two kernels", "tar"],
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


def descendants(pid: int) -> set[int]:
    """The processes that a process has started, and those that they have started."""
    found = set[int]()
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, children.read_text().split()):
                found |= {child} | descendants(child)
    return found


def alive(pids: set[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def wait_for(condition: Callable[[], object], timeout: float = 900) -> None:
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
    wait_for(lambda: list(cache.folder.glob("*.partial/build/work/root/reached")))
    started = descendants(builder.pid)
    assert len(alive(started)) >= 3
    builder.send_signal(signal.SIGKILL)
    builder.communicate()
    wait_for(lambda: not alive(started), 120)
    assert mounts_in(cache.folder) == []
    assert [image.name for image in cache.list()] == ["base"]
    (recipe / "files/etc/api.wait").unlink()
    build(load_recipe(recipe), cache=cache)
    assert not list(cache.folder.glob("*.partial"))
    assert [image.name for image in cache.list()] == ["api", "base"]


def test_two_builds_of_one_recipe_at_once_make_one_image(recipe: Path, cache: Cache) -> None:
    write(recipe, "commands: [date +%s%N > /etc/api.time]")
    builders = [start_builder(recipe, cache) for _ in range(2)]
    outputs = [builder.communicate(timeout=1200)[0].splitlines() for builder in builders]
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
