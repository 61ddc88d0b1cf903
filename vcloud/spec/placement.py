"""What a file must not say of placement: rules that no host can meet, whatever the hosts are."""

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
            "placement.hosts", "it names no host", "Name hosts of the inventory, or remove it."
        )
    for name in ("require", "forbid", "prefer"):
        labels: Mapping[str, tuple[str, ...]] = getattr(written, name)
        for label, values in labels.items():
            yield from _value_problems(dotted(f"placement.{name}", label), label, values, at)
    for label, values in written.require.items():
        refused = set(written.forbid.get(label, ()))
        if values and refused.issuperset(values):
            what = "'require' asks for this label, and every value of it is forbidden here"
            yield at(dotted("placement.forbid", label), what, "Remove one of the two.")


def _value_problems(path: str, label: str, values: tuple[str, ...], at: At) -> Iterator[Problem]:
    if not values and at.is_sound(path):
        yield at(path, "it has no value", f"Write one, such as {label}: eu.")
    possible = HOST_FACTS.get(label, ())
    for value in values if possible else ():
        if value not in possible:
            what = f"'{value}' is no value of '{label}', which vcloud reads from the host"
            yield at(path, what, nearest(value, possible, "value"))
