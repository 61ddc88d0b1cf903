"""The cache: an image is whole or not there, whoever builds, waits or is killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from vcloud.errors import ImageError
from vcloud.images.cache import Cache, default_cache
from vcloud.images.description import Description

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


class Build:
    """Processes that fill the cache with one image. The one that makes it waits for `go_on`."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.made = FORK.Semaphore(0)
        self.waiting = FORK.Semaphore(0)
        self.go_on = FORK.Semaphore(0)

    def start(self) -> multiprocessing.process.BaseProcess:
        process = FORK.Process(target=self._fill)
        process.start()
        return process

    def _fill(self) -> None:
        self.cache.fill("api", DIGEST, self._make, lambda _: self.waiting.release())

    def _make(self, folder: Path) -> Description:
        (folder / "half").touch()
        self.made.release()
        assert self.go_on.acquire(timeout=30)
        return maker()(folder)


@pytest.fixture
def build(cache: Cache) -> Build:
    return Build(cache)


def test_builds_at_once_make_one_image(cache: Cache, build: Build) -> None:
    builders = [build.start() for _ in range(3)]
    assert build.made.acquire(timeout=30)
    for _ in range(2):
        assert build.waiting.acquire(timeout=30), "the others wait for the first"
    build.go_on.release()
    for builder in builders:
        builder.join()
    assert [builder.exitcode for builder in builders] == [0, 0, 0]
    assert not build.made.acquire(block=False), "the image is made once"
    assert cache.get("api", DIGEST) is not None


def test_a_killed_build_is_never_used_and_swept_by_the_next_of_any_image(
    cache: Cache, build: Build
) -> None:
    builder = build.start()
    assert build.made.acquire(timeout=30)
    assert builder.pid is not None
    os.kill(builder.pid, signal.SIGKILL)
    builder.join()
    assert list(cache.folder.glob("*.partial"))
    assert cache.list() == ()
    assert cache.get("api", DIGEST) is None
    cache.fill("web", OTHER, maker("web", OTHER), silent)
    assert not list(cache.folder.glob("*.partial"))


def test_a_running_build_is_not_swept_by_another(cache: Cache, build: Build) -> None:
    builder = build.start()
    assert build.made.acquire(timeout=30)
    cache.fill("web", OTHER, maker("web", OTHER), silent)
    build.go_on.release()
    builder.join()
    assert builder.exitcode == 0
    assert {image.name for image in cache.list()} == {"api", "web"}


def test_remove_takes_one_image_and_keeps_the_others(cache: Cache) -> None:
    kept = cache.fill("api", DIGEST, maker(), silent)
    cache.remove(cache.fill("web", OTHER, maker("web", OTHER), silent))
    assert cache.list() == (kept,)


@pytest.mark.parametrize(
    "written", ['{"format": "unknown"}', '{"name": "api", "digest": "d", "format": 3}', "{"]
)
def test_an_image_of_another_format_is_made_anew(cache: Cache, written: str) -> None:
    image = cache.fill("api", DIGEST, maker(), silent)
    (image.folder / "image.json").write_text(written)
    assert cache.list() == ()
    again = cache.fill("api", DIGEST, maker(), silent)
    assert replace(again, built=image.built) == image


def test_the_cache_lies_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("VCLOUD_CACHE_DIR", raising=False)
    assert default_cache().folder == tmp_path / "xdg/vcloud/images"
    monkeypatch.setenv("VCLOUD_CACHE_DIR", str(tmp_path / "own"))
    assert default_cache().folder == tmp_path / "own/images"


def test_a_digest_that_only_begins_in_the_same_way_is_another_image(cache: Cache) -> None:
    cache.fill("api", DIGEST, maker(), silent)
    other = DIGEST[:-1] + "c"
    assert cache.get("api", other) is None
    made = cache.fill("api", other, maker(digest=other), silent)
    assert (made.digest, cache.get("api", other), cache.get("api", DIGEST)) == (other, made, None)


def changed(**values: object) -> bytes:
    written: dict[str, object] = {
        "name": "api",
        "digest": DIGEST,
        "cmdline": "quiet",
        "memory": 1 << 20,
        "disks": {"data": "/srv"},
        "content": OTHER,
        "built": "2026-11-30",
        "checked": "",
        "source": "",
        "added": [],
        "format": 2,
    }
    kept = {key: value for key, value in (written | values).items() if value is not None}
    return json.dumps(kept).encode()


@pytest.mark.parametrize(
    "written",
    [
        b"",
        b"\0" * 100,
        b"\xff\xfe",
        b"null",
        b"[" * 100_000,
        changed(format="2"),
        changed(format=3),
        changed(content=None),
        changed(content="ab"),
        changed(built=5),
        changed(added="less"),
        changed(name=["api"]),
        changed(name="other"),
        changed(digest=None),
        changed(digest=OTHER),
        changed(digest="ab"),
        changed(memory="many"),
        changed(disks=["data"]),
        changed(disks={"data": 5}),
    ],
)
def test_an_entry_that_somebody_has_spoilt_is_made_again(cache: Cache, written: bytes) -> None:
    image = cache.fill("api", DIGEST, maker(), silent)
    (image.folder / "image.json").write_bytes(written)
    assert (cache.get("api", DIGEST), cache.list()) == (None, ())
    again = cache.fill("api", DIGEST, maker(), silent)
    assert replace(again, built=image.built) == image
    (image.folder / "image.json").write_bytes(changed())
    read = cache.get("api", DIGEST)
    assert read
    assert (read.name, read.content, read.built) == ("api", OTHER, "2026-11-30")


def test_an_entry_of_which_a_part_is_spoilt_is_made_again(cache: Cache) -> None:
    image = cache.fill("api", DIGEST, maker(), silent)
    (image.folder / "manifest.txt").write_bytes(b"\xff")
    assert cache.get("api", DIGEST) is None
    image = cache.fill("api", DIGEST, maker(), silent)
    image.disk.unlink()
    assert cache.get("api", DIGEST) is None
    assert cache.fill("api", DIGEST, maker(), silent).disk.read_bytes() == b"disk"


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_whatever_stands_where_an_image_belongs_is_replaced(
    cache: Cache, tmp_path: Path, kind: str
) -> None:
    place = cache.fill("api", DIGEST, maker(), silent).folder
    aside = place.rename(tmp_path / "aside")
    if kind == "file":
        place.write_text("text")
    elif kind == "link":
        (tmp_path / "other").mkdir()
        place.symlink_to(tmp_path / "other")
    else:
        (place / "deeper").mkdir(parents=True)
    assert cache.get("api", DIGEST) is None
    assert cache.fill("api", DIGEST, maker(), silent).folder == place
    assert aside.is_dir()
    assert (tmp_path / "other").is_dir() == (kind == "link")


# Images that are built anew


def build_of(content: bytes, *packages: str) -> Callable[[Path], Description]:
    def make(folder: Path) -> Description:
        (folder / "disk.qcow2").write_bytes(content)
        (folder / "vmlinux").write_bytes(b"kernel")
        (folder / "manifest.txt").write_text("".join(f"{line}\n" for line in packages))
        return Description("api", DIGEST, "quiet", source="/recipes/api", added=("less",))

    return make


def folders(cache: Cache) -> list[str]:
    return sorted(path.name for path in cache.folder.iterdir() if path.is_dir())


def test_a_build_with_other_packages_takes_the_place_of_the_image(cache: Cache) -> None:
    old = cache.fill("api", DIGEST, build_of(b"one", "a=1"), silent)
    before, after = cache.renew("api", DIGEST, build_of(b"two", "a=2"), silent)
    assert before == old
    assert cache.get("api", DIGEST) == after
    assert cache.list() == (after,)
    assert (after.disk.read_bytes(), after.packages) == (b"two", ("a=2",))
    assert (after.source, after.added) == ("/recipes/api", ("less",))
    assert old.content != after.content
    assert after.built >= old.built
    assert not old.folder.exists(), "a path never means other bytes than before"
    assert len(folders(cache)) == 1


def test_a_build_with_the_same_packages_changes_nothing_but_the_time_of_the_look(
    cache: Cache,
) -> None:
    old = cache.fill("api", DIGEST, build_of(b"one", "a=1"), silent)
    before, after = cache.renew("api", DIGEST, build_of(b"two", "a=1"), silent)
    assert before == old
    assert after == cache.get("api", DIGEST)
    assert after.checked >= old.built > old.checked == ""
    assert after.current == after.checked
    assert replace(after, checked="") == old
    assert after.disk.read_bytes() == b"one"


def test_a_failed_build_keeps_the_image_of_before(cache: Cache) -> None:
    old = cache.fill("api", DIGEST, build_of(b"one", "a=1"), silent)

    def fail(folder: Path) -> Description:
        (folder / "disk.qcow2").write_bytes(b"half")
        raise ImageError("no")

    with pytest.raises(ImageError, match="no"):
        cache.renew("api", DIGEST, fail, silent)
    assert cache.list() == (old,)
    assert len(folders(cache)) == 1


def test_an_image_that_the_cache_lacks_is_built(cache: Cache) -> None:
    before, after = cache.renew("api", DIGEST, build_of(b"one", "a=1"), silent)
    assert before is None
    assert cache.list() == (after,)


def test_who_reads_an_image_that_is_replaced_never_gets_other_bytes(cache: Cache) -> None:
    old = cache.fill("api", DIGEST, build_of(b"one", "a=1"), silent)
    with old.disk.open("rb") as reading:
        cache.renew("api", DIGEST, build_of(b"two", "a=2"), silent)
        assert reading.read() == b"one"
    with pytest.raises(FileNotFoundError):
        old.disk.read_bytes()


def test_the_content_is_that_of_the_files_and_of_the_command_line(cache: Cache) -> None:
    def content(disk: bytes, cmdline: str, digest: str) -> str:
        def make(folder: Path) -> Description:
            (folder / "disk.qcow2").write_bytes(disk)
            (folder / "root.tar.zst").write_text(digest)
            return Description("api", digest, cmdline)

        return cache.fill("api", digest, make, silent).content

    one = content(b"one", "quiet", DIGEST)
    assert len(one) == 64
    assert content(b"one", "quiet", OTHER) == one
    assert content(b"two", "quiet", "ef" * 32) != one
    assert content(b"one", "loud", "01" * 32) != one


def test_an_image_of_the_former_format_gets_its_content_without_being_built_again(
    cache: Cache,
) -> None:
    new = cache.fill("api", DIGEST, build_of(b"one", "a=1"), silent)
    former = cache.folder / f"api-{DIGEST[:12]}"
    new.folder.rename(former)
    written = {"name": "api", "digest": DIGEST, "cmdline": "quiet", "memory": 1, "disks": {}}
    (former / "image.json").write_text(json.dumps(written | {"format": 1}))
    os.utime(former / "image.json", (0, 1_000_000_000))
    found = cache.get("api", DIGEST)
    assert found
    assert found.content == new.content
    assert found.built == "2001-09-09T01:46:40.000+00:00"
    assert json.loads((former / "image.json").read_text())["content"] == new.content
    assert cache.get("api", DIGEST) == found
    after = cache.renew("api", DIGEST, build_of(b"two", "a=2"), silent)[1]
    assert cache.list() == (after,)
    assert not former.exists()


def test_a_users_qcow2_of_the_former_format_has_the_content_that_it_was_checked_for(
    cache: Cache,
) -> None:
    folder = cache.folder / f"own-{DIGEST[:12]}"
    folder.mkdir(parents=True)
    (folder / "disk.qcow2").write_bytes(b"of somebody")
    written = {"name": "own", "digest": DIGEST, "cmdline": "", "memory": 0, "disks": {}}
    (folder / "image.json").write_text(json.dumps(written | {"format": 1}))
    found = cache.get("own", DIGEST)
    assert found
    assert found.content == DIGEST
