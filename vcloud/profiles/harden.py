"""Applies profiles to a vApp: what breaks a control, what this release cannot enforce, and what the
controls add to the design.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from vcloud.documents.field import nearest
from vcloud.errors import Problem
from vcloud.profiles import model
from vcloud.profiles.around import Around, concerns, zones_at
from vcloud.profiles.checks import (
    CHECKS,
    Found,
    crosses_outside,
    listed_services,
    published_services,
    unreadable,
)
from vcloud.profiles.choose import Chosen
from vcloud.profiles.merge import ConflictError, Joined, merged, names
from vcloud.profiles.model import (
    CAPABILITIES,
    AddedDetector,
    AddedHostRule,
    Control,
    ControlRef,
    Hardening,
    InForce,
    Reach,
    Scope,
    Status,
    Waiver,
)
from vcloud.spec.check import MOST_EXCEPTIONS
from vcloud.spec.model import Detector, Vapp
from vcloud.values import BUILT_IN_DETECTORS, Action, App, Mode, is_outside

READ = (App.HTTP, App.OTHER)
"""What may be a web application that the IPS can read."""
WAIVE = "Or write an exception that somebody has agreed to."


@dataclass(frozen=True, slots=True)
class Hardened:
    """What profiles mean for a vApp on a day."""

    hardening: Hardening
    problems: tuple[Problem, ...]
    """The file breaks a control, or an exception is wrong: exit 2."""
    refusals: tuple[Problem, ...]
    """A control asks for what cannot be enforced: exit 6."""


def harden(vapp: Vapp, profiles: Sequence[Chosen], day: date) -> Hardened:
    """What these profiles mean for a sound vApp. Pure: the same values give the same result."""
    controls = [
        (one.profile.ref(control), control, one)
        for one in profiles
        for control in one.profile.controls
        if control.status is not Status.NOT_COVERED
    ]
    waivers, problems = _waivers(vapp, {ref: control for ref, control, _ in controls})
    waived = {one.control for one in waivers if one.counts_on(day)}
    active = [
        (ref, control, one)
        for ref, control, one in controls
        if control.counts_on(day) and ref not in waived
    ]
    demanding = [one for one in active if one[1].demands]
    refusals = [*_unknown_needs(demanding)]
    joined, conflicts = merged(
        (ref, demand) for ref, control, _ in demanding for demand in control.demands
    )
    around = Around(vapp)
    problems += [_conflict(vapp, one) for one in conflicts]
    problems += _nothing_to_protect(vapp, around, profiles)
    problems += _broken(vapp, around, joined)
    refusals += _unreadable(vapp, around, joined)
    wanted = tuple(_detectors(around, joined))
    detectors = tuple(added for _, added, serving in wanted if not serving)
    proofs = _own_proofs(around, joined, wanted)
    problems += _taken_ids(vapp, detectors)
    refusals += _too_many_exceptions(vapp, detectors)
    return Hardened(
        Hardening(
            day=day if profiles else None,
            profiles=tuple(one.applied for one in profiles),
            controls=tuple(
                InForce(ref, control.status, _proofs(ref, control, proofs), control.evidence)
                for ref, control, _ in active
                if control.status is not Status.MANUAL
            ),
            waivers=waivers,
            inspected=tuple(_inspected(around, joined)),
            mode=_mode(joined),
            detectors=detectors,
            host_rules=tuple(
                AddedHostRule(one.demand.label, one.demand.values, one.controls[0])
                for one in joined
                if isinstance(one.demand, model.HostHas)
            ),
        ),
        tuple(dict.fromkeys(problems)),
        tuple(dict.fromkeys(refusals)),
    )


def _broken(vapp: Vapp, around: Around, joined: Iterable[Joined]) -> Iterator[Problem]:
    """One problem for each thing that is wrong with the file, with all controls that it breaks."""
    found: dict[tuple[str, str, str], list[ControlRef]] = {}
    for one in joined:
        check = CHECKS.get(type(one.demand), _nothing)
        alone = _broken_alone(around, one)
        for path, what, hint in check(around, one.demand):
            found.setdefault((path, what, hint), []).extend(alone.get(path, one.controls))
    for (path, what, hint), controls in found.items():
        yield _problem(vapp, sorted({*controls}), path, what, f"{hint} {WAIVE}")


def _broken_alone(around: Around, joined: Joined) -> dict[str, tuple[ControlRef, ...]]:
    """Path -> those of the controls that the file breaks there by what they ask for themselves. At
    other paths only what they ask for together may be broken.
    """
    check = CHECKS.get(type(joined.demand), _nothing)
    found: dict[str, tuple[ControlRef, ...]] = {}
    for ref, demand in joined.asked if len(joined.asked) > 1 else ():
        for path in dict.fromkeys(path for path, _, _ in check(around, demand)):
            found[path] = (*found.get(path, ()), ref)
    return found


def _nothing(around: Around, demand: model.Demand) -> Found:  # noqa: ARG001 - as all checks
    yield from ()


def _unreadable(vapp: Vapp, around: Around, joined: Iterable[Joined]) -> Iterator[Problem]:
    for one in joined:
        if isinstance(one.demand, model.Web):
            for path, what, hint in unreadable(around):
                yield _problem(vapp, one.controls, path, what, hint)


def _problem(
    vapp: Vapp, controls: Iterable[ControlRef], path: str, what: str, hint: str
) -> Problem:
    return Problem(vapp.file, vapp.line_of(path), path, f"{names(controls)}: {what}", hint)


def _waivers(
    vapp: Vapp, controls: Mapping[ControlRef, Control]
) -> tuple[tuple[Waiver, ...], list[Problem]]:
    waivers, problems, seen = [], [], set[ControlRef]()
    for number, written in enumerate(vapp.protection.exceptions):
        profile, slash, name = written.control.rpartition("/")
        found = [
            ref
            for ref, control in controls.items()
            if ref.control == name and (not slash or ref.profile == profile)
        ]
        path = f"protection.exceptions[{number}].control"
        at = (vapp.file, vapp.line_of(path), path)
        if len(found) != 1:
            known = {ref.control for ref in controls}
            several = ", ".join(f"{ref.profile}/{name}" for ref in found)
            what = (
                f"several profiles have a control '{name}'"
                if found
                else f"no profile of this file has a control '{written.control}' that could be excepted"
            )
            hint = f"Write one of {several}." if found else nearest(name, known, "control")
            problems.append(Problem(*at, what, hint))
            continue
        if found[0] in seen:
            problems.append(Problem(*at, f"'{name}' is excepted twice", "Keep one of them."))
        seen.add(found[0])
        waivers.append(Waiver(found[0], written.reason, written.approved_by, written.expires))
    return tuple(waivers), problems


def _unknown_needs(demanding: Iterable[tuple[ControlRef, Control, Chosen]]) -> Iterator[Problem]:
    for ref, control, one in demanding:
        for need in control.needs:
            if need not in CAPABILITIES:
                what = f"{ref} needs '{need}', which this release cannot do: {control.says}"
                yield one.named.problem(what, "Use a later release, or write an exception for it.")


def _conflict(vapp: Vapp, error: ConflictError) -> Problem:
    one, other = map(_shown, error.values)
    what = f"{names(error.joined.controls)}: one asks for {error.parameter} {one} and another for {other}, and neither is stricter"
    path = "protection.profiles"
    hint = "Name other profiles, or write an exception for one of the controls."
    return Problem(vapp.file, vapp.line_of(path), path, what, hint)


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else f"'{value}'"


def _nothing_to_protect(
    vapp: Vapp, around: Around, profiles: Sequence[Chosen]
) -> Iterator[Problem]:
    """A profile about data that no part of the file names would protect nothing, silently."""
    named = {
        *(data for zone in vapp.zones.values() for data in zone.holds),
        *(data for flow in vapp.flows for data in flow.carries),
    }
    for one in profiles:
        protects = one.profile.protects
        if not around.zones(Scope.TOUCHING, protects):
            listed = " or ".join(protects) or "sensitive data"
            what = f"{one.profile.label} protects {listed}, and no zone holds it and no flow carries it"
            near = f" The file names {', '.join(sorted(named))}." if named else ""
            data = protects[0] if protects else "personal-data"
            hint = f"Write holds: [{data}] for the zone that stores it.{near}"
            yield one.named.problem(what, hint)


def _inspected(around: Around, joined: Iterable[Joined]) -> Iterator[tuple[str, ControlRef]]:
    """Each zone that must be inspected, in the order of the file, with the first control that says
    so.
    """
    first: dict[str, ControlRef] = {}
    # What asks for inspection itself is a better reason than what only needs it.
    own = (model.Inspect, model.Web)
    for one in sorted(joined, key=lambda one: (not isinstance(one.demand, own), one.controls)):
        for zone in _inspected_for(around, one.demand):
            first.setdefault(zone, one.controls[0])
    yield from ((zone, first[zone]) for zone in around.vapp.zones if zone in first)


def _inspected_for(around: Around, demand: model.Demand) -> set[str]:
    match demand:
        case model.Inspect() | model.Leaks():
            return {*around.zones(demand.zones, demand.data)}
        case model.Web():
            web = {flow.id for flow, _, app in published_services(around) if app in READ}
            return {
                path.target.zone
                for flow, paths in around.from_outside()
                if flow.id in web
                for path in paths
            }
        case model.Encrypted():
            held = {*_encrypted_flows(around, demand)}
            return {
                zone for flow, paths in around.flows if flow.id in held for zone in zones_at(paths)
            }
        case model.Insecure():
            return {
                zone
                for flow, paths in around.flows
                if listed_services(flow.services, demand.services)
                for zone in zones_at(paths)
            }
        case _:
            return set()


def _encrypted_flows(around: Around, demand: model.Encrypted) -> Iterator[str]:
    """Ids of the flows that must carry an encrypted protocol."""
    for flow in around.vapp.flows:
        if crosses_outside(flow.source, flow.target) and concerns(tuple(flow.carries), demand.data):
            yield flow.id


def _too_many_exceptions(vapp: Vapp, detectors: Iterable[AddedDetector]) -> Iterator[Problem]:
    """Each exception becomes rules of the IPS, so their number is limited as that of the file's."""
    services = {flow.id: len(flow.services) for flow in vapp.flows}
    for one in detectors:
        total = sum(services[name] for name in one.excepted)
        if total > MOST_EXCEPTIONS:
            what = f"{one.control}: its leak detector would except {total} services of flows; the maximum is {MOST_EXCEPTIONS}"
            path = "protection.profiles"
            hint = "Write fewer flows, or ranges of ports in place of single ones."
            yield Problem(vapp.file, vapp.line_of(path), path, what, hint)


def _own_proofs(
    around: Around,
    joined: Iterable[Joined],
    detectors: Iterable[tuple[Joined, AddedDetector, tuple[str, ...]]],
) -> dict[ControlRef, tuple[str, ...]]:
    """Control -> ids of the detectors that it asks for, and of the flows that it holds to a protocol."""
    found: dict[ControlRef, list[str]] = {}
    for one, added, serving in detectors:
        for ref in one.controls:
            found.setdefault(ref, []).extend(f"detector:{name}" for name in serving or (added.id,))
    for one in joined:
        if isinstance(one.demand, model.Encrypted):
            held = [f"flow:{name}" for name in _encrypted_flows(around, one.demand)]
            for ref in one.controls:
                found.setdefault(ref, []).extend(held)
    return {ref: tuple(ids) for ref, ids in found.items()}


def _mode(joined: Iterable[Joined]) -> Mode | None:
    modes = {one.demand.mode for one in joined if isinstance(one.demand, model.Inspect | model.Web)}
    return Mode.PREVENT if Mode.PREVENT in modes else next(iter(modes), None)


def _detectors(
    around: Around, joined: Iterable[Joined]
) -> Iterator[tuple[Joined, AddedDetector, tuple[str, ...]]]:
    """Each detector that controls ask for, with the ids of the file's own that do the same."""
    for one in joined:
        demand = one.demand
        if not isinstance(demand, model.Leaks):
            continue
        zones = around.zones(demand.zones, demand.data)
        added = AddedDetector(
            id=one.controls[0].stable_id,
            kind=demand.detect if demand.detect in BUILT_IN_DETECTORS else "regex",
            regex=demand.regex,
            at_least=demand.at_least,
            # In an order that does not depend on that of the file.
            zones=tuple(sorted(zones)),
            excepted=tuple(sorted(_excepted(around, demand, {*zones}))),
            action=demand.action,
            control=one.controls[0],
        )
        if zones:
            own = around.vapp.protection.dlp
            yield one, added, tuple(other.id for other in own if _serves(other, added))


def _excepted(around: Around, demand: model.Leaks, zones: set[str]) -> Iterator[str]:
    """Flows that leave the zones and say that they carry such data. Where only the outside counts:
    also all flows between the vApp's VMs.
    """
    for flow, paths in around.flows:
        leaves = any((path.source.zone in zones) != (path.target.zone in zones) for path in paths)
        inside = not (is_outside(flow.source) or is_outside(flow.target))
        declared = bool(demand.data) and concerns(tuple(flow.carries), demand.data)
        if leaves and (declared or (inside and demand.to is Reach.OUTSIDE)):
            yield flow.id


def _serves(own: Detector, added: AddedDetector) -> bool:
    """Whether a detector of the file finds all that the control's would find, and stops it."""
    kind = "regex" if own.regex else own.detect.name
    return (
        (kind, own.regex) == (added.kind, added.regex)
        and {*own.leaving} == {*added.zones}
        and {*own.excepted} <= {*added.excepted}
        and own.count <= added.at_least
        and (own.action is Action.BLOCK or added.action is Action.ALERT)
    )


def _taken_ids(vapp: Vapp, detectors: Iterable[AddedDetector]) -> Iterator[Problem]:
    ids: dict[str, ControlRef] = {}
    for one in detectors:
        if one.id in ids:
            what = f"the detectors of {ids[one.id]} and of {one.control} would have the same id '{one.id}'"
            path = "protection.profiles"
            hint = "Give one of the two profiles another name, or the control another id."
            yield Problem(vapp.file, vapp.line_of(path), path, what, hint)
        ids.setdefault(one.id, one.control)
    for own in vapp.protection.dlp:
        if own.id in ids:
            what = f"the detector of {ids[own.id]} has the id '{own.id}'"
            path = f"{own.path}.id"
            yield Problem(vapp.file, vapp.line_of(path), path, what, "Write another id.")


def _proofs(
    ref: ControlRef, control: Control, own: Mapping[ControlRef, tuple[str, ...]]
) -> tuple[str, ...]:
    """What checks of `verify` prove of the control. `own` is what `own` means for each control;
    another control may name its detector by the stable id.
    """
    by_id = {f"detector:{one.stable_id}": found for one, found in own.items()}
    proofs: list[str] = []
    for proof in control.proved_by:
        proofs += own.get(ref, ()) if proof == "own" else by_id.get(proof, (proof,))
    return tuple(dict.fromkeys(proofs))
