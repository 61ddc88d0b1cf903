"""Rules that hold each flow to the protocol that it carries (`Flow.apps`).

The rules for HTTP or TLS match only connections that Suricata recognises as HTTP or TLS. So a
connection must begin as its protocol begins (`openings`). Any other connection is dropped from its
first bytes on, or logged if the IPS only detects.

For each service of a flow there are these rules:

- `new` marks connections that begin after the rules were loaded. Older connections are not checked,
  because their beginning is gone.
- `whole` marks connections whose beginning is complete and right. They are not checked any more.
- `wrong` matches a beginning that cannot become right, whatever follows. An incomplete beginning
  passes, so that a client may send byte by byte.
- `method` matches a later request of an unknown HTTP method, whose body Suricata does not decode.
- `syn` matches a SYN packet that carries data, because no rule searches that data.
- If the server speaks first in a protocol, `server-whole` and `server-wrong` do the same for its
  side. If the client speaks first, `early` matches data that the server sends before it.

Only packets that continue the stream from its first byte on are matched (`placing`). Suricata
matches a packet that was acknowledged before by itself and does not put it into the stream;
`only_stream` excludes such packets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from vcloud.compile.ips.ends import Addresses, crosses, ends_of, groups_of, in_rule, ports_of
from vcloud.compile.ips.openings import CLIENT, HTTP_METHODS, SERVER, Opening
from vcloud.compile.ips.placing import SIDES, decided, placing_rules, placing_scripts, started
from vcloud.compile.ips.rules import (
    ANY,
    OWN_APP,
    WEB_PORTS,
    PayloadPair,
    Rule,
    dns_query,
    http_request,
    tls_hello,
)
from vcloud.design.addressing import spread
from vcloud.design.model import Design, Flow
from vcloud.values import App, Mode, Protocol, Service, is_outside

FIRST_APP, LAST_APP = 1110000, 1199999
SID_BITS: Final = 32
TLS_PORT: Final = 443
"""Only TLS may leave the vApp through this port, also if a flow allows it as part of a range. The
port is open in almost every network, so malware often sends data out through it.
"""
_PASSED: Final[Mapping[App, bytes]] = {
    App.HTTP: http_request(),
    App.TLS: tls_hello(0x0303, 1),
    App.POSTGRES: bytes.fromhex("0000000804d2162f"),
    App.MYSQL: bytes.fromhex("20000001 00820000 00000001 21") + bytes(23),
    App.REDIS: b"*1\r\n$4\r\nPING\r\n",
    App.SSH: b"SSH-2.0-probe\r\n",
    App.DNS: len(dns_query("probe.vcloud")).to_bytes(2, "big") + dns_query("probe.vcloud"),
    App.SMTP: b"EHLO probe.vcloud\r\n",
    App.FTP: b"USER probe\r\n",
}
"""Protocol -> the first bytes that a client sends. They must pass."""
_STOPPED: Final = {App.HTTP: b"\r\n" + http_request()}
"""Protocol -> first bytes much like the right ones, which must be stopped. For all other protocols
`_OWN_PROTOCOL` must be stopped.
"""
_OWN_PROTOCOL: Final = b"\x01\x02vcloud probe\r\n"


@dataclass(frozen=True, slots=True)
class AppCheck:
    """The test that a flow carries only its protocol."""

    flow: str
    number: int
    """The index of the service in the flow."""
    app: App
    sids: tuple[str, ...]
    """The rules that may stop the test payload; there is one for each group of addresses."""
    payload: PayloadPair


@dataclass(frozen=True, slots=True)
class AppRules:
    """The rules and scripts made of the flows of a design."""

    lines: tuple[str, ...]
    groups: tuple[tuple[str, str], ...]
    """Name and list of each group of addresses that is too long for a rule."""
    scripts: tuple[tuple[str, str], ...]
    """File name and text of each Lua script."""
    flows: tuple[tuple[str, str], ...]
    """Sid and flow of each rule. The flow is empty for a rule that serves all flows."""
    checks: tuple[AppCheck, ...]


def app_at(flow: Flow, number: int, port: int = 0) -> App | None:
    """The protocol that a service of a flow carries at one of its ports (0: its first port). None
    if neither the file nor the port says it; then any protocol passes.
    """
    app, service = flow.apps[number], flow.services[number]
    at = port or service.first
    outside = is_outside(flow.target) and service.protocol is Protocol.TCP
    return App.TLS if app is None and outside and at == TLS_PORT else app


def app_rules(design: Design) -> AppRules:
    """Rules and checks of all flows that cross the IPS, sorted by flow. The sids of a flow do not
    change when other flows are added or removed.
    """
    parts = [part for flow in design.flows for part in _parts(design, flow)]
    once = design.inspection.mode is Mode.DETECT
    rules = {f"{part.key}/{name}": rule for part in parts for name, rule in _rules(part, once)}
    sids = spread(rules, SID_BITS, FIRST_APP, LAST_APP, "app")
    action = "alert" if once else "drop"
    lines = [
        replace(rule, sid=sids[key]).text("alert" if "noalert;" in rule.options else action)
        for key, rule in sorted(rules.items())
    ]
    ports = {
        side: _ports(part for part in parts if part.app in openings)
        for side, openings in (("client", CLIENT), ("server", SERVER))
        if any(part.app in openings for part in parts)
    }
    placing = tuple(placing_rules(ports, prevent=not once))
    lines += [rule.text(its) for its, rule in placing]
    flows = {str(rule.sid): "" for _, rule in placing}
    flows |= {
        str(sids[f"{part.key}/{name}"]): part.flow.id
        for part in parts
        for name, _ in _rules(part, once)
    }
    groups = groups_of(side for part in parts for side in (part.sources, part.targets))
    scripts = tuple(sorted(placing_scripts(ports).items()))
    checks = tuple(_checks(parts, sids))
    return AppRules(tuple(lines), tuple(sorted({*groups})), scripts, tuple(flows.items()), checks)


def _ports(parts: Iterable[_Part]) -> str:
    return f"[{','.join(sorted({ports_of(part.service) for part in parts}))}]"


@dataclass(frozen=True, slots=True)
class _Part:
    """A service of a flow between some of its addresses."""

    flow: Flow
    number: int
    service: Service
    app: App
    sources: Addresses
    targets: Addresses
    index: int

    @property
    def key(self) -> str:
        return f"{self.flow.id}/{self.service}/{self.app}/{self.index}"


def _parts(design: Design, flow: Flow) -> Iterator[_Part]:
    paths = tuple(path for path in flow.paths if crosses(design, path))
    ends = tuple(ends_of(design, replace(flow, paths=paths))) if paths else ()
    for number, service in enumerate(flow.services):
        port = TLS_PORT if service.first <= TLS_PORT <= service.last else 0
        app = app_at(flow, number, port)
        held = Service(Protocol.TCP, port, port) if app is not flow.apps[number] else service
        if app is not None:
            yield from (
                _Part(flow, number, held, app, sources, targets, index)
                for index, (sources, targets) in enumerate(ends)
            )


def _rules(part: _Part, once: bool) -> Iterator[tuple[str, Rule]]:
    """Names and rules of one part, without sids. With `once`, each connection is logged only once.
    This is for an IPS that only detects, where the connection goes on.
    """
    app, on_flow = part.app, f"flow {part.flow.id}"
    to_server = _rule(part, "to_server")
    first = to_server.options + " flags:S,CE;"
    if app in (App.OTHER, App.SSH) and any(
        part.service.first <= port <= part.service.last for port in WEB_PORTS
    ):
        message, mark = f"{on_flow} carries {app}", f"flowbits:set,{OWN_APP}; noalert;"
        yield "own", replace(to_server, message=message, options=f"{first} {mark}")
    if app is App.OTHER:
        return
    sides = ("client", "server") if app in SERVER else ("client",)
    marks = " ".join(f"flowbits:set,{started(side)};" for side in sides)
    message = f"new connection of {on_flow}"
    yield "new", replace(to_server, message=message, options=f"{first} {marks} noalert;")
    message = f"data before the connection stands on {on_flow}"
    options = f"{first} dsize:>0;"
    yield "syn", replace(to_server, protocol="tcp-pkt", message=message, options=options)
    said = " flowbits:isnotset,app.said; flowbits:set,app.said;" if once else ""
    yield from _judged(part, "client", CLIENT[app], f"not {app} on {on_flow}", said)
    if app in SERVER:
        message = f"not {app} from the server on {on_flow}"
        yield from _judged(part, "server", SERVER[app], message, said)
        return
    if app is App.HTTP:
        method = _rule(part, "established,to_server")
        message = f"unknown HTTP method on {on_flow}"
        options = f'{method.options} http.method; pcre:"/^(?!(?:{"|".join(HTTP_METHODS)})$)/";'
        yield "method", replace(method, protocol="http", message=message, options=options)
    answer = _rule(part, "established,to_client")
    message = f"server speaks first on {on_flow}, so this is not {app}"
    options = f"{answer.options} flowbits:isset,{started('client')}; stream_size:client,<,2; dsize:>0;{said}"
    yield "early", replace(answer, protocol="tcp-pkt", message=message, options=options)


def _judged(
    part: _Part, side: str, opening: Opening, message: str, said: str
) -> Iterator[tuple[str, Rule]]:
    """The rules `whole` and `wrong` for one side of a connection."""
    direction, _, _ = SIDES[side]
    base = replace(_rule(part, f"established,{direction},only_stream"), protocol="tcp-stream")
    looked_at = (
        f"{base.options} flowbits:isset,{started(side)}; flowbits:isnotset,{decided(side)}; "
        f"flowint:app.{side}.at,==,1;"
    )
    prefix = "server-" if side == "server" else ""
    whole = f'{looked_at} pcre:"/{opening.whole}/s"; flowbits:set,{decided(side)}; noalert;'
    passed = f"{part.app} from the {side} on flow {part.flow.id}"
    yield f"{prefix}whole", replace(base, message=passed, options=whole)
    wrong = f'{looked_at} pcre:"/{opening.wrong}/s";{said}'
    yield f"{prefix}wrong", replace(base, message=message, options=wrong)


def _rule(part: _Part, flow: str) -> Rule:
    """A rule on the packets of one direction."""
    back = "to_client" in flow
    ends = in_rule(part.sources), in_rule(part.targets)
    ports = ports_of(part.service)
    return Rule(
        sid=0,
        message="",
        protocol="tcp",
        source=ends[back],
        target=ends[not back],
        ports=ANY if back else ports,
        options=f"flow:{flow};",
        kind="policy-violation",
        source_ports=ports if back else ANY,
        metadata=f"flow {part.flow.id}, app {part.app}",
    )


def _checks(parts: list[_Part], sids: Mapping[str, int]) -> Iterator[AppCheck]:
    checked: dict[tuple[str, int], list[_Part]] = {}
    for part in parts:
        if part.app is not App.OTHER:
            checked.setdefault((part.flow.id, part.number), []).append(part)
    for (flow, number), its in checked.items():
        app, service = its[0].app, its[0].service
        payload = PayloadPair(
            Protocol.TCP, _STOPPED.get(app, _OWN_PROTOCOL), _PASSED[app], service.first, app
        )
        rules = tuple(str(sids[f"{part.key}/wrong"]) for part in its)
        yield AppCheck(flow, number, app, rules, payload)
