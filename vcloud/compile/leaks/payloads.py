"""Test payloads that prove a detector: messages that must be stopped, and messages much like them
that must arrive.
"""

from __future__ import annotations

from vcloud.compile.ips.rules import PayloadPair, http_request
from vcloud.compile.leaks.kinds import kind_of
from vcloud.design.model import Detector
from vcloud.patterns.example import NoExampleError
from vcloud.values import Protocol


def payloads_of(detector: Detector) -> tuple[PayloadPair, ...]:
    """A client's upload by TCP, a server's answer by TCP, and a datagram. They prove the detector
    when sent from its zones to outside them.

    Raises NoExampleError where no text is found that tests the detector, or where the detector also
    finds its data in the headers of the messages, so that nothing could pass.
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


def _upload(body: bytes) -> bytes:
    return http_request("/", "Content-Type: text/plain\r\n", body, "POST")


def _answer(body: bytes) -> bytes:
    return (
        f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
        + body
    )
