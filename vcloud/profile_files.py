"""Reads the files of profiles: the shipped ones, and a user's own folder, which has a file for each
version.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from datetime import date
from pathlib import Path

from vcloud.data import shipped_profiles
from vcloud.documents.field import FieldError
from vcloud.errors import Problem, SpecError, UsageError
from vcloud.files import Folder, beside
from vcloud.profiles.choose import Chosen, Known, Named, chosen
from vcloud.profiles.harden import Hardened, harden
from vcloud.profiles.model import Profile
from vcloud.profiles.written import parse_profile
from vcloud.spec.model import Vapp


@functools.cache
def shipped() -> Known:
    """The profiles that vcloud ships, by name, each version after those before it."""
    return _by_name(parse_profile(path.read_bytes(), path.name) for path in shipped_profiles())


def own_profile(folder: Folder, path: str) -> tuple[Profile, ...]:
    """The versions of a user's profile. `path` is relative to the folder and stays below it.

    Raises:
        SpecError: a file has problems, or the files are not of one profile.
        UsageError: there is no such folder, or it has no profile.
    """
    names = folder.yaml_files(path)
    if not names:
        raise UsageError(
            f"'{path}' is no folder with a profile",
            "Write the path of a folder that has a YAML file for each version of the profile.",
        )
    problems: list[Problem] = []
    found: list[tuple[str, Profile]] = []
    for name in names:
        try:
            found.append((name, parse_profile(folder.content(name), name)))
        except SpecError as error:
            problems += error.problems
        except FieldError as error:
            problems.append(Problem(name, 0, "", error.what, error.hint))
    seen: dict[str, str] = {}
    for name, profile in found:
        if profile.name != found[0][1].name:
            what = f"this is '{profile.name}', and {found[0][0]} is '{found[0][1].name}'"
            problems.append(Problem(name, 0, "profile", what, "Use one folder for each profile."))
        if profile.name in shipped():
            what = f"vcloud ships a profile '{profile.name}'"
            problems.append(Problem(name, 0, "profile", what, "Give it another name."))
        if profile.version in seen:
            what = f"{seen[profile.version]} is version '{profile.version}', too"
            problems.append(Problem(name, 0, "version", what, "Give one of them another version."))
        seen.setdefault(profile.version, name)
    if problems:
        raise SpecError(tuple(problems))
    return tuple(_sorted(profile for _, profile in found))


def known_beside(folder: Folder, names: Iterable[str]) -> Known:
    """The shipped profiles, and those that the names mean in the folder."""
    own = {name.partition("@")[0] for name in names if name.startswith("./")}
    return {**shipped(), **{name: own_profile(folder, name) for name in sorted(own)}}


def hardened(vapp: Vapp, day: date, instead: Iterable[str] = ()) -> Hardened:
    """What the profiles of a vApp mean for it on a day. `instead` are profiles that count in place of
    those of the same name, and together with the others.

    Raises:
        SpecError: a profile has problems, or the file names one that does not exist.
    """
    given = {name.partition("@")[0]: name for name in instead}
    written = [text for text in vapp.protection.profiles if text.partition("@")[0] not in given]
    paths = {text: index for index, text in enumerate(vapp.protection.profiles)}
    names = [
        _named(vapp, text, f"protection.profiles[{paths[text]}]" if text in paths else "")
        for text in (*written, *given.values())
    ]
    try:
        known = known_beside(beside(Path(vapp.file)), (one.text for one in names))
    except UsageError as error:
        path = "protection.profiles"
        problem = Problem(vapp.file, vapp.line_of(path), path, error.what, error.hint)
        raise SpecError((problem,)) from None
    found, problems = chosen(names, known, day)
    if problems:
        raise SpecError(problems)
    return harden(vapp, found, day)


def chosen_on(names: Iterable[str], known: Known, day: date) -> tuple[Chosen, ...]:
    """The versions that count for names from the command line. Raises UsageError."""
    found, problems = chosen([Named(name, "", 0, "") for name in names], known, day)
    if problems:
        raise UsageError(problems[0].what, problems[0].hint)
    return found


def _named(vapp: Vapp, text: str, path: str) -> Named:
    return Named(text, vapp.file, vapp.line_of(path) if path else 0, path)


def _by_name(profiles: Iterable[Profile]) -> Known:
    found: dict[str, tuple[Profile, ...]] = {}
    for profile in _sorted(profiles):
        found[profile.name] = (*found.get(profile.name, ()), profile)
    return dict(sorted(found.items()))


def _sorted(profiles: Iterable[Profile]) -> list[Profile]:
    return sorted(profiles, key=lambda one: (one.begins, one.version))
