"""The one jinja2 environment. Templates hold layout. Python decides and checks what they print."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from vcloud.data import templates_dir


def render(template: str, **values: object) -> str:
    """The text of a template under `templates/`, such as `nftables/firewall.nft.j2`.

    If a value was not passed or is None, that is a bug, and rendering raises an error. So a missing
    value never becomes an empty text in a ruleset.
    """
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(templates_dir()),
        # jinja can escape XML only. Values for nft and Suricata are made harmless before they get
        # here.
        autoescape=select_autoescape(enabled_extensions=("xml.j2",), default=False),
        undefined=StrictUndefined,
        finalize=_not_none,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _not_none(value: object) -> object:
    if value is None:
        raise TypeError("a template was about to print None")
    return value
