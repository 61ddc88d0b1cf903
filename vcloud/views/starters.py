"""The shipped vApps that `vcloud init` starts a user from."""

from __future__ import annotations

import re

from vcloud.data import templates_dir
from vcloud.errors import UsageError


def template_names() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in (templates_dir() / "vapps").glob("*.yaml")))


def template_text(template: str, name: str) -> str:
    """The text of a template, with the vApp called `name` if one is given. Raises UsageError for an unknown template or a bad name."""
    if template not in template_names():
        raise UsageError(f"no template is called '{template}'", f"There are: {', '.join(template_names())}.")
    text = (templates_dir() / "vapps" / f"{template}.yaml").read_text()
    if not name:
        return text
    from vcloud.spec.types import parse_name

    return re.sub(r"^name: .*$", f"name: {parse_name(name)}", text, count=1, flags=re.MULTILINE)
