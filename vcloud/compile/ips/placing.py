"""Rules that find the place of a packet in its stream, as long as the protocol of the connection is
not known.

Suricata gives a rule the data around a packet. If an earlier packet is missing, that data begins
behind the gap, and no option of a rule shows the difference. So scripts compare the packet's
sequence number with the first one of the connection, and set `app.SIDE.at` to one of these:

- 1: the packet continues the stream, and nothing is missing. The data begins at the first byte.
- 2: data is missing before the packet, or the packet begins before the first byte. It is dropped
  without an event, and its sender sends it again. If such a packet passed, a sender could choose
  which bytes are taken for the beginning, by sending the first byte last.
- 3: the packet holds no new data.

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
"""A side may send so many bytes, in any order, before its beginning is known. It is more than one
packet can hold.
"""
_SCRIPTS: Final = ("begin", "length", "place")


def started(side: str) -> str:
    """The flowbit of connections whose beginning on this side is checked."""
    return f"app.{side}.new"


def decided(side: str) -> str:
    """The flowbit of connections whose beginning on this side is complete and right."""
    return f"app.{side}.whole"


def placing_rules(ports: Mapping[str, str], *, prevent: bool) -> Iterator[tuple[str, Rule]]:
    """Action and rule, for each side in `ports`, on these ports of the server. Without `prevent`,
    no rule drops packets.
    """
    for side, its in ports.items():
        direction, opens, sid = SIDES[side]
        new = f"flowbits:isset,{started(side)};"
        undecided = f"flow:established,{direction}; {new} flowbits:isnotset,{decided(side)};"
        # Suricata runs a script before it looks at flowbits. `prefilter` keeps it from trying the
        # rule at all for most packets of long connections.
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
                # If a script fails, its packet has no place and must be dropped.
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
