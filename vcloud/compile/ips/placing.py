"""Rules that find out where in its stream a packet stands, while it is not known yet how the
connection begins.

Suricata gives a rule the data around a packet. If a packet is missing before it, that data begins
behind the gap, and no option of a rule tells the two apart. So scripts compare the packet's
sequence number with the one that the connection began with, and keep in `app.SIDE.at` whether

- 1: it continues what is there from the first byte on. Then the data begins at the first byte;
- 2: something is missing before it, or it begins before the first byte. It is dropped without an
  event, and its sender sends it again. Otherwise whoever sends the first byte last chooses what is
  taken for the beginning;
- 3: it brings nothing new.

For each side there are these rules, and their order matters: Suricata runs a rule that sets a
flowint before one that sets and reads one, and both before one that only reads one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from vcloud.compile.environment import render
from vcloud.compile.ips.rules import ANY, Rule

SIDES: Final[Mapping[str, tuple[str, str, int]]] = {
    "client": ("to_server", "flags:S,CE;", 1100010),
    "server": ("to_client", "flags:SA,CE;", 1100020),
}
"""Side -> the direction of its packets, its packet that opens the connection, and the first of its
sids.
"""
UNDECIDED: Final = 70_000
"""Bytes that a side may have sent, in whatever order, while it is not known how it begins: more
than a first packet can have.
"""
_SCRIPTS: Final = ("begin", "length", "place")


def started(side: str) -> str:
    """The flowbit of connections that are looked at on this side."""
    return f"app.{side}.new"


def decided(side: str) -> str:
    """The flowbit of connections of which it is known how this side begins."""
    return f"app.{side}.whole"


def placing_rules(ports: Mapping[str, str], *, prevent: bool) -> Iterator[tuple[str, Rule]]:
    """Action and rule, for each side that `ports` has, on these ports of the server. Where the IPS
    does not prevent, nothing is dropped.
    """
    for side, its in ports.items():
        direction, opens, sid = SIDES[side]
        new = f"flowbits:isset,{started(side)};"
        undecided = f"flow:established,{direction}; {new} flowbits:isnotset,{decided(side)};"
        # `prefilter`: Suricata runs a script before it looks at flowbits, so for most packets of
        # long connections this must keep it from trying the rule at all.
        data = (
            f"{undecided} flowbits:set,app.{side}.data; dsize:>0; "
            f"stream_size:{side},<,{UNDECIDED}; prefilter;"
        )
        script = {name: f"lua:lua/app-{side}-{name}.lua; noalert;" for name in _SCRIPTS}
        count, counted = (f"flowint:app.{side}.{name}" for name in ("a", "b"))
        rules = [
            ("begin", "tcp", f"flow:{direction}; {opens} {new} tcp.hdr; {script['begin']}"),
            ("length", "tcp-pkt", f"{data} {count},=,1; {script['length']}"),
            ("place", "tcp-pkt", f"{data} {count},==,1; {counted},=,1; tcp.hdr; {script['place']}"),
        ]
        if prevent:
            at = f"dsize:>0; flowint:app.{side}.at"
            rules += [
                ("gap", "tcp-pkt", f"{undecided} {at},==,2; noalert;"),
                # If a script fails, nothing may pass because of it.
                ("unplaced", "tcp-pkt", f"{undecided} {at},notset;"),
                ("far", "tcp-pkt", f"{undecided} stream_size:{side},>,{UNDECIDED - 1}; noalert;"),
            ]
        for number, (name, protocol, options) in enumerate(rules):
            dropped = name in ("gap", "unplaced", "far")
            rule = Rule(
                sid + number,
                f"{name} of a packet from the {side}",
                protocol,
                ANY,
                ANY,
                ANY if side == "server" else its,
                options,
                "policy-violation" if dropped else "not-suspicious",
                source_ports=its if side == "server" else ANY,
            )
            yield "drop" if dropped else "alert", rule


def placing_scripts(sides: Iterable[str]) -> dict[str, str]:
    """File name -> text."""
    return {
        f"app-{side}-{name}.lua": render(f"suricata/app-{name}.lua.j2", side=side)
        for side in sides
        for name in _SCRIPTS
    }
