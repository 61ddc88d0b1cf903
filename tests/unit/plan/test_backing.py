"""The backing file in the header of a qcow2 is read and replaced as QEMU does it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from vcloud.plan.backing import HEAD, backing_file, with_backing_file
from vcloud.untrusted import UnreadableError


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    """A qcow2 over another one, with data in it."""
    base, path = tmp_path / "base.01234567.qcow2", tmp_path / "overlay.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(base), "8M"], check=True)
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(base), str(path)],
        check=True,
    )
    return path


def told_by_qemu(path: Path) -> str:
    done = subprocess.run(
        ["qemu-img", "info", "--output=json", str(path)], capture_output=True, check=True
    )
    found: str = json.loads(done.stdout)["backing-filename"]
    return found


@pytest.mark.parametrize(
    "name", ["base.89abcdef.qcow2", "b", f"{'a/' * 300}base.qcow2", "größe.qcow2"]
)
def test_a_copy_is_based_on_another_file_and_is_otherwise_the_same(
    overlay: Path, name: str
) -> None:
    content = overlay.read_bytes()
    wanted = f"{overlay.parent}/{name}"
    assert backing_file(content[:HEAD]) == told_by_qemu(overlay)
    changed = with_backing_file(content[:HEAD], wanted)
    assert len(changed) == len(content[:HEAD])
    assert backing_file(changed) == wanted
    overlay.write_bytes(changed + content[HEAD:])
    assert told_by_qemu(overlay) == wanted
    there = Path(wanted)
    if "a/" not in name:
        (overlay.parent / "base.01234567.qcow2").rename(there)
        subprocess.run(["qemu-img", "check", "-q", str(overlay)], check=True)
    back = with_backing_file(changed, f"{overlay.parent}/base.01234567.qcow2")
    assert back == content[:HEAD]


def test_what_has_no_backing_file_or_no_room_is_refused(overlay: Path) -> None:
    head = overlay.read_bytes()[:HEAD]
    base = (overlay.parent / "base.01234567.qcow2").read_bytes()[:HEAD]
    assert backing_file(base) == ""
    for content, path in (
        (base, "/x"),
        (b"", "/x"),
        (b"no qcow2" * 100, "/x"),
        (head, "/" + "x" * 1023),
        (head, ""),
        (head[:20] + (99).to_bytes(4, "big") + head[24:], "/x"),
        (head[:16] + (5000).to_bytes(4, "big") + head[20:], "/x"),
    ):
        with pytest.raises(UnreadableError):
            with_backing_file(content, path)
    # Something stands behind the name, so a longer one would destroy it.
    at = int.from_bytes(head[8:16], "big") + int.from_bytes(head[16:20], "big")
    full = head[:at] + b"x" + head[at + 1 :]
    with pytest.raises(UnreadableError, match="no room"):
        with_backing_file(full, backing_file(full) + "longer")
    assert with_backing_file(full, "/short")
