"""Rendering to a folder, where a former run or a user may have left something."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rendered import render_file
from tests.vapps import SMALL
from vcloud.errors import UsageError
from vcloud.views.render import LIST

BIG = """\
vcloud: 1
name: big
zones: {dmz: {}, app: {}}
vms:
  web: {image: nginx, zone: dmz, count: 3}
  api: {image: base, zone: app}
protection: {dlp: [{detect: card-number, leaving: app}]}
"""


def render(text: str, folder: Path) -> Path:
    """The folder `out` in which the vApp was rendered."""
    (folder / "vapp.yaml").write_text(text)
    render_file(folder / "vapp.yaml", folder / "out")
    return folder / "out"


def everything(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def test_a_folder_holds_one_render_after_another_and_what_is_the_users(tmp_path: Path) -> None:
    (tmp_path / "fresh").mkdir()
    fresh = everything(render(SMALL, tmp_path / "fresh"))
    out = render(BIG, tmp_path)
    assert "ips/etc/vcloud/ips/vars.yaml" in everything(out)
    own = {"notes.txt": b"mine", "domains/mine.xml": b"mine, too"}
    for name, content in own.items():
        (out / name).write_bytes(content)
    render(SMALL, tmp_path)
    assert everything(out) == fresh | own


def test_only_what_vcloud_writes_is_removed_whatever_the_list_says(tmp_path: Path) -> None:
    out = render(SMALL, tmp_path)
    (tmp_path / "secret").write_text("mine")
    (out / "mine").write_text("mine")
    (out / LIST).write_text(
        f"../secret\ndomains/../../secret\n{tmp_path}/secret\nmine\ndomains\n\0\n"
    )
    render(SMALL, tmp_path)
    assert (tmp_path / "secret").exists()
    assert (out / "mine").exists()


def test_a_folder_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UsageError, match="cannot be written"):
        render(SMALL, tmp_path)
