"""On which hosts a vApp may run, and beside whom: the rules of its file, as the design holds them."""

from __future__ import annotations

from vcloud.design.model import NO_DEMANDS, Tenancy
from vcloud.design.origin import file_line
from vcloud.design.placement import (
    FORBID,
    HOSTS,
    REQUIRE,
    HostRule,
    PlacementRules,
    Preference,
    RuleKind,
    rule_field,
)
from vcloud.spec import model as spec


def tenancy_of(vapp: spec.Vapp) -> Tenancy:
    """The rules for those beside the vApp."""
    written = vapp.tenancy
    if written is None:
        return NO_DEMANDS
    return Tenancy(
        share=written.share.value,
        together=tuple(tuple(sorted(one.items())) for one in written.together),
        never=tuple(tuple(sorted(one.items())) for one in written.never),
        conflicts=written.conflicts,
        remembered=written.remember,
        origin=file_line(vapp.file, vapp.line_of("tenancy")),
    )


def placement_of(vapp: spec.Vapp) -> PlacementRules:
    """The rules for the host of the vApp."""
    written = vapp.placement
    required = (_rule(vapp, REQUIRE, *one) for one in written.require.items())
    forbidden = (_rule(vapp, FORBID, *one) for one in written.forbid.items())
    rules = [*required, *forbidden]
    if written.hosts:
        rules.insert(0, _rule(vapp, HOSTS, "", written.hosts))
    return PlacementRules(
        tuple(rules),
        tuple(Preference(label, values) for label, values in written.prefer.items()),
        written.strategy.value,
    )


def _rule(vapp: spec.Vapp, kind: RuleKind, label: str, values: tuple[str, ...]) -> HostRule:
    line = vapp.line_of(rule_field(kind, label))
    return HostRule(kind, label, values, file_line(vapp.file, line))
