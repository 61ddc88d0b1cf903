"""Debian as its packages leave it, with the programs of the base image: what the trimmed images are
measured beside.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from vcloud.data import images_dir
from vcloud.images.build import SUITE
from vcloud.images.cache import Image, default_cache
from vcloud.images.recipe import load_recipe

EXTRA = ("linux-image-cloud-amd64", "initramfs-tools", "zstd", "dbus", "ifupdown")
CUSTOMIZE = """\
echo '/dev/vda / ext4 rw 0 1' >"$1/etc/fstab"
cp "$1"/boot/vmlinuz-* {folder}/vmlinuz
cp "$1"/boot/initrd.img-* {folder}/initrd
"""


def untrimmed() -> Image:
    """Distribution's kernel, initramfs, units and services; the only thing set is the file system
    table. Built when it is first asked for.
    """
    script = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    folder = default_cache().folder.parent / "test-images" / f"untrimmed-{script}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as work:
            _build(Path(work)).rename(folder)
    cmdline = "root=/dev/vda ro console=ttyS0"
    base = load_recipe(images_dir() / "base")
    return Image(
        folder,
        "untrimmed",
        script,
        folder / "disk.qcow2",
        folder / "vmlinuz",
        folder / "initrd",
        cmdline,
        base.memory,
        {},
        (),
        content=script,
        built="",
    )


def _build(work: Path) -> Path:
    made, root, raw = work / "made", work / "root", work / "disk"
    made.mkdir()
    packages = ",".join((*load_recipe(images_dir() / "base").packages, *EXTRA))
    hook = CUSTOMIZE.format(folder=made)
    for argv in (
        [
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            f"--include={packages}",
            f"--customize-hook={hook}",
            SUITE,
            str(root),
        ],
        ["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(raw), "2G"],
        ["qemu-img", "convert", "-O", "qcow2", str(raw), str(made / "disk.qcow2")],
    ):
        subprocess.run(argv, check=True)
    shutil.rmtree(root)
    return made
