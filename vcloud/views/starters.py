"""The shipped vApps that `vcloud init` starts a user from."""

from __future__ import annotations

import re

from vcloud.data import templates_dir
from vcloud.errors import UsageError


def starter_names() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in (templates_dir() / "vapps").glob("*.yaml")))


def starter_text(starter: str, name: str) -> str:
    """The text of a starter file, with the vApp called `name` if one is given.

    Raises UsageError for an unknown starter file or a bad name.
    """
    if starter not in starter_names():
        raise UsageError(
            f"no starter file is called '{starter}'", f"There are: {', '.join(starter_names())}."
        )
    text = (templates_dir() / "vapps" / f"{starter}.yaml").read_text()
    if not name:
        return text
    from vcloud.spec.types import parse_name

    return re.sub(r"^name: .*$", f"name: {parse_name(name)}", text, count=1, flags=re.MULTILINE)
