r"""Leak detectors as rules of Suricata: data that must not leave a set of zones.

A detector's zones are one set. What an address of the set sends to an address outside it is searched, whichever side began the
connection: uploads and answers alike. Inside the set the data is free, and other zones' data is not looked at.

- A connection of an excepted flow gets a flowbit, which the detector's rules want absent. (`pass` would switch off every other rule for
  that connection, too.) The bit's name depends on the exception, so that a live reload does not leave old connections exempt from a new one.
- The raw TCP stream and the payload of UDP and ICMP are always searched. What hides plain text (chunks, gzip, %XX, base64 in mail,
  HPACK, labels in DNS names) is searched again in its decoded form. Encrypted, archived or otherwise encoded data is not seen.
- A card number is found by a pattern and judged by a Lua script, which counts the different ones of a connection. A pattern cannot
  remember: `at_least` of a `regex` counts within one window of the stream (4 KiB, of HTTP bodies at least 16 KiB).
- A detector's own action decides, not the mode of the IPS: `block` drops even where the IPS only detects intrusions.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from vcloud.compile.environment import render
from vcloud.compile.ips.rules import ANY, OUTSIDE, Probe, Rule, http_request
from vcloud.compile.leaks.payment_cards import BRANDS, FEWEST_DIGITS, MOST_DIGITS, example_numbers, wrong_numbers
from vcloud.design.addressing import spread
from vcloud.design.model import Design, Detector, Flow, Nic
from vcloud.patterns.example import NoExampleError, matching_text, near_miss
from vcloud.values import Action, Protocol, Service

CARD_NUMBER: Final = "card-number"
FIRST_RULE, LAST_RULE = 1200000, 1269999
FIRST_EXCEPTION, LAST_EXCEPTION = 1270000, 1299999
SID_BITS: Final = 32
LONGEST_LIST: Final = 2000
"""Characters of a list of addresses that stands in a rule itself. Suricata takes no line of more than 8192."""
LIST_LENGTH: Final = 100
"""Entries of a group in `vars.yaml`; more become a group of groups, because Suricata takes no list of more than 8192 characters, either."""
WIDEST_GAP: Final = 2
"""Separators that may stand between two groups of digits of a card number."""
CARD_CANDIDATE: Final = rf"[2-6](?:[ \t.-]{{0,{WIDEST_GAP}}}\d){{{FEWEST_DIGITS - 1}}}"

Addresses = tuple[str, ...]
"""Of cards, each in both versions of IP, or `OUTSIDE`."""


@dataclass(frozen=True, slots=True)
class Place:
    """One form in which data can leave."""

    name: str
    protocol: str
    options: str
    """Chooses the direction and Suricata's buffer."""
    argument: str = "buffer"
    """What a Lua script gets: a sticky buffer, or the stream or payload where no buffer is chosen."""
    separators: str = " \t-"
    """What may stand between the digits of a card number."""


PLACES: Final = (
    Place("tcp", "tcp", "", "stream"),
    Place("udp", "udp", "", "payload"),
    Place("icmp", "icmp", "", "payload"),
    Place("dns-name", "dns", "dns.query;", separators=" \t-."),
    Place("http-target", "http", "flow:established,to_server; http.uri.raw; url_decode;"),
    Place("http-request-body", "http", "flow:established,to_server; http.request_body; url_decode;"),
    # Both, because what is written with `+` or `%` is only found before it is decoded.
    Place("http-response-body", "http", "flow:established,to_client; http.response_body;"),
    Place("http-response-body-decoded", "http", "flow:established,to_client; http.response_body; url_decode;"),
    Place("http-request-header", "http", "flow:established,to_server; http.header; url_decode;"),
    Place("http-response-header", "http", "flow:established,to_client; http.header; url_decode;"),
    Place("http-request-cookie", "http", "flow:established,to_server; http.cookie; url_decode;"),
    Place("http-response-cookie", "http", "flow:established,to_client; http.cookie; url_decode;"),
    Place("http2-body", "http2", "flow:established; file.data;"),
    Place("mail", "smtp", "flow:established,to_server; file.data;"),
)


@dataclass(frozen=True, slots=True)
class LeakRules:
    """What the detectors of a design become."""

    lines: tuple[str, ...]
    scripts: tuple[tuple[str, str], ...]
    """File name and text of each Lua script."""
    groups: tuple[tuple[str, str], ...]
    """Name and list of each group of addresses that is too long for a rule."""


def leak_rules(design: Design) -> LeakRules:
    """Rules and scripts of all detectors, the same for the same design. Sids stay with their detector and place."""
    detectors = design.inspection.detectors
    sids = rule_sids(detectors)
    exceptions = _Exceptions(design)
    setters = tuple(setter for detector in detectors for setter in exceptions.rules[detector.id])
    numbers = spread((key for key, _ in setters), SID_BITS, FIRST_EXCEPTION, LAST_EXCEPTION, "exception")
    lines = [rule.text("alert").replace(" sid:0;", f" sid:{numbers[key]};") for key, rule in setters]
    lines += [
        _rule(detector, place, sids[detector.id, place.name], exceptions.bits.get(detector.id, ""))
        for detector in detectors
        for place in PLACES
    ]
    scripts = {
        _script_name(detector, place): _script(detector, place)
        for detector in detectors
        if detector.kind == CARD_NUMBER
        for place in PLACES
    }
    return LeakRules(tuple(lines), tuple(sorted(scripts.items())), tuple(sorted(_groups(exceptions.lists).items())))


def rule_sids(detectors: tuple[Detector, ...]) -> dict[tuple[str, str], int]:
    """The sid of each detector's rule for each place: (detector id, place name) -> sid."""
    keys = {f"{detector.id}/{place.name}": (detector.id, place.name) for detector in detectors for place in PLACES}
    return {keys[key]: sid for key, sid in spread(keys, SID_BITS, FIRST_RULE, LAST_RULE, "leak").items()}


def zones_as_addresses(zones: tuple[str, ...]) -> str:
    """A set of zones in a rule, by the variables of `vars.yaml`."""
    names = ["$" + zone_variable(zone) for zone in zones]
    return names[0] if len(names) == 1 else f"[{','.join(names)}]"


def zone_variable(zone: str) -> str:
    return "ZONE_" + zone.upper().replace("-", "_")


def dlp_probes(detector: Detector) -> tuple[Probe, ...]:
    """A TCP client that sends the data, a TCP server that answers with it, and a datagram: sent from the detector's zones to outside them,
    `stopped` must be stopped and `passed`, which holds one match too few or digits that are no card, must arrive.

    Raises NoExampleError when no text is found that tests a `regex`, or when it matches HTTP itself.
    """
    stopped, passed = _card_texts(detector) if detector.kind == CARD_NUMBER else _regex_texts(detector)
    probes = (
        Probe(Protocol.TCP, _upload(stopped), _upload(passed)),
        Probe(Protocol.TCP, _answer(stopped), _answer(passed), request=http_request()),
        Probe(Protocol.UDP, stopped, passed),
    )
    if detector.regex and any(len(re.findall(detector.regex, probe.passed.decode())) >= detector.at_least for probe in probes):
        raise NoExampleError(
            f"the pattern '{detector.regex}' also matches the headers of any HTTP message", "Make it say more of what it looks for."
        )
    return probes


def _card_texts(detector: Detector) -> tuple[bytes, bytes]:
    right, wrong = example_numbers(detector.at_least), wrong_numbers(detector.at_least)
    return _lines(right), _lines((*right[:-1], wrong[-1]))


def _regex_texts(detector: Detector) -> tuple[bytes, bytes]:
    text = matching_text(detector.regex)
    return _lines([text] * detector.at_least), _lines([*[text] * (detector.at_least - 1), near_miss(detector.regex, text)])


def _lines(texts: tuple[str, ...] | list[str]) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


def _upload(body: bytes) -> bytes:
    return http_request("/", "Content-Type: text/plain\r\n", body, "POST")


def _answer(body: bytes) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


def _rule(detector: Detector, place: Place, sid: int, exempt: str) -> str:
    inside = zones_as_addresses(detector.zones)
    unless = f"flowbits:isnotset,{exempt};" if exempt else ""
    rule = Rule(
        sid=sid,
        message=f"leak of {detector.id} ({place.name})",
        protocol=place.protocol,
        source=inside,
        target=f"!{inside}",
        ports=ANY,
        options=" ".join(filter(None, (unless, place.options, _search(detector, place)))),
        kind="vcloud-leak",
        metadata=f"detector {detector.id}, place {place.name}, line {detector.line}",
    )
    return rule.text("drop" if detector.action is Action.BLOCK else "alert")


def _search(detector: Detector, place: Place) -> str:
    if detector.kind == CARD_NUMBER:
        return f'pcre:"/{CARD_CANDIDATE}/"; lua:lua/{_script_name(detector, place)};'
    return f'pcre:"/{counted(escaped(detector.regex), detector.at_least)}/";'


def counted(pattern: str, at_least: int) -> str:
    """A pattern that matches where another one does so many times. Atomic groups never go back, so that it takes linear time."""
    return f"(?:{pattern})" if at_least == 1 else rf"\A(?>(?s:.*?)(?:{pattern})){{{at_least}}}"


def escaped(pattern: str) -> str:
    r"""A pattern as it can stand in `pcre:"/.../"`: the characters that would end it, and all but printable ASCII, become \xHH."""
    text, characters = "", iter(pattern)
    for character in characters:
        follower = next(characters, "") if character == "\\" else ""
        plain = follower or character
        if plain in '/";' or not (plain.isascii() and plain.isprintable()):
            text += "".join(f"\\x{byte:02x}" for byte in plain.encode())
        else:
            text += character + follower
    return text


def _script_name(detector: Detector, place: Place) -> str:
    return f"{detector.id}-{place.argument}{'-dotted' if '.' in place.separators else ''}.lua"


def _script(detector: Detector, place: Place) -> str:
    return render(
        "suricata/card-number.lua.j2",
        detector=detector.id,
        argument=place.argument,
        separators="".join(f"%{separator}" for separator in place.separators).replace("\t", r"\t"),
        widest=WIDEST_GAP,
        at_least=detector.at_least,
        fewest=FEWEST_DIGITS,
        most=MOST_DIGITS,
        brands=BRANDS,
    )


class _Exceptions:
    """On which connections the data of each detector may leave."""

    def __init__(self, design: Design) -> None:
        names = {name for detector in design.inspection.detectors for name in detector.excepted}
        ends = {flow.id: tuple(_ends(flow)) for flow in design.flows if flow.id in names}
        self.lists = tuple(addresses for pairs in ends.values() for pair in pairs for addresses in pair)
        self.rules: dict[str, tuple[tuple[str, Rule], ...]] = {}
        """Detector -> the rules that mark its connections, each with a name to number it by."""
        self.bits: dict[str, str] = {}
        """Detector -> the mark, for those with exceptions."""
        for detector in design.inspection.detectors:
            flows = [flow for flow in design.flows if flow.id in detector.excepted]
            if not flows:
                self.rules[detector.id] = ()
                continue
            plain = {flow.id: tuple(_flow_rules(flow, ends[flow.id])) for flow in flows}
            meant = "\n".join(rule.source + rule.target + rule.ports + rule.protocol for rules in plain.values() for rule in rules)
            bit = self.bits[detector.id] = f"free.{detector.id}.{hashlib.sha256(meant.encode()).hexdigest()[:8]}"
            self.rules[detector.id] = tuple(
                (f"{detector.id}/{flow}/{index}", replace(rule, options=f"flow:to_server; flowbits:set,{bit}; noalert;"))
                for flow, rules in plain.items()
                for index, rule in enumerate(rules)
            )


def _flow_rules(flow: Flow, pairs: tuple[tuple[Addresses, Addresses], ...]) -> Iterator[Rule]:
    """Rules that match exactly the packets from a flow's sources to its targets, and do nothing yet."""
    for service in flow.services:
        for starts, ends in pairs:
            yield Rule(
                0,
                f"data may leave on flow {flow.id}",
                service.protocol,
                _in_rule(starts),
                _in_rule(ends),
                _ports(service),
                "",
                "not-suspicious",
                f"flow {flow.id}, line {flow.line}",
            )


def _ends(flow: Flow) -> Iterator[tuple[Addresses, Addresses]]:
    """Sources that have the same targets, and these.

    No packet goes from a card to itself, so a source that others have as a target may be its own: then all of a tier have the same ones.
    """
    cards = {id(card): card for path in flow.paths for card in (path.source, path.target)}
    texts = {key: _address(card) for key, card in cards.items()}
    targets: dict[str, set[str]] = {}
    for path in flow.paths:
        targets.setdefault(texts[id(path.source)], set()).add(texts[id(path.target)])
    order = {text: place for place, text in enumerate(dict.fromkeys(texts[id(path.target)] for path in flow.paths))}
    sources: dict[frozenset[str], list[str]] = {}
    for source, ends in targets.items():
        sources.setdefault(frozenset(ends | {source} if source in order else ends), []).append(source)
    yield from ((tuple(starts), tuple(sorted(ends, key=order.__getitem__))) for ends, starts in sources.items())


def _address(card: Nic | None) -> str:
    return OUTSIDE if card is None else f"{card.address4},{card.address6}"


def _in_rule(addresses: Addresses) -> str:
    """Addresses as a rule has them: outright, or by the name of their group."""
    if OUTSIDE in addresses:
        return OUTSIDE
    return f"${_group_name(addresses)}" if _is_long(addresses) else _list(addresses)


def _groups(lists: tuple[Addresses, ...]) -> dict[str, str]:
    groups: dict[str, str] = {}
    for addresses in filter(_is_long, lists):
        name = _group_name(addresses)
        parts = [addresses[start : start + LIST_LENGTH] for start in range(0, len(addresses), LIST_LENGTH)]
        groups |= {f"{name}_{number}": _list(part) for number, part in enumerate(parts)}
        groups[name] = _list(tuple(f"${name}_{number}" for number in range(len(parts))))
    return groups


def _is_long(addresses: Addresses) -> bool:
    return OUTSIDE not in addresses and len(_list(addresses)) > LONGEST_LIST


def _group_name(addresses: Addresses) -> str:
    return f"CARDS_{hashlib.sha256(_list(addresses).encode()).hexdigest()[:16].upper()}"


def _list(addresses: Addresses) -> str:
    return f"[{','.join(addresses)}]"


def _ports(service: Service) -> str:
    if service.protocol is Protocol.ICMP:
        return ANY
    return str(service.first) if service.first == service.last else f"{service.first}:{service.last}"
