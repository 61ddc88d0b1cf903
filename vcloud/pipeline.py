"""From a vApp file on disk to its design, step by step: load the file, refuse what cannot be
enforced, load the recipes, resolve.

The steps themselves are pure. This module reads the files that they need. It imports late, because
most commands need a part only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vcloud.design.model import Design, Role
from vcloud.errors import Problem, RefusedError, SpecError
from vcloud.spec.model import Vapp

if TYPE_CHECKING:
    from vcloud.images.recipe import Recipe


def load_file(path: Path, parameters: Mapping[str, str]) -> Vapp:
    """The vApp of a file (`-` is stdin). `parameters` override its defaults.

    Raises:
        SpecError: the file has problems; it has all of them.
        UsageError: the file cannot be read.
    """
    from vcloud.files import STDIN, beside, read_vapp_file
    from vcloud.spec.load import parse_vapp

    name = "stdin" if str(path) == STDIN else str(path)
    vapp = parse_vapp(read_vapp_file(path), beside(path), name, parameters)
    if any(any(flow.prefixes) for flow in vapp.flows):
        from vcloud.design.inner import inner_prefixes

        if problems := tuple(inner_prefixes(vapp)):
            raise SpecError(problems)
    return vapp


def read_name(path: Path, parameters: Mapping[str, str] | None = None) -> str:
    """The name of the vApp in a file, which may be wrong elsewhere. Raises SpecError, UsageError."""
    from vcloud.files import read_vapp_file
    from vcloud.spec.load import parse_only_name

    return parse_only_name(read_vapp_file(path), str(path), parameters)


def design_of(vapp: Vapp, label: str = "") -> Design:
    """The design of a vApp, or of the copy of it that has this label.

    Raises:
        RefusedError: this release cannot enforce something in the file.
        ImageError: an image recipe cannot be read.
        SpecError: an image recipe has problems, or its disks do not fit those of the file.
    """
    from vcloud.data import images_dir
    from vcloud.design.names import Instance
    from vcloud.design.resolve import RecipeFacts, resolve
    from vcloud.images.recipe import load_recipe
    from vcloud.spec.check import mount_problems
    from vcloud.spec.refuse import refusals

    if problems := refusals(vapp):
        raise RefusedError(problems)
    folders = {vm.image_folder for vm in vapp.vms.values() if vm.image_folder}
    recipes = {folder: load_recipe(Path(folder)) for folder in sorted(folders)}
    if outside := tuple(_outside_bases(vapp, recipes.values())):
        raise SpecError(outside)
    if mounted := tuple(
        mount_problems(vapp, {folder: recipe.disks for folder, recipe in recipes.items()})
    ):
        raise SpecError(mounted)
    appliances = {role: str(images_dir() / role) for role in (Role.FIREWALL, Role.IPS)}
    return resolve(
        vapp,
        {
            folder: RecipeFacts(recipe.disks, recipe.memory, recipe.reload, recipe.restart)
            for folder, recipe in recipes.items()
        },
        appliances,
        instance=Instance(vapp.name, label),
    )


def _outside_bases(vapp: Vapp, recipes: Iterable[Recipe]) -> Iterator[Problem]:
    """What is wrong with the bases that recipes name by their folders: they may lie only where the
    vApp's own images may.
    """
    from vcloud.files import beside
    from vcloud.spec.check import outside_image

    around = beside(Path(vapp.file))
    for recipe in recipes:
        above = recipe
        while above.base is not None:
            if not around.allows_image(str(above.base.folder)):
                what, hint = outside_image(str(above.base.folder))
                yield Problem(str(above.folder / "image.yaml"), 0, "base", what, hint)
            above = above.base
