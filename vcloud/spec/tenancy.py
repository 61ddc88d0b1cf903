"""Checks the labels and the section `tenancy` of a vApp file for contradictions, and for texts that
the hook of a host would refuse to read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from vcloud.errors import Problem
from vcloud.spec.model import Share, Vapp
from vcloud.tenancy import LONGEST, MOST

MOST_LETTERS = 8000
"""Letters of all labels and rules of tenancy together. The XML of a domain holds them, and must fit
into the 64 KiB head of a saved memory.
"""


class At(Protocol):
    """Makes a problem of a path, what is wrong there, and a hint."""

    def __call__(self, path: str, what: str, hint: str = "") -> Problem: ...

    def is_sound(self, *paths: str) -> bool:
        """Whether nothing was refused at these paths or below."""


def tenancy_problems(vapp: Vapp, at: At) -> Iterator[Problem]:
    """What is wrong with the labels of a vApp, and with its section `tenancy`."""
    yield from _label_problems(vapp, at)
    yield from _size_problems(vapp, at)
    if (written := vapp.tenancy) is None:
        return
    for name, selectors in (("with", written.together), ("never", written.never)):
        if selectors and written.share is not Share.LABELLED:
            what = f"'{name}' has no meaning with share: {written.share.value}"
            yield at(f"tenancy.{name}", what, f"Write share: labelled, or remove '{name}'.")
        for number, selector in enumerate(selectors):
            path = f"tenancy.{name}[{number}]"
            if not selector and at.is_sound(path):
                what = "this entry names no label, so it would mean every vApp"
                yield at(path, what, "Write a label, or share: dedicated to share with none.")
            for key, value in selector.items():
                yield from _length_problems(f"{path}.{key}", key, value, at)
    for number, name in enumerate(written.remember):
        if name not in written.conflicts and at.is_sound("tenancy.conflicts"):
            what = f"'{name}' is not one of the vApp's conflict classes"
            yield at(f"tenancy.remember[{number}]", what, f"Write conflicts: [{name}], too.")
    for number, selector in enumerate(written.together):
        if any(one.items() <= selector.items() for one in written.never if one):
            what = "'never' refuses all vApps that have these labels"
            yield at(f"tenancy.with[{number}]", what, "Remove one of the two.")


def _size_problems(vapp: Vapp, at: At) -> Iterator[Problem]:
    written = vapp.tenancy
    selectors = (*written.together, *written.never) if written else ()
    classes = written.conflicts if written else ()
    sizes = {
        "labels": (len(vapp.labels), MOST - 1),
        "tenancy.with": (len(written.together) if written else 0, MOST),
        "tenancy.never": (len(written.never) if written else 0, MOST),
        "tenancy.conflicts": (len(classes), MOST),
    }
    for path, (size, most) in sizes.items():
        if size > most:
            yield at(path, f"this has {size} entries; the maximum is {most}", "Write fewer.")
    texts = [text for one in (vapp.labels, *selectors) for pair in one.items() for text in pair]
    if (letters := sum(map(len, (*texts, *classes)))) > MOST_LETTERS:
        what = f"the labels of the vApp and its rules of tenancy have {letters} letters together"
        yield at("tenancy" if written else "labels", what, f"Write at most {MOST_LETTERS}.")


def _label_problems(vapp: Vapp, at: At) -> Iterator[Problem]:
    yield from _length_problems("owner", "owner", vapp.owner, at)
    for key, value in vapp.labels.items():
        yield from _length_problems(f"labels.{key}", key, value, at)
    if vapp.owner and vapp.labels.get("owner", vapp.owner) != vapp.owner:
        what = f"this differs from owner: {vapp.owner}, which other vApps also see as the label 'owner'"
        yield at("labels.owner", what, "Remove this label, or write the same owner.")


def _length_problems(path: str, key: str, value: str, at: At) -> Iterator[Problem]:
    if max(len(key), len(value)) > LONGEST:
        yield at(path, f"this has more than {LONGEST} letters", "Write a shorter text.")
