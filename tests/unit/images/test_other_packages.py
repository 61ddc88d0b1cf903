"""What an image has that is no Debian package: believed only in the form that was agreed, and never read
from outside of the image.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vcloud.errors import ImageError
from vcloud.images.other_packages import FOLDER, LARGEST, other_packages


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "root" / FOLDER
    found.mkdir(parents=True)
    return found


def found(folder: Path) -> list[str]:
    return [*other_packages(folder.parents[3])]


def test_the_lines_of_all_files_count(folder: Path) -> None:
    assert found(folder) == []
    (folder / "pip").write_text("Flask=3.1.0\nzope.interface=7.2\n")
    (folder / "app").write_text("@scope/app=1.0~rc1+2\n")
    assert found(folder) == ["@scope/app=1.0~rc1+2", "Flask=3.1.0", "zope.interface=7.2"]


def test_an_image_without_the_folder_has_none(tmp_path: Path) -> None:
    (tmp_path / "usr/lib/vcloud").mkdir(parents=True)
    assert [*other_packages(tmp_path)] == []


@pytest.mark.parametrize(
    "line", ["Flask", "a b=1", "=1", "a=", "a=1 2", "\x1b[2J=1", "a=" + "1" * 200]
)
def test_a_line_of_another_form_is_refused(folder: Path, line: str) -> None:
    (folder / "pip").write_text(f"good=1\n{line}\n")
    with pytest.raises(ImageError, match="line 2 that is not NAME=VERSION"):
        found(folder)


def test_what_leads_out_of_the_image_is_refused(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "pip").write_text("secret=1\n")
    (folder / "pip").symlink_to(outside / "pip")
    with pytest.raises(ImageError, match="cannot be read"):
        found(folder)
    (folder / "pip").unlink()
    folder.rmdir()
    folder.symlink_to(outside)
    with pytest.raises(ImageError, match="is not a folder"):
        found(folder)
    folder.unlink()
    folder.parent.rmdir()
    folder.parent.symlink_to(outside)
    with pytest.raises(ImageError, match="symbolic link in its path"):
        found(folder)


def test_what_is_no_file_or_too_large_is_refused(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(ImageError, match="not a regular file"):
        found(folder)
    (folder / "pipe").unlink()
    (folder / "large").write_text("a=1\n" * (LARGEST // 4 + 1))
    with pytest.raises(ImageError, match="has more than 1 MiB"):
        found(folder)
