"""The rules that say on which hosts a vApp may run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from vcloud.design.origin import Origin
from vcloud.documents.document import dotted

RuleKind = Literal["hosts", "require", "forbid"]
HOSTS: Final = "hosts"
REQUIRE: Final = "require"
FORBID: Final = "forbid"
PACK: Final = "pack"


def rule_field(kind: RuleKind, label: str) -> str:
    """The path of a rule in a vApp file; `label` is empty for `hosts`."""
    return dotted(f"placement.{kind}", label) if label else f"placement.{kind}"


@dataclass(frozen=True, slots=True)
class HostRule:
    """A rule for the host of the vApp. The vApp cannot run on a host that breaks the rule."""

    kind: RuleKind
    label: str
    """The host's label that the rule is about; empty for `hosts`."""
    values: tuple[str, ...]
    """`hosts`: the host is one of these. `require`: the label has one of these values. `forbid`: it
    has none of them.
    """
    origin: Origin
    path: str = ""
    """Its path in a vApp file, where it follows from a key of another section than `placement`."""

    @property
    def field(self) -> str:
        """The path of the rule in a vApp file."""
        return self.path or rule_field(self.kind, self.label)


@dataclass(frozen=True, slots=True)
class Preference:
    """A label that the host of the vApp should have, if a host with this label can run the vApp."""

    label: str
    values: tuple[str, ...]
    """The label should have one of these values."""


@dataclass(frozen=True, slots=True)
class PlacementRules:
    """All rules and preferences for the host of a vApp."""

    rules: tuple[HostRule, ...] = ()
    prefer: tuple[Preference, ...] = ()
    strategy: Literal["spread", "pack"] = "spread"
    """Which of several hosts with equal preferences is taken: the one with most free memory
    (spread), or with least (pack).
    """


ANYWHERE = PlacementRules()
