"""Reads the bytes of a vApp file into a `Vapp`, or reports all of its problems at once."""

from __future__ import annotations

from typing import Final

from vcloud.documents.document import Document, Node, mapping_or_empty
from vcloud.documents.field import FieldError
from vcloud.documents.given import GIVEN, Given
from vcloud.documents.model import Kind, read_model, salvaged
from vcloud.documents.parameters import fill_in
from vcloud.documents.reader import read_document
from vcloud.errors import Problem, SpecError
from vcloud.spec.check import problems_of
from vcloud.spec.foreign import refuse_foreign
from vcloud.spec.model import Vapp
from vcloud.spec.secrets import VappSecrets
from vcloud.spec.surroundings import Beside, Surroundings, surroundings_of
from vcloud.spec.types import parse_name

VAPP_FILE: Final = Kind(Vapp, "vcloud: 1", "vcloud init writes one to start from.")


def parse_vapp(
    data: bytes,
    beside: Beside,
    file: str = "vapp.yaml",
    parameters: Given | None = None,
    *,
    secrets: bool = True,
    name: str = "",
) -> Vapp:
    """The vApp that the bytes of a file describe. `file` is the name of the file in messages.
    `beside` gives access to the folder of the file. Without `secrets`, none is read: `(secret)`
    stands for each. `name` is used in place of the name that the file gives.

    Raises:
        SpecError: the file has problems; the error carries all of them.
    """

    def prepare(document: Document) -> Surroundings:
        document.tree = _without_extensions(document.tree)
        fill_in(document, parameters or {}, VappSecrets(beside, needed=secrets))
        if name:
            document.tree["name"] = name
        return surroundings_of(document.tree, beside)

    refuse_foreign(data, file)
    reading = read_model(data, file, VAPP_FILE, prepare)
    problems = set(reading.problems)
    vapp = salvaged(reading, _stand_in)
    if vapp is not None:
        document = reading.document
        wrong = {problem.field for problem in problems} | document.refused
        problems |= set(problems_of(vapp.locate(document), beside, wrong))
    if problems or vapp is None:
        raise SpecError(tuple(problems))
    return vapp


def parse_only_name(data: bytes, file: str, parameters: Given | None = None) -> str:
    """The name of the vApp in a file. Other parts of the file may be wrong, but the given
    parameters must be right.

    Raises:
        SpecError: the name is missing or wrong, a parameter is wrong, or the file is not readable
            at all.
    """
    refuse_foreign(data, file)
    document = read_document(data, file, example=VAPP_FILE.example, origin=VAPP_FILE.origin)
    fill_in(document, parameters or {})
    wrong = tuple(
        problem
        for problem in document.problems
        if problem.field == "name" or problem.field.startswith(GIVEN) or problem.file != file
    )
    if wrong:
        raise SpecError(wrong)
    try:
        return parse_name(document.tree.get("name"))
    except FieldError as error:
        raise SpecError(
            (Problem(file, document.lines.get("name", 0), "name", error.what, error.hint),)
        ) from None


def _without_extensions(tree: Node) -> Node:
    """The tree without its keys `x-...`, which belong to other tools."""
    kept = Node(tree.position)
    kept.update((key, value) for key, value in tree.items() if not key.startswith("x-"))
    return kept


def _stand_in(tree: Node) -> None:
    """Puts harmless values in place of required ones that were removed, so that the rest can still
    be checked.
    """
    tree.setdefault("vcloud", 1)
    tree.setdefault("name", "unnamed")
    zones = list(mapping_or_empty(tree.get("zones")))
    for vm in filter(None, map(mapping_or_empty, mapping_or_empty(tree.get("vms")).values())):
        vm.setdefault("image", "base")
        vm.setdefault("zone", zones)
