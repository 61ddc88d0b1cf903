"""What the checks of a value need to know besides the value: the names in its file, and the files
in its folder.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from vcloud.documents.document import Node, mapping_or_empty
from vcloud.documents.field import FieldError, Suggestions
from vcloud.spec.types import flow_id, parse_services

APPLIANCES: Final = frozenset({"appliance", "firewall", "ips"})
"""Shipped recipes that a VM of a vApp file cannot use."""


class Beside(Protocol):
    """The files in the folder of a vApp file. This package reads no files itself; `vcloud.files`
    implements this protocol for a folder.
    """

    @property
    def recipes(self) -> frozenset[str]:
        """The names of the shipped image recipes."""

    def recipe_path(self, name: str) -> str:
        """The absolute path of a shipped recipe's folder."""

    def path(self, relative: str) -> str:
        """The absolute path of something that the file names by a relative or absolute path."""

    def is_file(self, path: str) -> bool:
        """Whether an absolute path leads to a regular file."""

    def allows_image(self, path: str) -> bool:
        """Whether a vApp file may take an image from an absolute path. Somebody else's vApp file
        must not put other files of this machine into a guest.
        """

    def disk_size(self, path: str) -> int:
        """The size in bytes of the disk in the qcow2 at an absolute path; 0 if it is not known."""

    def content(self, source: str) -> bytes:
        """The content of a file in the vApp file's folder. Raises FieldError."""

    def secret(self, path: str) -> bytes:
        """The content of a file that holds a secret. Raises FieldError."""

    def variable(self, name: str) -> str:
        """The value of an environment variable that the operator lets vApp files read. Raises
        FieldError.
        """


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The names that a file declares, and the files in its folder. It is the context of pydantic's
    validation.
    """

    zones: frozenset[str]
    vms: frozenset[str]
    flows: frozenset[str]
    disks: frozenset[str]
    """As `db.data`."""
    recipes: frozenset[str]
    beside: Beside
    suggestions: Suggestions = field(default_factory=Suggestions, compare=False)


def surroundings_of(tree: Node, beside: Beside) -> Surroundings:
    """The surroundings of a file's values.

    A name that is declared in a wrong way counts as declared, so that a reference to it is not
    reported too.
    """
    vms = mapping_or_empty(tree.get("vms"))
    disks = (
        (vm, disk)
        for vm, written in vms.items()
        for disk in mapping_or_empty(mapping_or_empty(written).get("disks"))
    )
    return Surroundings(
        zones=frozenset(_names(tree.get("zones"))),
        vms=frozenset(_names(tree.get("vms"))),
        flows=frozenset(_flow_ids(tree.get("flows"))),
        disks=frozenset(f"{vm}.{disk}" for vm, disk in disks),
        recipes=beside.recipes - APPLIANCES,
        beside=beside,
    )


def _names(declared: object) -> Iterator[str]:
    """The names of a mapping, or those of a list, which some users write in its place."""
    if isinstance(declared, Node):
        yield from declared
    elif isinstance(declared, list):
        for item in declared:
            yield from [item] if isinstance(item, str) else mapping_or_empty(item)


def _flow_ids(flows: object) -> Iterator[str]:
    for flow in map(mapping_or_empty, flows if isinstance(flows, list) else ()):
        if "id" in flow:
            yield str(flow["id"])
            continue
        services = flow.get("service")
        try:
            parsed = map(parse_services, services if isinstance(services, list) else [services])
            yield flow_id(flow.get("from"), flow.get("to"), [*itertools.chain(*parsed)])
        except FieldError:
            continue
