"""From a file on disk to a design: the loader, the recipes that the file names, and the refusals, put together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vcloud.design.model import Design, Role
from vcloud.errors import RefusedError, SpecError
from vcloud.spec.model import Vapp


def load_file(path: Path, parameters: Mapping[str, str]) -> Vapp:
    """The vApp of a file. Raises SpecError with all of its problems."""
    from vcloud.spec.load import load_vapp

    return load_vapp(path, parameters)


def design_of(vapp: Vapp) -> Design:
    """The design of a vApp that can be enforced.

    Raises RefusedError for what this release cannot enforce, ImageError for a recipe that cannot be read, SpecError for one that is
    wrong or does not go with the file.
    """
    from vcloud.data import images_dir
    from vcloud.design.resolve import RecipeFacts, resolve
    from vcloud.images.recipe import load_recipe
    from vcloud.spec.check import mount_problems
    from vcloud.spec.refuse import refusals

    if problems := refusals(vapp):
        raise RefusedError(problems)
    folders = {vm.image_folder for vm in vapp.vms.values() if vm.image_folder}
    recipes = {folder: load_recipe(Path(folder)) for folder in sorted(folders)}
    if mounted := tuple(mount_problems(vapp, {folder: recipe.disks for folder, recipe in recipes.items()})):
        raise SpecError(mounted)
    appliances = {role: str(images_dir() / role) for role in (Role.FIREWALL, Role.IPS)}
    return resolve(vapp, {folder: RecipeFacts(recipe.disks, recipe.memory) for folder, recipe in recipes.items()}, appliances)
