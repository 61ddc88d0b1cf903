"""The cache: an image is whole or not there, whoever builds, waits or is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vcloud.errors import ImageError
from vcloud.images.cache import Cache, Description, default_cache

FORK = multiprocessing.get_context("fork")
DIGEST = "ab" * 32
OTHER = "cd" * 32


def maker(name: str = "api", digest: str = DIGEST) -> Callable[[Path], Description]:
    def make(folder: Path) -> Description:
        (folder / "disk.qcow2").write_bytes(b"disk")
        (folder / "manifest.txt").write_text("bash=5\ndash=1\n")
        return Description(name, digest, "quiet", 1 << 20, {"data": "/srv"})

    return make


def silent(_: str) -> None:
    pass


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "images")


def test_what_was_made_is_found_listed_and_removed(cache: Cache) -> None:
    assert cache.get("api", DIGEST) is None
    image = cache.fill("api", DIGEST, maker(), silent)
    assert cache.get("api", DIGEST) == image
    assert cache.list() == (image,)
    assert (image.disk.read_bytes(), image.kernel, image.packages) == (
        b"disk",
        None,
        ("bash=5", "dash=1"),
    )
    assert (image.cmdline, image.memory, dict(image.disks)) == ("quiet", 1 << 20, {"data": "/srv"})
    cache.remove(image)
    cache.remove(image)
    assert cache.list() == ()


def test_an_image_that_is_there_is_not_made_again(cache: Cache) -> None:
    cache.fill("api", DIGEST, maker(), silent)

    def never(_: Path) -> Description:
        raise AssertionError

    assert cache.fill("api", DIGEST, never, silent).name == "api"


def test_a_failed_build_leaves_nothing(cache: Cache) -> None:
    def fail(folder: Path) -> Description:
        (folder / "disk.qcow2").write_bytes(b"half")
        raise ImageError("no")

    with pytest.raises(ImageError, match="no"):
        cache.fill("api", DIGEST, fail, silent)
    assert [path for path in cache.folder.iterdir() if path.is_dir()] == []
    assert cache.fill("api", DIGEST, maker(), silent).disk.read_bytes() == b"disk"


def test_a_full_disk_is_told_with_the_way_out(cache: Cache) -> None:
    def fill_up(_: Path) -> Description:
        with Path("/dev/full").open("wb", buffering=0) as full:
            full.write(b"x")
        raise AssertionError

    with pytest.raises(ImageError, match="No space left") as failure:
        cache.fill("api", DIGEST, fill_up, silent)
    assert "VCLOUD_CACHE_DIR" in failure.value.hint


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match="cannot be written"):
        Cache(tmp_path / "file/images").fill("api", DIGEST, maker(), silent)


def _slow_build(cache: Cache, log: Path) -> None:
    def make(folder: Path) -> Description:
        with log.open("a") as lines:
            lines.write("made\n")
        (folder / "half").touch()
        time.sleep(0.5)
        return maker()(folder)

    cache.fill("api", DIGEST, make, silent)


def test_two_builds_at_once_make_one_image(cache: Cache, tmp_path: Path) -> None:
    log = tmp_path / "log"
    builders = [FORK.Process(target=_slow_build, args=(cache, log)) for _ in range(3)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert [builder.exitcode for builder in builders] == [0, 0, 0]
    assert log.read_text() == "made\n"
    assert cache.get("api", DIGEST) is not None


def test_a_killed_build_is_never_used_and_swept_by_the_next_of_any_image(
    cache: Cache, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    builder = FORK.Process(target=_slow_build, args=(cache, log))
    builder.start()
    while not list(cache.folder.glob("*.partial/half")):
        time.sleep(0.01)
    assert builder.pid is not None
    os.kill(builder.pid, signal.SIGKILL)
    builder.join()
    assert list(cache.folder.glob("*.partial"))
    assert cache.list() == ()
    assert cache.get("api", DIGEST) is None
    cache.fill("web", OTHER, maker("web", OTHER), silent)
    assert not list(cache.folder.glob("*.partial"))


def test_a_running_build_is_not_swept_by_another(cache: Cache, tmp_path: Path) -> None:
    builder = FORK.Process(target=_slow_build, args=(cache, tmp_path / "log"))
    builder.start()
    while not list(cache.folder.glob("*.partial/half")):
        time.sleep(0.01)
    cache.fill("web", OTHER, maker("web", OTHER), silent)
    builder.join()
    assert builder.exitcode == 0
    assert {image.name for image in cache.list()} == {"api", "web"}


def test_remove_takes_one_image_and_keeps_the_others(cache: Cache) -> None:
    kept = cache.fill("api", DIGEST, maker(), silent)
    cache.remove(cache.fill("web", OTHER, maker("web", OTHER), silent))
    assert cache.list() == (kept,)


@pytest.mark.parametrize(
    "written", ['{"format": "unknown"}', '{"name": "api", "digest": "d", "format": 2}', "{"]
)
def test_an_image_of_another_format_is_made_anew(cache: Cache, written: str) -> None:
    image = cache.fill("api", DIGEST, maker(), silent)
    (image.folder / "image.json").write_text(written)
    assert cache.list() == ()
    assert cache.fill("api", DIGEST, maker(), silent) == image


def test_the_cache_lies_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("VCLOUD_CACHE_DIR", raising=False)
    assert default_cache().folder == tmp_path / "xdg/vcloud/images"
    monkeypatch.setenv("VCLOUD_CACHE_DIR", str(tmp_path / "own"))
    assert default_cache().folder == tmp_path / "own/images"
