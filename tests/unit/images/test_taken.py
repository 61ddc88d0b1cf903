"""What a build takes out of an image whose tar and whose files commands of a recipe have written."""

from __future__ import annotations

import io
import lzma
import subprocess
import tarfile
from pathlib import Path

import pytest

from vcloud.errors import ImageError
from vcloud.images import taken
from vcloud.images.initramfs import make_initramfs
from vcloud.images.taken import ARCHIVE_FORMAT, content_of, unpack_files

REGULAR, FOLDER = tarfile.REGTYPE, tarfile.DIRTYPE


def header(name: str, kind: bytes = REGULAR, size: bytes = b"00000000000\0") -> bytes:
    """A header of tar with a right checksum, whatever it says."""
    made = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    made[124:136], made[156:157] = size, kind
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made)
    return bytes(made)


def in_binary(size: int) -> bytes:
    """A size as GNU tar writes those that are too large, or negative."""
    return (b"\xff" if size < 0 else b"\x80") + (size % (1 << 88)).to_bytes(11)


def sparse(size: int) -> bytes:
    """A file without a byte in the archive, and of this size on the disk."""
    made = bytearray(header("hole", tarfile.GNUTYPE_SPARSE))
    made[257:265], made[483:495] = tarfile.GNU_MAGIC, in_binary(size)
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made)
    return bytes(made)


HOSTILE = {
    "a hole that a negative size hides": header("d", FOLDER, in_binary(-(1 << 62))) + sparse(1 << 50),
    "a hole": sparse(1 << 20),
    "a negative size": header("f", REGULAR, in_binary(-512)),
    "a negative size in digits": header("f", REGULAR, b"-0000001000\0"),
    "a size beyond the limit": header("f", REGULAR, b"77777777777\0"),
    "sizes beyond the limit": header("f", REGULAR, b"04000000000\0") + bytes(1 << 10),
    "a folder with content": header("d", FOLDER, b"00000000001\0"),
    "a name of any length": header("x", tarfile.GNUTYPE_LONGNAME, b"00000001000\0"),
    "attributes of any length": header("x", tarfile.XHDTYPE, b"00000001000\0"),
    "a wrong checksum": header("f").replace(b"0000644", b"0000755"),
    "too many members": header("f") * (taken.MOST_TAKEN + 1),
    "no end": header("f"),
    "no content": header("f", REGULAR, b"00000001000\0"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_archive_is_refused_before_it_takes_room(tmp_path: Path, what: str) -> None:
    end = b"" if what.startswith("no ") else bytes(1024)
    with pytest.raises(ImageError, match="cannot be read"):
        unpack_files(io.BytesIO(HOSTILE[what] + end), tmp_path / "in")
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) <= 2048


def test_what_tar_packs_is_unpacked(tmp_path: Path) -> None:
    image, target = tmp_path / "image", tmp_path / "in"
    long = "/".join(["usr/lib/modules/6.12.57+deb13-cloud-amd64/kernel", *["drivers"] * 9, "x.ko"])
    files = {"a": b"", "b/c": b"x" * 512, "b/d": b"y" * 1_500_001, long: b"module"}
    for name, content in files.items():
        (image / name).parent.mkdir(parents=True, exist_ok=True)
        (image / name).write_bytes(content)
    (image / "link").symlink_to("/etc/shadow")
    (image / "b/hard").hardlink_to(image / "a")
    done = subprocess.run(
        ["tar", "-C", image, ARCHIVE_FORMAT, "-cf", "-", "a", "b", "usr", "link"],
        check=True,
        capture_output=True,
    )
    unpack_files(io.BytesIO(done.stdout), target)
    found = {str(file.relative_to(target)) for file in target.rglob("*") if file.is_file()}
    assert found == {*files}
    assert all((target / name).read_bytes() == content for name, content in files.items())


def test_a_list_that_would_fill_the_memory_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "modules.dep"
    file.write_bytes(b"\n" * taken.LARGEST_TEXT)
    assert len(content_of(file)) == taken.LARGEST_TEXT
    file.write_bytes(b"\n" * (taken.LARGEST_TEXT + 1))
    with pytest.raises(ImageError, match=r"modules\.dep of the image has more than 8 MiB"):
        content_of(file)


@pytest.mark.parametrize("more", [0, 1])
def test_a_module_that_unpacks_to_too_much_is_refused(tmp_path: Path, more: int) -> None:
    modules, largest = tmp_path / "6.12.0-cloud", 1 << 20
    modules.mkdir()
    (modules / "large.ko.xz").write_bytes(lzma.compress(bytes(largest + more)))
    (modules / "modules.dep").write_text("large.ko.xz:\n")
    (modules / "modules.builtin").write_text("")
    if more:
        with pytest.raises(ImageError, match=r"large\.ko\.xz of the image has more than 1 MiB"):
            make_initramfs(b"init", modules, ["large"], largest)
    else:
        assert len(make_initramfs(b"init", modules, ["large"], largest)) > largest


def test_a_module_whose_unpacking_needs_too_much_memory_is_refused(tmp_path: Path) -> None:
    modules = tmp_path / "6.12.0-cloud"
    modules.mkdir()
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30, "preset": 0}]
    (modules / "small.ko.xz").write_bytes(lzma.compress(b"module", filters=filters))
    (modules / "modules.dep").write_text("small.ko.xz:\n")
    (modules / "modules.builtin").write_text("")
    with pytest.raises(lzma.LZMAError):
        make_initramfs(b"init", modules, ["small"])
