"""Reads the rules of tenancy, placement and isolation from a vApp file into the design."""

from __future__ import annotations

from collections.abc import Iterator

from vcloud.design.controls import origin_of
from vcloud.design.isolation import NO_ISOLATION, Isolation
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
from vcloud.profiles.model import NOTHING, Hardening
from vcloud.spec import isolation as demands
from vcloud.spec import model as spec
from vcloud.values import HOST_FACTS, KSM, NONE, OFF, SMT, SVIRT


def tenancy_of(vapp: spec.Vapp) -> Tenancy:
    """The rules for other vApps on the same host."""
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


def placement_of(vapp: spec.Vapp, hardening: Hardening = NOTHING) -> PlacementRules:
    """The rules for the host of the vApp: those of its file, and those of its profiles."""
    written = vapp.placement
    required = (_rule(vapp, REQUIRE, *one) for one in written.require.items())
    forbidden = (_rule(vapp, FORBID, *one) for one in written.forbid.items())
    rules = [*required, *forbidden, *_isolation_rules(vapp)]
    rules += (
        HostRule(REQUIRE, one.label, one.values, origin_of(one.control))
        for one in hardening.host_rules
    )
    if written.hosts:
        rules.insert(0, _rule(vapp, HOSTS, "", written.hosts))
    return PlacementRules(
        tuple(rules),
        tuple(Preference(label, values) for label, values in written.prefer.items()),
        written.strategy.value,
    )


def isolation_of(vapp: spec.Vapp, more: demands.VmIsolation, tier: str) -> Isolation:
    """What a VM demands: what its vApp does, and `more`."""
    written = vapp.isolation
    if not (written.model_fields_set or more.model_fields_set):
        return NO_ISOLATION
    section = f"vms.{tier}.isolation" if more.model_fields_set else "isolation"
    return Isolation(
        own_cpus=bool(written.cpus or more.cpus),
        locked_memory=bool(written.memory or more.memory),
        no_page_sharing=bool(written.page_sharing or more.page_sharing),
        svirt=bool(written.svirt),
        origin=file_line(vapp.file, vapp.line_of(section)),
    )


def _isolation_rules(vapp: spec.Vapp) -> Iterator[HostRule]:
    """What the isolation of a vApp demands of its host, in the same form as `placement.require`."""
    written = vapp.isolation
    drivers = tuple(name for name in HOST_FACTS[SVIRT] if name != NONE)
    for key, demand, values in (
        (SMT, written.smt, (OFF,)),
        (KSM, written.ksm, (OFF,)),
        (SVIRT, written.svirt, drivers),
    ):
        if demand:
            path = f"isolation.{key}"
            line = file_line(vapp.file, vapp.line_of(path))
            yield HostRule(REQUIRE, key, values, line, path)


def _rule(vapp: spec.Vapp, kind: RuleKind, label: str, values: tuple[str, ...]) -> HostRule:
    line = vapp.line_of(rule_field(kind, label))
    return HostRule(kind, label, values, file_line(vapp.file, line))
