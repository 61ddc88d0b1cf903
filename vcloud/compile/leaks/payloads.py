"""Test payloads that prove a detector: messages that must be stopped, and similar messages that
must arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from vcloud.compile.ips.rules import PayloadPair, http_request
from vcloud.compile.leaks.kinds import kind_of
from vcloud.design.model import Detector
from vcloud.patterns.example import NoExampleError
from vcloud.values import App, Protocol


def payloads_of(detector: Detector) -> tuple[PayloadPair, ...]:
    """A client's upload by TCP, a server's answer by TCP, and a datagram. They prove the detector
    when sent from its zones to outside them.

    Raises NoExampleError if no text is found that tests the detector, or if the detector also finds
    its data in the headers of the messages, so that no message could pass.
    """
    kind = kind_of(detector)
    found, not_found = (text.encode() for text in kind.sample_texts(detector))
    payloads = (
        PayloadPair(Protocol.TCP, _upload(found), _upload(not_found)),
        PayloadPair(Protocol.TCP, _answer(found), _answer(not_found), request=http_request()),
        PayloadPair(Protocol.UDP, found, not_found),
    )
    if any(kind.is_found(detector, payload.passed.decode()) for payload in payloads):
        raise NoExampleError(
            f"the pattern '{detector.regex}' also matches the headers of any HTTP message",
            "Make it say more of what it looks for.",
        )
    return payloads


def message_of(detector: Detector, app: App) -> PayloadPair | None:
    """The first message of a client in the protocol of a flow, with the data in it: by HTTP if the
    flow carries anything. None for a protocol in which no such message is known, or if the detector
    would not find the data there.

    Raises NoExampleError as `payloads_of`.
    """
    upload, _, datagram = payloads_of(detector)
    if app in (App.HTTP, App.OTHER):
        return upload
    if app not in _MESSAGES or len(datagram.stopped) > _LINE:
        return None
    write = _MESSAGES[app]
    stopped, passed = write(datagram.stopped), write(datagram.passed)
    found = [
        kind_of(detector).is_found(detector, message.decode(errors="replace"))
        for message in (stopped, passed)
    ]
    return PayloadPair(Protocol.TCP, stopped, passed, app=app) if found == [True, False] else None


def places_of(detector: Detector) -> dict[str, PayloadPair]:
    """Channel -> a message that carries the text only in this channel, in a form that only the
    decoding of this channel reveals. It proves that the detector searches the channel. A channel is
    left out if the text does not fit there, or if the detector would not find the text there (a
    pattern may demand certain characters before it).

    Raises NoExampleError as `payloads_of`.
    """
    *_, datagram = payloads_of(detector)
    stopped, passed = datagram.stopped.decode(), datagram.passed.decode()
    is_found = kind_of(detector).is_found
    return {
        channel: PayloadPair(
            place.protocol, place.write(stopped), place.write(passed), port=place.port
        )
        for channel, place in _PLACES.items()
        if max(len(stopped), len(passed)) <= place.longest
        and is_found(detector, place.decoded(stopped))
        and not is_found(detector, place.decoded(passed))
    }


def _upload(body: bytes) -> bytes:
    return http_request("/", "Content-Type: text/plain\r\n", body, "POST")


def _redis(text: bytes) -> bytes:
    """A command that the server answers with the same text."""
    return b"*2\r\n$4\r\nECHO\r\n$%d\r\n%b\r\n" % (len(text), text)


def _postgres(text: bytes) -> bytes:
    """A client's start, with the text as the name of the user."""
    start = bytes.fromhex("00030000") + b"user\0" + text + b"\0\0"
    return (len(start) + 4).to_bytes(4, "big") + start


def _answer(body: bytes) -> bytes:
    return (
        f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
        + body
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """A channel that a client can fill."""

    protocol: Protocol
    longest: int
    """Characters that fit there."""
    write: Callable[[str], bytes]
    decoded: Callable[[str], str]
    """The data that Suricata gives the detector, for a message with this text."""
    port: int = 0
    """The only port on which Suricata decodes this channel; 0: any port."""


def _escaped(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


def _target(text: str) -> bytes:
    return http_request(f"/?p={_escaped(text)}")


def _form(text: str) -> bytes:
    kind = "Content-Type: application/x-www-form-urlencoded\r\n"
    return http_request("/", kind, b"p=" + _escaped(text).encode(), "POST")


def _header(text: str) -> bytes:
    return http_request("/", f"X-Probe: {_escaped(text)}\r\n")


def _cookie(text: str) -> bytes:
    return http_request("/", f"Cookie: p={_escaped(text)}\r\n")


def _http2_upload(text: str) -> bytes:
    """The beginning of an HTTP/2 connection without TLS (RFC 9113): settings, the headers of a POST
    request, and the body with each byte in a frame of its own.
    """

    def frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
        head = len(content).to_bytes(3, "big") + bytes([kind, flags])
        return head + stream.to_bytes(4, "big") + content

    headers = bytes.fromhex("838684") + b"\x41\x01x"  # POST / over http to the host `x` (HPACK)
    body = b"".join(frame(0, 0, 1, bytes([byte])) for byte in text.encode()) + frame(0, 1, 1, b"")
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    return preface + frame(4, 0, 0, b"") + frame(1, 4, 1, headers) + body


def _dns_query(text: str) -> bytes:
    labels = b"".join(bytes([len(label)]) + label for label in text.encode().split())
    return bytes.fromhex("766301000001000000000000") + labels + bytes.fromhex("0000010001")


def _dns_name(text: str) -> str:
    return ".".join(text.split()) if text.isascii() else ""


_LINE: Final = 2000
"""A server or Suricata may not read longer lines of a request completely."""
_MESSAGES: Final[Mapping[App, Callable[[bytes], bytes]]] = {
    App.REDIS: _redis,
    App.POSTGRES: _postgres,
}
_NAME: Final = 60
"""A longer name could match the rule against tunnels, or a part of it could be too long for a
label.
"""
_PLACES: Final[Mapping[str, _Place]] = {
    "http-target": _Place(Protocol.TCP, _LINE, _target, "/?p={}".format),
    "http-request-body": _Place(Protocol.TCP, 20_000, _form, "p={}".format),
    "http-request-header": _Place(
        Protocol.TCP,
        _LINE,
        _header,
        "Host: probe.vcloud\r\nX-Probe: {}\r\nConnection: close\r\n".format,
    ),
    "http-request-cookie": _Place(Protocol.TCP, _LINE, _cookie, "p={}".format),
    "http2-body": _Place(Protocol.TCP, 1000, _http2_upload, str),
    "udp": _Place(Protocol.UDP, 1000, str.encode, str),
    "dns-name": _Place(Protocol.UDP, _NAME, _dns_query, _dns_name, port=53),
}
