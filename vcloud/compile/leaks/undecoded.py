"""Rules for forms of data that a detector cannot read, because Suricata does not decode them.

A detector that blocks drops such a message, with an event of its own; a detector that alerts logs
it. This prevents accidents. It does not stop somebody who wants to hide data in an unknown form.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from vcloud.compile.ips.rules import ANY, Rule
from vcloud.design.addressing import spread
from vcloud.design.model import Detector

FIRST_UNDECODED, LAST_UNDECODED = 1300000, 1399999
SID_BITS: Final = 32
_LINES: Final = r"(?:[^\r\n]++\r?\n)*?"
_TOP: Final = r"(?:MIME-Version|Subject|From|To|Cc|Date|Message-ID):"
"""Matches a header that a mail has, and a part of a mail has not."""
_HEADERS: Final = rf"(?:(?:^|\n)DATA\r?\n|\n--[^\r\n]{{1,80}}\r?\n|\A(?={_LINES}{_TOP}))"
"""Matches what stands before the headers of a mail, or of one of its parts. Suricata shows about 4
KiB at a time, so the beginning of a mail's headers may be out of sight.
"""
_BASE64: Final = r"Content-Transfer-Encoding:[ \t]*+(?:\r?\n[ \t]++)?base64"
_NAME: Final = r"[^\r\n]*?\b(?:file)?name\*?[0-9]*\*?="


@dataclass(frozen=True, slots=True)
class Undecoded:
    """A form of data that Suricata does not decode."""

    name: str
    what: str
    protocol: str
    """In Suricata's words."""
    options: str


def _header(direction: str, name: str, known: str) -> str:
    """Matches an HTTP header whose value is none of the known ones."""
    return (
        f'flow:established,{direction}; http.header.raw; content:"{name}"; nocase; '
        rf'pcre:"/^{name}[ \t]*:(?![ \t]*(?:{known})[ \t]*\r?$)/miO";'
    )


_CODINGS: Final = "(?:x-)?gzip|deflate|identity"
UNDECODED: Final = (
    *(
        Undecoded(
            f"{message}-{kind}",
            f"{kind} coding of {article}",
            "http",
            _header(direction, name, known),
        )
        for direction, message, article in (
            ("to_server", "request", "a request"),
            ("to_client", "answer", "an answer"),
        )
        for kind, name, known in (
            ("content", "Content-Encoding", _CODINGS),
            ("transfer", "Transfer-Encoding", "chunked|identity"),
        )
    ),
    *(
        Undecoded(event, what, "http", f"flow:established; app-layer-event:http.{event};")
        for event, what in (
            ("compression_bomb", "body that unpacks to too much or too slowly"),
            ("abnormal_ce_header", "unknown content coding"),
            ("too_many_encoding_layers", "too many content codings"),
        )
    ),
    Undecoded(
        "mail-part",
        "base64 part of a mail without a file name",
        "tcp-stream",
        "flow:established,to_server,only_stream; app-layer-protocol:smtp; "
        'content:"Content-Transfer-Encoding"; nocase; '
        # Without O, Suricata would give up after 3,500 steps: 3 KiB of headers need more.
        rf'pcre:"/{_HEADERS}(?={_LINES}{_BASE64})(?!{_LINES}{_NAME})(?:[^\r\n]++\r?\n)++\r?\n/iO";',
    ),
    Undecoded(
        "mail-chunks",
        "mail sent by BDAT",
        "tcp-stream",
        "flow:established,to_server,only_stream; app-layer-protocol:smtp; "
        r'content:"BDAT "; nocase; pcre:"/\nBDAT [0-9]+(?: LAST)?\r?\n/iO";',
    ),
)


def undecoded_rules(
    detectors: Iterable[Detector], ends: Mapping[str, tuple[str, str]], bits: Mapping[str, str]
) -> list[tuple[Detector, Rule]]:
    """The rules of all detectors. `ends` has the source and the target of each detector's rules.
    `bits` has the flowbit of connections on which the detector's data may leave.
    """
    detectors = tuple(detectors)
    sids = undecoded_sids(detectors)
    return [
        (
            detector,
            Rule(
                sid=sids[detector.id, form.name],
                message=f"{form.what}, which {detector.id} cannot search",
                protocol=form.protocol,
                source=ends[detector.id][0],
                target=ends[detector.id][1],
                ports=ANY,
                options=(f"flowbits:isnotset,{bits[detector.id]}; " if detector.id in bits else "")
                + form.options,
                kind="vcloud-leak",
                metadata=f"detector {detector.id}, undecoded {form.name}",
            ),
        )
        for detector in detectors
        for form in UNDECODED
    ]


def undecoded_sids(detectors: Iterable[Detector]) -> dict[tuple[str, str], int]:
    """(detector, name of the form) -> sid. A sid does not change when other detectors are added or
    removed.
    """
    keys = {
        f"{detector.id}/{form.name}": (detector.id, form.name)
        for detector in detectors
        for form in UNDECODED
    }
    sids = spread(keys, SID_BITS, FIRST_UNDECODED, LAST_UNDECODED, "undecoded")
    return {keys[key]: sid for key, sid in sids.items()}
