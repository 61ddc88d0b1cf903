"""Builds the images of a vApp anew with the packages of today."""

from __future__ import annotations

from pathlib import Path

from vcloud.design.model import Design
from vcloud.errors import ImageError
from vcloud.images.cache import default_cache
from vcloud.images.recipe import load_recipe
from vcloud.images.refresh import Buildable, refresh
from vcloud.packages import told
from vcloud.reporter import Reporter


def buildables_of(design: Design) -> tuple[Buildable, ...]:
    """The recipes and packages that the images of a vApp are built from, each once. Users' own
    qcow2 files are left out. Raises ImageError, SpecError for a recipe that cannot be read.
    """
    references = dict.fromkeys(vm.image for vm in design.vms if vm.image.recipe)
    return tuple(
        Buildable(load_recipe(Path(reference.recipe)), reference.packages)
        for reference in references
    )


def refresh_images(design: Design, reporter: Reporter) -> None:
    """Builds the images of a vApp anew, and reports the changed packages. Raises ImageError for the
    first one that cannot be built; then the earlier image is kept.
    """
    for result in refresh(buildables_of(design), default_cache(), reporter.report):
        if result.error is not None:
            raise ImageError(
                f"{result.error.what}; the earlier image is kept",
                result.error.hint,
            )
        reporter.note(f"image {result.what.label}: {told(result.changes) or 'nothing changed'}")
