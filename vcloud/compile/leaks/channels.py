"""The channels by which data can leave: each form in which Suricata gives data to a rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Channel:
    """One part of a protocol's messages, in one decoding."""

    name: str
    protocol: str
    """In Suricata's words."""
    options: str
    """Options of a rule that choose the direction and Suricata's buffer; empty for the raw stream
    or payload.
    """
    argument: str = "buffer"
    """How a Lua script gets the data: `buffer`; or `stream` or `payload` if `options` chooses no
    buffer.
    """
    dotted: bool = False
    """The data comes in pieces with dots in between, like the labels of a DNS name."""


CHANNELS: Final = (
    Channel("tcp", "tcp", "", "stream"),
    Channel("udp", "udp", "", "payload"),
    Channel("icmp", "icmp", "", "payload"),
    Channel("dns-name", "dns", "dns.query;", dotted=True),
    Channel("http-target", "http", "flow:established,to_server; http.uri.raw; url_decode;"),
    Channel(
        "http-request-body", "http", "flow:established,to_server; http.request_body; url_decode;"
    ),
    # Answers are searched both as they are and decoded: a `+` or `%` that belongs to the data is
    # there only before decoding.
    Channel("http-response-body", "http", "flow:established,to_client; http.response_body;"),
    Channel(
        "http-response-body-decoded",
        "http",
        "flow:established,to_client; http.response_body; url_decode;",
    ),
    Channel("http-request-header", "http", "flow:established,to_server; http.header; url_decode;"),
    Channel("http-response-header", "http", "flow:established,to_client; http.header; url_decode;"),
    Channel("http-request-cookie", "http", "flow:established,to_server; http.cookie; url_decode;"),
    Channel("http-response-cookie", "http", "flow:established,to_client; http.cookie; url_decode;"),
    Channel("http2-body", "http2", "flow:established; file.data;"),
    Channel("mail", "smtp", "flow:established,to_server; file.data;"),
)
