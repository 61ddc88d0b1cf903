"""What a VM sends is unpacked inside of its folder or not at all, whatever it sends."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from vcloud.errors import GuestError
from vcloud.guests.archive import MOST_LEFT, Unpacked, stays_inside, unpack

Entry = tuple[str, bytes, str]
"""Name, kind, and content or target."""
FOLDER: Entry = (".", tarfile.DIRTYPE, "")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """An empty folder; a file beside it must be as it was in the end."""
    (tmp_path / "beside").write_text("untouched")
    (tmp_path / "place").mkdir()
    yield tmp_path / "place"
    assert (tmp_path / "beside").read_text() == "untouched"
    assert names_in(tmp_path) == ["beside", "place"]


def archive(*entries: Entry) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as file:
        for name, kind, content in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o7777
            if kind == tarfile.REGTYPE:
                info.size = len(content)
            else:
                info.linkname = content
            file.addfile(info, io.BytesIO(content.encode()))
    return made.getvalue()


def unpacked(place: Path, content: bytes) -> Unpacked:
    folder = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return unpack(io.BytesIO(content), folder, "copy", lambda _: None)
    finally:
        os.close(folder)


def test_a_folder_comes_whole(place: Path) -> None:
    long = "n" * 200
    found = unpacked(
        place,
        archive(
            FOLDER,
            ("a", tarfile.DIRTYPE, ""),
            (f"a/{long}", tarfile.REGTYPE, "x" * 1500),
            ("a/link", tarfile.SYMTYPE, f"../a/{long}"),
            ("empty", tarfile.REGTYPE, ""),
        ),
    )
    assert (found.is_folder, found.files, found.bytes) == (True, 3, 1500)
    assert found.left == ()
    assert (place / "copy/a/link").read_text() == "x" * 1500
    assert (place / "copy/a" / long).read_text() == "x" * 1500
    assert (place / "copy/empty").stat().st_mode & 0o7777 == 0o755


def test_a_file_comes_under_the_name_that_it_gets_here(place: Path) -> None:
    found = unpacked(place, archive(("etc-passwd", tarfile.REGTYPE, "hello")))
    assert (found.is_folder, found.files, found.left) == (False, 1, ())
    assert (place / "copy").read_text() == "hello"


@pytest.mark.parametrize(
    "entries",
    [
        [FOLDER, ("../beside", tarfile.REGTYPE, "evil")],
        [FOLDER, ("a/../../beside", tarfile.REGTYPE, "evil")],
        [FOLDER, ("/etc/passwd-of-nobody", tarfile.REGTYPE, "evil")],
        [FOLDER, ("../beside", tarfile.SYMTYPE, "x")],
        [FOLDER, ("..", tarfile.DIRTYPE, "")],
        [FOLDER, ("a", tarfile.REGTYPE, "one"), ("a", tarfile.REGTYPE, "two")],
        [FOLDER, ("a", tarfile.REGTYPE, "one"), ("a/b", tarfile.REGTYPE, "two")],
        [("a", tarfile.REGTYPE, "one"), ("b", tarfile.REGTYPE, "two")],
        [("a", tarfile.SYMTYPE, "../beside")],
        [("a", tarfile.DIRTYPE, "")],
        [],
    ],
)
def test_what_leads_out_or_comes_twice_is_an_error(place: Path, entries: list[Entry]) -> None:
    with pytest.raises(GuestError):
        unpacked(place, archive(*entries))


def test_nothing_is_written_through_a_link(place: Path) -> None:
    """The link comes first, and the file below it makes a folder of that name."""
    with pytest.raises(GuestError, match="twice"):
        unpacked(
            place,
            archive(FOLDER, ("a", tarfile.SYMTYPE, "."), ("a/beside", tarfile.REGTYPE, "evil")),
        )


def test_links_out_devices_and_hard_links_are_left_out_and_named(place: Path) -> None:
    found = unpacked(
        place,
        archive(
            FOLDER,
            ("out", tarfile.SYMTYPE, "../beside"),
            ("root", tarfile.SYMTYPE, "/etc/passwd"),
            ("disk", tarfile.BLKTYPE, ""),
            ("hard", tarfile.LNKTYPE, "../../beside"),
            ("good", tarfile.REGTYPE, "x"),
            ("in", tarfile.SYMTYPE, "good"),
        ),
    )
    assert len(found.left) == 4
    assert names_in(place / "copy") == ["good", "in"]
    assert (place / "copy/in").read_text() == "x"


@pytest.mark.parametrize(("there", "here"), [(0o700, 0o700), (0o750, 0o750), (0o755, 0o755)])
def test_a_folder_of_the_owner_only_stays_one(place: Path, there: int, here: int) -> None:
    """Its files may be readable by all, because nobody else can enter it."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as file:
        for name in (".", "private"):
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, there
            file.addfile(info)
    before = os.umask(0o022)
    try:
        unpacked(place, made.getvalue())
    finally:
        os.umask(before)
    for folder in ("copy", "copy/private"):
        assert (place / folder).stat().st_mode & 0o7777 == here


def test_what_is_left_out_does_not_fill_the_memory(place: Path) -> None:
    device = ("d", tarfile.BLKTYPE, "")
    found = unpacked(place, archive(FOLDER, *[device] * (MOST_LEFT + 10)))
    assert len(found.left) == MOST_LEFT + 1
    assert found.left[-1] == "more than is named here"


@pytest.mark.parametrize("cut", [1, 512, 700, 1024, 1536])
def test_an_archive_that_is_cut_short_is_an_error(place: Path, cut: int) -> None:
    content = archive(FOLDER, ("a", tarfile.REGTYPE, "x" * 600))[:cut]
    with pytest.raises(GuestError, match=r"ended before|no tar"):
        unpacked(place, content)


def test_a_long_name_takes_no_more_memory_than_a_name_may(place: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 8 << 30
    with pytest.raises(GuestError, match="too long"):
        unpacked(place, info.tobuf(tarfile.GNU_FORMAT))


@pytest.mark.parametrize(
    ("path", "target", "inside"),
    [
        ("copy/a", "b", True),
        ("copy/a/b", "../c", True),
        ("copy/a", "./b/c", True),
        ("copy/a", "../b", False),
        ("copy/a/b", "../../c", False),
        ("copy/a", "/etc", False),
        ("copy/a", "b/../c", False),  # b may be a link
        ("copy/a", "", False),
        ("copy", "x", False),
    ],
)
def test_a_link_stays_inside(path: str, target: str, *, inside: bool) -> None:
    assert stays_inside(tuple(path.split("/")), target) == inside
