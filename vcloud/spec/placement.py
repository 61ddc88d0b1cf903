"""Checks the section `placement` of a vApp file: no rule may exclude every possible host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vcloud.documents.document import dotted
from vcloud.documents.field import nearest
from vcloud.errors import Problem
from vcloud.spec.model import Vapp
from vcloud.spec.tenancy import At
from vcloud.values import HOST_FACTS


def placement_problems(vapp: Vapp, at: At) -> Iterator[Problem]:
    """What is wrong with the section `placement` of a vApp."""
    written = vapp.placement
    if "hosts" in written.model_fields_set and not written.hosts and at.is_sound("placement.hosts"):
        yield at(
            "placement.hosts",
            "this names no host",
            "Name hosts of the inventory, or remove the key.",
        )
    for name in ("require", "forbid", "prefer"):
        labels: Mapping[str, tuple[str, ...]] = getattr(written, name)
        for label, values in labels.items():
            yield from _value_problems(dotted(f"placement.{name}", label), label, values, at)
    for label, values in written.require.items():
        refused = set(written.forbid.get(label, ()))
        if values and refused.issuperset(values):
            what = (
                "'require' asks for this label, but 'forbid' excludes every value that it asks for"
            )
            yield at(dotted("placement.forbid", label), what, "Remove one of the two.")


def _value_problems(path: str, label: str, values: tuple[str, ...], at: At) -> Iterator[Problem]:
    if not values and at.is_sound(path):
        yield at(path, "this label has no value", f"Write one, such as {label}: eu.")
    possible = HOST_FACTS.get(label, ())
    for value in values if possible else ():
        if value not in possible:
            what = f"vcloud reads '{label}' from the host, and it is never '{value}'"
            yield at(path, what, nearest(value, possible, "value"))
