"""The file of a profile: one class per mapping, and the way from its bytes to a `Profile`.

profile: corp-baseline       # its name, the same in all versions
version: "3"
title: What our security office asks for
in_force: {from: 2026-01-01} # and until: its last day
extends: pci-dss             # its controls count as well; pci-dss@4.0.1 for a fixed version
protects: [cardholder-data]  # classes of data that zones hold and flows carry
controls:
  - id: "7"                  # in quotes where it is a number
    says: At most four ports from a zone with card data
    status: enforced         # or supports, or manual with a reason
    evidence: packets        # what shows it: file, loaded or packets
    needs: [firewall]        # what vcloud must be able to do (`model.CAPABILITIES`)
    demands: {few_ports: {zones: holding, most: 4}}
    proved_by: [ctl:default-deny]
not_covered: ["1", "2"]      # the other controls, so that nobody takes silence for coverage
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any, Final

from pydantic import Field, PlainValidator

from vcloud.documents.field import Shape
from vcloud.documents.model import Kind, read_model
from vcloud.errors import Problem, SpecError
from vcloud.profiles import model
from vcloud.profiles.model import Control, Demand, Evidence, Profile, Reach, Scope, Status
from vcloud.spec import fields
from vcloud.spec.base import Spec
from vcloud.spec.types import CONTROL, PROFILE, parse_date
from vcloud.values import BUILT_IN_DETECTORS, HOST_FACTS, Action, App, Mode

NAME: Final = Shape(
    r"[a-z][a-z0-9-]{0,40}",
    "is not a valid name of a profile",
    "Use 1 to 41 lower-case letters, digits and dashes. Begin with a letter.",
)
VERSION: Final = Shape(
    r"[0-9A-Za-z][0-9A-Za-z.-]{0,19}",
    "is not a valid version",
    "Use letters, digits, dots and dashes, and put it in quotes.",
)
PROOF: Final = Shape(
    r"own|(?:ctl|rule|flow|detector):(?:[A-Za-z0-9-]{1,63}|\*)",
    "is not what a check proves",
    "Write it as `vcloud verify -o json` prints it under proves, or with * at the end, or own for "
    "the detector that the control asks for.",
)
MOST_CONTROLS: Final = 2000

Date = Annotated[date, PlainValidator(parse_date)]
Keys = Annotated[
    str, Shape("why|id", "is not a key that a flow can be asked for", "Write why or id.")
]


class Part(Spec):
    """A mapping of a profile's file."""


class _Period(Part):
    begins: Date = Field(alias="from", examples=["2026-01-01"])
    ends: fields.Optional[Date] = Field(None, alias="until")


class _Zones(Part):
    short = "zones"
    zones: Scope = Field(examples=["holding"])


class _FlowsSay(Part):
    keys: fields.ListOf[Keys] = Field(min_length=1, examples=[["why", "id"]])


class _Insecure(Part):
    services: fields.Services = Field(min_length=1, examples=[["tcp/21", "tcp/23"]])
    beside_data: fields.Services = ()


class _Encrypted(Part):
    apps: fields.ListOf[App] = Field(min_length=1, examples=[["tls", "ssh"]])


class _FewPorts(Part):
    zones: Scope = Field(examples=["holding"])
    to: Reach = Field(Reach.ANYWHERE)
    most: fields.Port = Field(examples=[16])


class _Web(Part):
    mode: Mode = Field(Mode.PREVENT)


class _Inspect(Part):
    zones: Scope = Field(examples=["touching"])
    mode: Mode = Field(Mode.PREVENT)


class _Leaks(Part):
    detect: fields.Id = Field(examples=["card-number"])
    regex: fields.Regex = Field("")
    zones: Scope = Field(examples=["touching"])
    to: Reach = Field(Reach.ANYWHERE)
    at_least: fields.AtLeast = Field(1)
    action: Action = Field(Action.BLOCK)


class _Demands(Part):
    flows_say: fields.Optional[_FlowsSay] = None
    insecure: fields.Optional[_Insecure] = None
    not_published: fields.Optional[_Zones] = None
    not_open: fields.Optional[_Zones] = None
    not_beside: fields.Optional[_Zones] = None
    encrypted: fields.Optional[_Encrypted] = None
    few_ports: fields.Optional[_FewPorts] = None
    web: fields.Optional[_Web] = None
    inspect: fields.Optional[_Inspect] = None
    leaks: fields.Optional[_Leaks] = None
    host: dict[fields.Label, fields.ListOf[fields.Text]] = Field(default_factory=dict)


_KINDS: Final[dict[str, type[Demand]]] = {
    "flows_say": model.FlowsSay,
    "insecure": model.Insecure,
    "not_published": model.NotPublished,
    "not_open": model.NotOpen,
    "not_beside": model.NotBeside,
    "encrypted": model.Encrypted,
    "few_ports": model.FewPorts,
    "web": model.Web,
    "inspect": model.Inspect,
    "leaks": model.Leaks,
}


class _Control(Part):
    id: Annotated[str, CONTROL] = Field(examples=["1.2.5"])
    says: fields.Words = Field(examples=["Every flow has a reason"])
    status: Status = Field(examples=["enforced"])
    reason: fields.Content = ""
    evidence: fields.Optional[Evidence] = None
    needs: fields.ListOf[fields.Label] = ()
    demands: _Demands = Field(default_factory=_Demands)
    proved_by: fields.ListOf[Annotated[str, PROOF]] = ()
    begins: fields.Optional[Date] = Field(None, alias="from")


class _Profile(Part):
    profile: Annotated[str, NAME] = Field(examples=["corp-baseline"])
    version: Annotated[str, VERSION] = Field(examples=["1"])
    title: fields.Text = Field(examples=["What our security office asks for"])
    in_force: _Period = Field(examples=[{"from": "2026-01-01"}])
    draft: bool = False
    extends: fields.Optional[Annotated[str, PROFILE]] = None
    protects: fields.ListOf[fields.DataClass] = ()
    controls: tuple[_Control, ...] = Field(min_length=1, max_length=MOST_CONTROLS)
    not_covered: fields.ListOf[Annotated[str, CONTROL]] = Field((), max_length=MOST_CONTROLS)


PROFILE_FILE: Final = Kind(_Profile, "profile: corp-baseline", "docs/profiles.md shows one.")


def parse_profile(data: bytes, file: str) -> Profile:
    """The profile in the bytes of a file. `file` is its name in messages.

    Raises:
        SpecError: the file has problems; it has all of them.
    """
    reading = read_model(data, file, PROFILE_FILE)
    written, lines = reading.model, reading.document.lines
    found = [*reading.problems]
    if written is not None:
        for path, what, hint in _problems(written):
            found.append(Problem(file, lines.get(path, 0), path, what, hint))
    if found or written is None:
        raise SpecError(tuple(found))
    listed = (Control(name, "", Status.NOT_COVERED) for name in written.not_covered)
    period = written.in_force
    return Profile(
        name=written.profile,
        version=written.version,
        title=written.title,
        begins=period.begins,
        ends=period.ends,
        extends=written.extends or "",
        protects=tuple(sorted(written.protects)),
        controls=(*(_control(one, written) for one in written.controls), *listed),
        digest=hashlib.sha256(data).hexdigest(),
        draft=written.draft,
    )


def _control(one: _Control, profile: _Profile) -> Control:
    data = tuple(sorted(profile.protects))
    return Control(
        id=one.id,
        says=one.says,
        status=one.status,
        reason=one.reason.strip(),
        evidence=one.evidence,
        needs=tuple(one.needs),
        demands=tuple(_demands(one.demands, data)),
        proved_by=tuple(one.proved_by),
        begins=one.begins,
    )


def _demands(written: _Demands, data: tuple[str, ...]) -> Iterator[Demand]:
    for name, kind in _KINDS.items():
        part: Spec | None = getattr(written, name)
        if part is not None:
            yield kind(
                data=data,
                **{field: _sorted(getattr(part, field)) for field in type(part).model_fields},
            )
    for label, values in written.host.items():
        yield model.HostHas(data, label, tuple(sorted(values)))


def _sorted(value: Any) -> Any:
    """Lists in one order, so that equal demands are equal values."""
    return tuple(sorted(value)) if isinstance(value, tuple) else value


def _problems(written: _Profile) -> Iterator[tuple[str, str, str]]:
    """Path, sentence and hint for each part that does not fit the others."""
    period, seen = written.in_force, dict[str, str]()
    if period.ends is not None and period.ends < period.begins:
        yield "in_force.until", "it ends before it begins", "Write a later day."
    if written.extends and written.extends.partition("@")[0] == written.profile:
        yield "extends", "a profile cannot extend itself", "Name another one."
    if (written.extends or "").startswith("./"):
        what = "only a profile that vcloud ships can be extended"
        yield "extends", what, "Name one of `vcloud profile list`."
    for number, one in enumerate(written.controls):
        path = f"controls[{number}]"
        if one.id in seen:
            yield f"{path}.id", f"{seen[one.id]} has this id already", "Write another id."
        seen.setdefault(one.id, path)
        yield from ((f"{path}.{key}", what, hint) for key, what, hint in _of_control(one))
    for number, name in enumerate(written.not_covered):
        if name in seen:
            yield f"not_covered[{number}]", f"'{name}' stands above, too", "Remove one of the two."


def _of_control(one: _Control) -> Iterator[tuple[str, str, str]]:
    demands = any(getattr(one.demands, name) is not None for name in _KINDS) or one.demands.host
    if one.status is Status.NOT_COVERED:
        yield "status", "such controls are listed by their ids", "Move it to not_covered."
    elif one.status is Status.MANUAL and demands:
        yield "demands", "a manual control demands nothing", "Write status: enforced, or supports."
    elif one.status is Status.ENFORCED and not demands:
        yield "demands", "an enforced control demands something", "Write status: manual."
    elif demands:
        if one.evidence is None:
            yield "evidence", "nothing says what shows that the control is held", "Write evidence."
        if not one.needs:
            yield "needs", "nothing says what enforcing it takes", "Write needs: [file], or more."
    if one.status is Status.MANUAL and not one.reason:
        yield "reason", "nothing says why it is not enforced", "Write a reason."
    if one.status is Status.SUPPORTS and not one.proved_by:
        yield "proved_by", "nothing shows what supports the control", "Write what checks prove it."
    if "own" in one.proved_by and one.demands.leaks is None and one.demands.encrypted is None:
        yield "proved_by", "the control asks for no detector and for no protocol", "Remove own."
    leaks = one.demands.leaks
    if leaks and (leaks.detect in BUILT_IN_DETECTORS) == bool(leaks.regex):
        known = ", ".join(BUILT_IN_DETECTORS)
        what = f"'{leaks.detect}' needs a pattern if it is not built in, and has none if it is"
        yield "demands.leaks.detect", what, f"Write {known}, or another name and a regex."
    for label, values in one.demands.host.items():
        possible = HOST_FACTS.get(label, ())
        if possible and not {*values} <= {*possible}:
            what = f"a host has {label} {' or '.join(possible)}"
            yield f"demands.host.{label}", what, "Write one of these."
