"""Where the tests get Suricata from: the built image of the IPS, as its VM runs it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from vcloud.data import images_dir
from vcloud.images.build import build
from vcloud.images.recipe import load_recipe

GIVEN = "VCLOUD_TEST_IPS_ROOT"


def find_ips_root(folder: Path) -> Path:
    """The image's file system: a raw ext4, made in `folder`. The variable can name a root folder
    with Suricata instead, to save the build.
    """
    if given := os.environ.get(GIVEN):
        return Path(given)
    image = build(load_recipe(images_dir() / "ips"))
    raw = folder / "ips.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(image.disk), str(raw)], check=True)
    return raw
