"""The files that `vcloud render` writes."""

from __future__ import annotations

from pathlib import Path

from vcloud.apply.vm_images import VmImages
from vcloud.images.build import CMDLINE
from vcloud.views.render import ImageNames, render_to


def render_file(path: Path, out: Path) -> int:
    """Renders a vApp file to a folder for a host without KVM. Returns the number of files."""
    return render_to(
        path, {}, out, "tcg", lambda design: ImageNames(VmImages.of(design).digests, CMDLINE)
    )
