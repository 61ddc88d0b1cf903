"""`vcloud explain --event ID`: what an id in an event of the firewall or the IPS means in a vApp, and
which line of the file or which control it comes from.

The comments of nft rules name `flow:ID` or `ctl:NAME`. Rules of Suricata have a number, the sid, and
name a detector or a flow. Detectors that a control adds have the stable id of the control.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vcloud.compile.ips.apps import app_rules
from vcloud.compile.ips.rules import SHIPPED
from vcloud.compile.leaks.rules import rule_sids
from vcloud.compile.leaks.undecoded import undecoded_sids
from vcloud.design.model import Design
from vcloud.errors import UsageError
from vcloud.printable import on_one_line
from vcloud.profiles.model import ControlRef

OF_EVERY_VAPP: Final = {
    "antispoof": "a source address that does not belong to its NIC and MAC address is dropped",
    "connections": "connections beyond the share of a VM or of a group of clients are dropped",
    "default-deny": "what no flow allows is dropped",
    "forged-error": "an ICMP error about a connection that its sender has no part in is dropped",
    "fragments": "fragments beyond the limit of their sender are dropped",
    "gateway-echo": "the firewall answers a ping to the gateway of a zone",
    "headers": "packets with IPv6 headers that hide what follows are dropped",
    "host": "bridges, ports and packet filters of the host are as vcloud made them",
    "icmp-error": "an ICMP error about an allowed connection passes",
    "input": "packets to the firewall itself are dropped",
    "invalid": "packets that fit no connection are dropped",
    "link-local": "link-local packets that are no neighbour discovery are dropped",
    "logged": "a denied packet is logged, so many a second for each sender",
    "mac-filter": "a frame with a MAC address of another VM is dropped by the host",
    "neighbours": "neighbour discovery of IPv6 passes",
    "no-host-address": "no VM and no zone is reached from the host",
    "not-internet": "a flow to internet leads to public addresses only, so this packet is dropped",
    "output": "packets that the firewall itself sends are dropped",
    "rejected": "a denied packet of a zone with denied: reject is refused at once",
    "route": "a packet that would leave by a wrong NIC, or with an inner address, is dropped",
    "unmarked": "a packet that has not passed all checks is dropped",
}
"""Name of `ctl:NAME` -> what it does. Every vApp has these."""
_REPORTED: Final = ("firewall", "ips")
"""`verify` names these appliances by `ctl:NAME`, too."""


@dataclass(frozen=True, slots=True)
class EventOrigin:
    """What an id means."""

    id: str
    """The stable id, such as `rule:1500001`."""
    means: str
    origin: str
    """A line of the file, a control with profile and version, or `vcloud`."""
    why: str = ""
    """Of a flow: its reason."""
    controls: tuple[str, ...] = ()
    """The controls that its checks are evidence for."""

    @property
    def text(self) -> str:
        why = f" ({self.why})" if self.why else ""
        return f"{self.id}: {self.means}{why}, from {self.origin}"

    def as_data(self) -> dict[str, object]:
        return {
            "id": self.id,
            "means": self.means,
            "origin": self.origin,
            "why": self.why,
            "controls": list(self.controls),
        }


def origin_of_event(design: Design, text: str) -> EventOrigin:
    """What an id means in a vApp: a sid, `rule:SID`, `flow:ID`, `detector:ID`, `ctl:NAME`, or the id of
    a flow, a detector or a control alone.

    Raises UsageError if the vApp has nothing of that id.
    """
    for one in _meanings(design, text.strip()):
        return one
    raise UsageError(
        f"this vApp has no rule, flow, detector or control with the id '{on_one_line(text[:80])}'",
        "Write an id as an event shows it, such as 1500001, flow:checkout or ctl:antispoof, and the file by which the vApp was made.",
    )


def _meanings(design: Design, text: str) -> Iterator[EventOrigin]:
    kind, colon, name = text.partition(":")
    if not colon:
        kind, name = "", text
    if kind in ("", "rule"):
        yield from _rule(design, name)
    if kind in ("", "flow"):
        for flow in design.flows:
            if flow.id == name:
                yield _made(design, f"flow:{name}", "the flow", flow.why)
    if kind in ("", "detector"):
        for one in design.inspection.detectors:
            if one.id == name:
                what = f"the detector of {one.kind} leaving {', '.join(one.zones)}"
                yield _made(design, f"detector:{name}", what)
    if kind in ("", "ctl"):
        if name in OF_EVERY_VAPP:
            yield _made(design, f"ctl:{name}", OF_EVERY_VAPP[name])
        elif name in _REPORTED and (name != "ips" or design.ips):
            what = f"the appliance {name} has the rules and settings that it was given"
            yield _made(design, f"ctl:{name}", what)
    if kind == "":
        for control in design.controls.controls:
            its = control.origin
            ref = ControlRef(its.profile, its.version, its.control)
            if ref.stable_id == name:
                means = f"a control that is {'enforced' if control.enforced else 'supported'}"
                yield EventOrigin(name, means, str(its), controls=(str(its),))


def _rule(design: Design, sid: str) -> Iterator[EventOrigin]:
    if design.ips is None or not sid.isdecimal():
        return
    for found, what in ((rule_sids, "in"), (undecoded_sids, "and cannot search")):
        for (detector, part), number in found(design.inspection.detectors).items():
            if str(number) == sid:
                means = f"a rule of the detector {detector}, which looks for leaks {what} {part}"
                yield _made(design, f"rule:{sid}", means, of=f"detector:{detector}")
    flow = dict(app_rules(design).flows).get(sid)
    if flow:
        means = f"a rule that holds the flow {flow} to its protocol"
        yield _made(design, f"rule:{sid}", means, of=f"flow:{flow}")
    elif flow is not None:
        yield _made(design, f"rule:{sid}", "a rule that holds flows to their protocols")
    for shipped in SHIPPED:
        if str(shipped.rule.sid) == sid:
            yield _made(design, f"rule:{sid}", f"the rule '{shipped.rule.message}'")


def _made(
    design: Design, stable_id: str, means: str, why: str = "", *, of: str = ""
) -> EventOrigin:
    """`of` is the part of the vApp that the rule belongs to."""
    part = of or stable_id
    controls = (*design.controls.proved_by(part), *design.controls.proved_by(stable_id))
    origin = str(design.origin_of(part))
    return EventOrigin(stable_id, means, origin, why, tuple(dict.fromkeys(controls)))
