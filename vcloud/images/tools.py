"""Checks that this machine can build images: it needs some programs, and user namespaces."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from vcloud.errors import ImageError
from vcloud.images.ids import Ids, own_ids
from vcloud.images.jail import BUILD, FailedCommandError, Jail
from vcloud.programs import find_program

TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "qemu-img": "qemu-utils",
    "musl-gcc": "musl-tools linux-libc-dev",
    "zstd": "zstd",
    "setpriv": "util-linux",
}
"""Programs that a build needs -> the Debian packages that contain them."""
MAPPERS = {"newuidmap": "uidmap", "newgidmap": "uidmap"}
"""Programs that map the users of a build. Root does not need them."""


def missing_tools() -> dict[str, str]:
    """The programs that a build needs and that this machine lacks -> the Debian packages that
    contain them.
    """
    needed = TOOLS if os.geteuid() == 0 else TOOLS | MAPPERS
    return {
        program: package for program, package in needed.items() if find_program(program) is None
    }


def check_machine() -> Ids:
    """The ids of the users of a build. Raises ImageError, with the way out, if this machine or this
    user cannot build.
    """
    if missing := missing_tools():
        packages = " ".join(sorted(set(missing.values())))
        who = "Run" if os.geteuid() == 0 else "An administrator runs"
        raise ImageError(
            f"building an image needs programs that are not installed: {', '.join(sorted(missing))}",
            f"{who}: apt-get install {packages}",
        )
    return own_ids()


def building() -> tuple[str, str]:
    """Tries whether this user can build images, with an empty build. Returns the user that a build
    runs as, and an empty text; or why a build is not possible, and the way out.
    """
    try:
        ids = own_ids()
        with tempfile.TemporaryDirectory() as folder:
            jail = Jail.make(Path(folder, BUILD), ids)
            jail.run(["true"])
            jail.remove()
    except ImageError as error:
        return error.what, error.hint
    except FailedCommandError as error:
        return "a program cannot run in the namespaces of a build", " ".join(error.lines)
    return (
        f"root of a build is the user {ids.users} on this machine, who has no rights here",
        "",
    )
