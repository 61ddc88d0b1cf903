"""Data disks that an identity document names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.netns.guest.machines import (
    Machine,
    run,
)

pytestmark = pytest.mark.netns


@contextmanager
def loop_disk(guest: Machine, image: Path, serial: str) -> Iterator[None]:
    """Shows an image file to the machine as a disk of that serial number."""
    device = Path(run("losetup", "--find", "--show", str(image)).stdout.strip())
    try:
        guest.file(f"/sys/block/{device.name}").mkdir()
        guest.file(f"/sys/block/{device.name}/serial").write_text(serial)
        guest.file(f"/dev/{device.name}").touch()
        guest.enter("mount", "--bind", str(device), str(guest.root / "dev" / device.name))
        yield
    finally:
        guest.enter("umount", str(guest.root / "data"), check=False)
        run("losetup", "--detach", str(device))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "data.img"
    with path.open("wb") as blank:
        blank.truncate(32 << 20)
    return path


def test_a_blank_disk_is_formatted_once_and_mounted_again_and_again(
    guest: Machine, image: Path
) -> None:
    with loop_disk(guest, image, "db-data"):
        assert guest.identity("disk db-data /data") == "ok"
        guest.file("/data/row").write_text("kept")
        assert guest.identity("disk db-data /data") == "ok"
        mounts = [line.split() for line in guest.enter("cat", "/proc/mounts").stdout.splitlines()]
        assert [
            (kind, "nodev" in options)
            for _, at, kind, options, *_ in mounts
            if at.endswith("/data")
        ] == [("ext4", True)]
        guest.enter("umount", str(guest.root / "data"))
        assert guest.guest("boot").stdout == "ok\n"
        assert guest.file("/data/row").read_text() == "kept"


@pytest.fixture
def content(guest: Machine, tmp_path: Path) -> Path:
    """The image's content for /data, as the build writes it: a file system smaller than the disk."""
    (tmp_path / "top").mkdir()
    (tmp_path / "top/row").write_text("from the image")
    layers = guest.root / "run/usr"
    guest.enter("mkdir", "-p", f"{layers}/vcloud/disks")
    guest.enter(
        "mount",
        "-t",
        "overlay",
        "-o",
        f"lowerdir={layers}:/usr/lib",
        "overlay",
        str(guest.root / "usr/lib"),
    )
    path = guest.file("/run/usr/vcloud/disks/data.ext4")
    run("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", str(tmp_path / "top"), str(path), "16M")
    return path


@pytest.mark.usefixtures("content")
def test_a_blank_disk_begins_with_what_the_image_has_there_and_keeps_what_is_written(
    guest: Machine, image: Path
) -> None:
    guest.file("/data").mkdir(mode=0o750)
    os.chown(guest.file("/data"), 7, 8)
    with loop_disk(guest, image, "db-data"):
        assert guest.identity("disk db-data /data") == "ok"
        top = guest.file("/data").stat()
        assert (top.st_uid, top.st_gid, top.st_mode & 0o7777) == (7, 8, 0o750)
        assert guest.file("/data/row").read_text() == "from the image"
        guest.file("/data/row").write_text("changed")
        guest.enter("umount", str(guest.root / "data"))
        assert guest.guest("boot").stdout == "ok\n"
        assert guest.file("/data/row").read_text() == "changed"


def test_a_copy_that_was_cut_short_begins_anew(guest: Machine, image: Path, content: Path) -> None:
    whole = content.read_bytes()
    with image.open("r+b") as disk:
        disk.write(
            b"vcloud is copying the image's content to this disk\n\0".ljust(4096, b"\0")
            + whole[4096 : 8 << 20]
        )
    with loop_disk(guest, image, "db-data"):
        assert guest.identity("disk db-data /data") == "ok"
        assert guest.file("/data/row").read_text() == "from the image"
        guest.enter("umount", str(guest.root / "data"))
    run("e2fsck", "-fn", str(image))


@pytest.mark.usefixtures("content")
def test_a_disk_too_small_for_what_the_image_puts_there_stays_blank_and_it_is_said(
    guest: Machine, image: Path
) -> None:
    os.truncate(image, 8 << 20)
    with loop_disk(guest, image, "db-data"):
        assert guest.identity("disk db-data /data").endswith(
            "too small; what the image puts there takes 16 MiB"
        )
    assert not any(image.read_bytes())


def test_data_that_is_no_known_file_system_is_never_written_over(
    guest: Machine, image: Path
) -> None:
    with image.open("r+b") as disk:
        disk.seek(70_000)
        disk.write(b"precious")
    before = image.read_bytes()
    with loop_disk(guest, image, "db-data"):
        assert "holds data" in guest.identity("disk db-data /data")
    assert image.read_bytes() == before


def test_a_disk_that_is_not_there_is_an_error(guest: Machine) -> None:
    assert guest.identity("disk absent /data") == "error 1 disk: no disk with serial 'absent'"
