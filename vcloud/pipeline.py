"""From a vApp file on disk to its design, step by step: load the file, refuse what cannot be
enforced, load the recipes, resolve.

The steps themselves are pure. This module reads the files that they need. It imports late, because
most commands need a part only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from vcloud.design.model import Design, Role
from vcloud.errors import Problem, RefusedError, SpecError
from vcloud.spec.model import Vapp

if TYPE_CHECKING:
    from vcloud.design.controls import Controls
    from vcloud.documents.given import Given
    from vcloud.images.recipe import Recipe
    from vcloud.profiles.harden import Hardened


def load_file(path: Path, parameters: Given, *, secrets: bool = True, called: str = "") -> Vapp:
    """The vApp of a file (`-` is stdin). `parameters` override its defaults, `called` its name.
    `secrets` is as in `parse_vapp`.

    Raises:
        SpecError: the file has problems; it has all of them.
        UsageError: the file cannot be read.
    """
    from vcloud.files import STDIN, beside, read_vapp_file
    from vcloud.spec.load import parse_vapp

    name = "stdin" if str(path) == STDIN else str(path)
    vapp = parse_vapp(
        read_vapp_file(path), beside(path), name, parameters, secrets=secrets, name=called
    )
    if any(any(flow.prefixes) for flow in vapp.flows):
        from vcloud.design.inner import inner_prefixes

        if problems := tuple(inner_prefixes(vapp)):
            raise SpecError(problems)
    return vapp


def read_name(path: Path, parameters: Given | None = None) -> str:
    """The name of the vApp in a file, which may be wrong elsewhere. Raises SpecError, UsageError."""
    from vcloud.files import read_vapp_file
    from vcloud.spec.load import parse_only_name

    return parse_only_name(read_vapp_file(path), str(path), parameters)


def today() -> date:
    """The day on which profiles are read if no other is given: that in UTC."""
    return datetime.now(UTC).date()


def secured(vapp: Vapp, day: date | None = None, instead: Iterable[str] = ()) -> Hardened | None:
    """What the vApp's profiles mean for it on a day (None: today); None if it has none. `instead` is
    as in `vcloud.profile_files.hardened`.

    Raises:
        SpecError: a profile does not exist or has problems.
    """
    if not vapp.protection.profiles and not vapp.protection.exceptions and not instead:
        return None
    from vcloud.profile_files import hardened

    return hardened(vapp, day or today(), instead)


def checked_file(
    path: Path, parameters: Given, day: date | None = None
) -> tuple[Vapp, Hardened | None]:
    """The vApp of a file, and what its profiles mean for it; see `load_file` and `secured`. Raises
    SpecError also where the file breaks a control.
    """
    vapp = load_file(path, parameters)
    found = secured(vapp, day)
    if found and found.problems:
        raise SpecError(found.problems)
    return vapp, found


def controls_in(found: Hardened | None) -> Controls:
    """The profiles that count, as a design holds them."""
    from vcloud.design.controls import NO_CONTROLS, controls_of

    return controls_of(found.hardening) if found else NO_CONTROLS


def design_of(
    vapp: Vapp, label: str = "", day: date | None = None, instead: Iterable[str] = ()
) -> Design:
    """The design of a vApp, or of the copy of it that has this label. `day` and `instead` are as in
    `secured`.

    Raises:
        RefusedError: this release cannot enforce something in the file or in a profile.
        ImageError: an image recipe cannot be read.
        SpecError: the file breaks a control of a profile, an image recipe has problems, or its
            disks do not fit those of the file.
    """
    from vcloud.data import images_dir
    from vcloud.design.names import Instance
    from vcloud.design.resolve import RecipeFacts, resolve
    from vcloud.images.recipe import load_recipe
    from vcloud.profiles.model import NOTHING
    from vcloud.spec.check import mount_problems
    from vcloud.spec.refuse import refusals

    found = secured(vapp, day, instead)
    if found and found.problems:
        raise SpecError(found.problems)
    if problems := (*refusals(vapp), *(found.refusals if found else ())):
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
        hardening=found.hardening if found else NOTHING,
    )


def _outside_bases(vapp: Vapp, recipes: Iterable[Recipe]) -> Iterator[Problem]:
    """What is wrong with the bases that recipes name by their folders: they may lie only where the
    vApp's own images may.
    """
    from vcloud.files import beside
    from vcloud.spec.images import outside_image

    around = beside(Path(vapp.file))
    for recipe in recipes:
        above = recipe
        while above.base is not None:
            if not around.allows_image(str(above.base.folder)):
                what, hint = outside_image(str(above.base.folder))
                yield Problem(str(above.folder / "image.yaml"), 0, "base", what, hint)
            above = above.base
