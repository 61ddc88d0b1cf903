"""The labels of hosts: what the inventory says of a host, and facts that are read from the host.

A vApp file asks for both in the same words (`placement: {require: {site: eu, smt: "off"}}`). The
facts have names of their own, so that no inventory says of a host what the host does not have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from vcloud.design.model import Design
from vcloud.design.origin import FromFile
from vcloud.design.placement import FORBID, HOSTS, HostRule, PlacementRules
from vcloud.errors import Problem, RefusedError
from vcloud.values import HOST_FACTS, KSM, SMT, SVIRT


@dataclass(frozen=True, slots=True)
class HostLabels:
    """One host, as rules of placement see it."""

    host: str
    labels: Mapping[str, str]
    """The labels of the inventory, and the facts that are known."""
    unknown: frozenset[str] = frozenset()
    """Facts that only `up` can find out. Rules about these are judged then."""


def refuse_rules(design: Design, host: HostLabels, *, stands: bool = False) -> None:
    """Raises RefusedError where the host breaks rules of placement. `stands`: the vApp is there
    already.
    """
    if problems := tuple(_problems(design, host, stands=stands)):
        raise RefusedError(problems)


def broken_rules(rules: PlacementRules, host: HostLabels) -> Iterator[tuple[HostRule, str]]:
    """The rules that the host breaks, each with a sentence without an end that says how. What is
    unknown of a host breaks no rule.
    """
    for rule in rules.rules:
        if rule.kind == HOSTS:
            if host.host not in rule.values:
                yield rule, f"{host.host} is not {_one_of(rule.values)}"
            continue
        if rule.label in host.unknown:
            continue
        found = host.labels.get(rule.label)
        if rule.kind == FORBID:
            if found is None and rule.label in HOST_FACTS:
                what = f"nobody knows whether {host.host} has {rule.label}={rule.values[0]}, which the vApp forbids"
                yield rule, what
            elif found in rule.values:
                yield rule, f"{host.host} has {rule.label}={found}, which the vApp forbids"
        elif found not in rule.values:
            has = f"{rule.label}={found}" if found is not None else f"no label '{rule.label}'"
            yield rule, f"{host.host} has {has}, and {rule.label} must be {_one_of(rule.values)}"


def preferred(rules: PlacementRules, host: HostLabels) -> int:
    """How many of the preferred labels the host has."""
    return sum(host.labels.get(one.label) in one.values for one in rules.prefer)


def _problems(design: Design, host: HostLabels, *, stands: bool) -> Iterator[Problem]:
    for rule, what in broken_rules(design.placement, host):
        line = rule.origin.line if isinstance(rule.origin, FromFile) else 0
        by = "" if line else f" ({rule.origin})"
        hint = _STANDS.format(vapp=design.instance.name) if stands else _way_out(rule, host)
        if rule.path:
            hint = f"{_CHANGE_HOST[rule.label]} {'' if stands else 'Or choose another host.'}"
        yield Problem(design.file, line, rule.field if line else "", what + by, hint.rstrip())


_STANDS = (
    "The vApp stands there. Take the rule back. Or remove the vApp, with its data disks "
    "(vcloud down {vapp}), and bring it up on another host."
)


_CHANGE_HOST: Final[Mapping[str, str]] = {
    SMT: "On that host, as root: echo off >/sys/devices/system/cpu/smt/control.",
    KSM: "On that host, as root: echo 2 >/sys/kernel/mm/ksm/run. It also takes merged pages apart.",
    SVIRT: "On that host, switch AppArmor or SELinux on, and let libvirt use it: security_driver in /etc/libvirt/qemu.conf.",
}
"""Fact that a vApp demands in its section `isolation` -> what gives it to the host."""


def _way_out(rule: HostRule, host: HostLabels) -> str:
    if rule.kind == HOSTS:
        return "Write the names of hosts as in the inventory."
    if rule.label in HOST_FACTS:
        return "vcloud reads this from the host. Choose another host, or change the rule."
    if rule.kind == FORBID:
        return "Choose another host, or change the rule."
    near = get_close_matches(rule.label, host.labels, n=1)
    if rule.label not in host.labels and near:
        return f"Did you mean '{near[0]}'?"
    value = f"{rule.label}: {rule.values[0]}"
    return f"If it is true of a host, write `labels: {{{value}}}` for that host in the inventory."


def _one_of(values: tuple[str, ...]) -> str:
    return values[0] if len(values) == 1 else f"one of {', '.join(values)}"
