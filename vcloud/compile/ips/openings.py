r"""How a connection of each protocol begins: the first bytes of the side that speaks first, as
patterns.

A pattern is a list of steps, each of which is a short expression. A client may send its request
byte by byte. The steps tell for every beginning whether it is complete, can still become right, or
is wrong.

In a step, `;` `"` and `/` are written \x3b, \x22 and \x2f, as in all patterns of
`vcloud.compile.ips.rules`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from vcloud.values import App

Steps = tuple[str, ...]
_NEVER: Final = "(?!)"
"""A last step that nothing matches. A form that ends with it can be incomplete or wrong, but never
complete.
"""


@dataclass(frozen=True, slots=True)
class Opening:
    """The first bytes of one side of a connection."""

    forms: tuple[Steps, ...]
    """Every way to begin."""
    longest: int
    """A beginning of more bytes than this is complete or wrong."""

    @property
    def whole(self) -> str:
        """Matches a stream that begins as the protocol demands."""
        forms = (steps for steps in self.forms if steps[-1] != _NEVER)
        return f"^(?:{'|'.join(map(''.join, forms))})"

    @property
    def wrong(self) -> str:
        """Matches a beginning that cannot become right, whatever follows."""
        forms = "|".join(map(_so_far, self.forms))
        return rf"^(?!{self.whole.removeprefix('^')}|(?=.{{0,{self.longest}}}\z)(?:{forms}))"


def _so_far(steps: Steps) -> str:
    """Matches a text that ends after any of the steps."""
    pattern = ""
    for step in reversed(steps):
        pattern = step + (rf"(?:\z|{pattern})" if pattern else "")
    return pattern


def _bytes(text: bytes) -> Steps:
    # Letters and digits mean themselves in a pattern.
    return tuple(
        chr(byte) if chr(byte).isascii() and chr(byte).isalnum() else f"\\x{byte:02x}"
        for byte in text
    )


def _words(words: Iterable[str], then: str) -> tuple[Steps, ...]:
    """Commands in upper or lower case, each with what follows it."""
    return tuple(
        (*(f"[{letter.upper()}{letter.lower()}]" for letter in word), then) for word in words
    )


def _any(count: int) -> Steps:
    return (".",) * count


HTTP_METHODS: Final = (
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "PATCH",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "REPORT",
)
_TLS: Final = (r"\x16", r"\x03", r"[\x01-\x03]", ".", ".", r"\x01")
_HTTP = Opening(
    (
        *(_bytes(f"{method} ".encode()) for method in HTTP_METHODS),
        _bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ),
    23,
)
_DNS_HEADER = (
    *_any(2),
    r"[\x00-\x07\x20-\x2f]",
    ".",
    r"\x00",
    r"\x01",
    *(r"\x00", ".") * 3,
    r"[\x00-\x3f]",
)
_ENCRYPT = (*_bytes(bytes.fromhex("0000000804d216")), r"[\x2f\x30]")
_ASKED = f"(?:{''.join(_ENCRYPT)}){{0,2}}"
_START = (
    *_bytes(bytes(2)),
    r"[\x00-\x27]",
    ".",
    r"\x00",
    r"\x03",
    r"\x00",
    r"[\x00-\x02]",
    "[_a-z]",
)
_CANCEL = (*_bytes(bytes(2)), r"[\x00\x01]", ".", *_bytes(bytes.fromhex("04d2162e")))
_GSS = (*_bytes(bytes.fromhex("0000000804d21630")), *_bytes(bytes(2)), *_any(2), r"\x60")
CLIENT: Final = {
    App.HTTP: _HTTP,
    App.TLS: Opening((_TLS,), 5),
    App.POSTGRES: Opening(
        (*((_ASKED, *rest) for rest in (_START, _CANCEL, _TLS, (*_ENCRYPT, _NEVER))), _GSS), 24
    ),
    App.MYSQL: Opening(((*_any(2), r"\x00", r"\x01", *_any(9), *_bytes(bytes(19))),), 31),
    App.REDIS: Opening(
        (
            (r"\*", "[1-9]", "[0-9]{0,6}", r"\r", r"\n", r"\$", "[0-9]"),
            (r"(?![A-Z]+ [^\r\n]{0,400} HTTP\x2f)[A-Za-z]{1,32}", r"[ \r\n]"),
            _TLS,
        ),
        40,
    ),
    App.SSH: Opening((_bytes(b"SSH-2.0-"), _bytes(b"SSH-1.99-")), 8),
    App.DNS: Opening(((*_any(2), *_DNS_HEADER),), 14),
    App.SMTP: Opening(_words(("EHLO", "HELO", "QUIT"), r"[ \r\n]"), 4),
    App.FTP: Opening(
        _words(
            ("USER", "AUTH", "FEAT", "OPTS", "SYST", "HOST", "QUIT", "NOOP", "HELP", "CLNT"),
            r"[ \r\n]",
        ),
        4,
    ),
}
SERVER: Final = {
    App.MYSQL: Opening(
        (
            (*_any(2), r"\x00", r"\x00", r"[\x09\x0a]", "[0-9]"),
            (*_any(2), r"\x00", r"\x00", r"\xff"),
        ),
        5,
    ),
    App.SSH: Opening(
        tuple(
            (r"(?:(?!SSH-)[^\r\n\x00]{0,255}\r?\n){0,20}", *rest)
            for rest in (
                _bytes(b"SSH-2.0-"),
                _bytes(b"SSH-1.99-"),
                (r"(?!SSH-)[^\r\n\x00]{1,255}\r?", _NEVER),
            )
        ),
        500,
    ),
    App.SMTP: Opening(tuple((*code, "[ -]") for code in ("220", "421", "554")), 3),
    App.FTP: Opening(tuple((*code, "[ -]") for code in ("120", "220", "421")), 3),
}
