"""Chooses the build of its image that a VM is made from.

A recipe names the packages of an image, but not their versions. So two builds of one recipe differ,
and a later build has the security updates of its day. A VM keeps the build that it was
made from until its recipe changes, or until there is a later build with other packages. Another
operator's own build of the same recipe, with the same packages or an older one, is no reason to
make a VM anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date

from vcloud.design.model import Design, Vm
from vcloud.packages import package_changes, told
from vcloud.plan.manifest import Manifest, VmImage

OLD_DAYS = 30
"""Days. A note says of an image that is older that it is old."""


def chosen_image(
    recipe: str, standing: VmImage | None, cached: VmImage | None, *, renew: bool = False
) -> VmImage:
    """The build that a VM should have.

    Args:
        recipe: the digest of the VM's recipe of today, or of its qcow2.
        standing: the build that the VM was made from; None if the VM does not exist.
        cached: the build in this machine's cache; None if there is none.
        renew: the cached build was made just now. It is also taken if the packages of the standing
            build are not known.

    Of a build that is not made yet, only the recipe is known.
    """
    if standing is None or standing.recipe != recipe:
        return cached or VmImage(recipe)
    if cached is None or not _supersedes(cached, standing, renew=renew):
        return standing
    return cached


def _supersedes(cached: VmImage, standing: VmImage, *, renew: bool) -> bool:
    if not standing.packages:
        return renew and cached.content != standing.content
    # With `renew` the cached build is from today. If the other one claims a later day, the clock of
    # the machine that built it was wrong.
    return cached.packages != standing.packages and (renew or cached.built > standing.built)


def standing_image(vm: Vm, recipe: str, standing: Manifest | None) -> VmImage | None:
    """The build that a VM was made from. For a new VM: the latest build of the same recipe that
    another VM of the vApp was made from.
    """
    if standing is None:
        return None
    if own := standing.image_of(vm.name):
        return own
    others = [image for _, image in standing.images if image.recipe == recipe]
    return max(others, key=lambda image: (image.built, image.content), default=None)


def built_anew(
    wanted: VmImage, standing: VmImage | None, packages: Mapping[str, Sequence[str]]
) -> str:
    """Why a VM is made anew although its recipe did not change. Empty if the recipe changed.

    `packages` holds all known lists of packages, by their digests.
    """
    if standing is None or standing.recipe != wanted.recipe:
        return ""
    if standing.packages == wanted.packages:
        return ""
    old, new = (packages.get(image.packages, ()) for image in (standing, wanted))
    what = told(package_changes(old, new)) if old and new else "its packages differ"
    of = f", of {wanted.built[:10]}" if wanted.built else ""
    before = f" in place of {standing.built[:10]}" if standing.built else ""
    return f"its image was built anew: {what}{of}{before}"


def age_in_days(built: str, now: str) -> int | None:
    """Days from the date of one time to that of another (ISO 8601, in UTC). None if one of them is
    not known.
    """
    try:
        return (date.fromisoformat(now[:10]) - date.fromisoformat(built[:10])).days
    except ValueError:
        return None


def age_notes(
    design: Design,
    images: Mapping[str, VmImage],
    standing: Manifest | None,
    checked: Mapping[str, str],
    now: str,
) -> Iterator[str]:
    """A sentence for each image of a recipe that is old, or whose age is not known.

    `images` maps VMs to the builds that they should have. `checked` maps digests of packages to the
    last time at which these packages were the newest ones. `now` is a time in UTC (ISO 8601).
    """
    vms: dict[tuple[str, VmImage], list[str]] = {}
    for vm in design.vms:
        if vm.image.recipe:
            vms.setdefault((vm.image.name, images[vm.name]), []).append(vm.name)
    for (name, image), names in vms.items():
        what = f"the image {name} of {', '.join(names)}"
        if found := _age_note(image, checked, now):
            yield f"{what} {found}"
        # Two kinds of builds have no known content: those that are not made yet, and those of
        # earlier releases. Only of the latter a VM exists.
        elif not image.content and standing and standing.image_of(names[0]) == image:
            yield (
                f"the age of {what} is not known, because an earlier release of vcloud made it; "
                "`vcloud up --refresh` makes it anew with the packages of today"
            )


def _age_note(image: VmImage, checked: Mapping[str, str], now: str) -> str:
    days = age_in_days(max(image.built, checked.get(image.packages, "")), now)
    if days is None or days <= OLD_DAYS:
        return ""
    return (
        f"is {days} days old (of {image.built[:10]}); `vcloud image refresh` builds it with the "
        "packages of today, and `vcloud up` then brings it to the VMs"
    )
