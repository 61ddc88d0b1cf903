"""`probe`: sends many probes at once, and prints the result of each.

A probe is a small state machine that epoll drives. `start` opens its socket, `advance` handles its
events, and `review` checks the clock and whether the other side has acknowledged all data, which
causes no event.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import json
import os
import select
import socket
import struct
import time
from dataclasses import dataclass

from vcloud.guests.remote.packets import echo_request, forged_packet, is_echo
from vcloud.guests.remote.wire import bytes_in, family_of, number_in, parse_each

IN_FLIGHT = 256
"""Probes that are sent at the same time."""
LONGEST_ANSWER = 8192
LONGEST_TIMEOUT_MS = 600_000
REVIEW = 0.01
"""Seconds between looks at whether the other side has acknowledged all data."""
FIRST_ANSWER = 1.0
"""Seconds to wait for an answer after the acknowledgement."""
SILENCE = 0.15
"""Seconds without more data after which an answer is complete."""
SENDINGS, RESEND = 3, 0.6
"""A datagram without an answer is sent three times, 0.6 s apart, because a packet may get lost. TCP
repeats by itself.
"""

IP_RECVERR, IPV6_RECVERR, IP_BIND_ADDRESS_NO_PORT = 11, 25, 24
MSG_ERRQUEUE, SIOCOUTQ = 0x2000, 0x5411
"""Constants of Linux that Python does not name."""
RESULTS = {
    errno.ECONNREFUSED: "refused",
    errno.ETIMEDOUT: "timeout",
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTDOWN: "unreachable",
    errno.ENETDOWN: "unreachable",
    errno.ENOPROTOOPT: "unreachable",  # ICMP: protocol unreachable
    errno.EACCES: "unreachable",  # ICMP: administratively prohibited; or a local `prohibit` route
    errno.EPERM: "unreachable",  # a local packet filter
}


@dataclass(frozen=True)
class Question:
    """One line of the input."""

    id: str
    protocol: str
    source: str
    """An address, or `-` if the kernel chooses it."""
    target: str
    port: int
    timeout: float
    """Seconds."""
    payload: bytes
    number: int
    """Its index among all questions."""
    card: str = ""
    """The network card that the probe leaves by, whatever the routes are; empty: the routes decide."""

    @property
    def ipv6(self) -> bool:
        return family_of(self.target) == socket.AF_INET6


def parse_question(line: str, number: int) -> Question:
    """Reads `ID PROTOCOL SOURCE TARGET PORT TIMEOUT_MS [PAYLOAD [CARD]]`. Raises ValueError."""
    fields = line.split(" ", 7)
    if len(fields) < 6:
        raise ValueError("too few fields")
    key, protocol, source, target, port, timeout = fields[:6]
    if not all(" " < char <= "~" for char in key):
        raise ValueError("the id is not printable ASCII")
    if protocol not in KINDS:
        raise ValueError(f"'{protocol[:40]}' is not tcp, udp, icmp, spoof-udp or spoof-tcp")
    if protocol.startswith("spoof-") if source == "-" else family_of(source) != family_of(target):
        raise ValueError(f"'{source[:60]}' is no source for this probe")
    payload = b"" if protocol == "tcp" else b"vcloud"
    if len(fields) > 6 and fields[6] != "-":
        payload = bytes_in(fields[6])
    family_of(target)
    seconds = number_in(timeout, 1, LONGEST_TIMEOUT_MS) / 1000
    return Question(
        key,
        protocol,
        source,
        target,
        number_in(port, int(protocol != "icmp"), 0xFFFF),
        seconds,
        payload,
        number,
        fields[7] if len(fields) == 8 else "",
    )


class Probe:
    """A question that is being asked. If a method returns a text, the text is the result; None
    means that the result is not known yet.
    """

    events = select.EPOLLIN

    def __init__(self, ask: Question) -> None:
        self.ask = ask
        self.socket: socket.socket | None = None
        self.source_port = 0
        self.sender = ""
        self.began = time.monotonic()
        self.acknowledged = 0.0
        self.answer = b""

    def start(self) -> None:
        """Opens the socket and sends what can be sent at once. Raises OSError."""
        raise NotImplementedError

    def advance(self, events: int) -> str | None:
        """Reacts to what happened on the socket. Raises OSError, whose number decides the result."""
        raise NotImplementedError

    def review(self, now: float) -> str | None:
        """Reacts to the clock. Raises OSError, whose number decides the result."""
        raise NotImplementedError

    def due(self, now: float) -> float:
        """When the clock matters to this probe next."""
        raise NotImplementedError

    @property
    def deadline(self) -> float:
        return self.began + self.ask.timeout

    @property
    def opened(self) -> socket.socket:
        """The socket, once `start` has opened it."""
        assert self.socket is not None  # noqa: S101 - a probe without a socket is never asked
        return self.socket

    def open(self, kind: int, protocol: int = 0) -> None:
        """Opens the socket and connects it. For UDP and ICMP this leaves the target as the only one
        that can answer.
        """
        family, level = (
            (socket.AF_INET6, socket.IPPROTO_IPV6)
            if self.ask.ipv6
            else (socket.AF_INET, socket.IPPROTO_IP)
        )
        self.socket = socket.socket(
            family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol
        )
        if kind != socket.SOCK_STREAM:  # UDP and ICMP would otherwise ignore most ICMP errors
            self.opened.setsockopt(level, IPV6_RECVERR if self.ask.ipv6 else IP_RECVERR, 1)
        if self.ask.card:
            self.leave_by(self.ask.card)
        if self.ask.source != "-":
            if kind != socket.SOCK_RAW:
                # The kernel then chooses the port in `connect`, for this target only. So there are
                # enough ports for many probes.
                self.opened.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            self.opened.bind((self.ask.source, 0))
        code = self.opened.connect_ex(
            (self.ask.target, 0 if kind == socket.SOCK_RAW else self.ask.port)
        )
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
        if kind != socket.SOCK_RAW:
            self.sender, self.source_port = self.opened.getsockname()[:2]

    def leave_by(self, card: str) -> None:
        """Binds the socket to a card. Raises OSError. An old kernel allows this to root only; the
        error must not look like a packet that was stopped.
        """
        try:
            self.opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, card.encode())
        except PermissionError:
            raise OSError(errno.EOPNOTSUPP, "only root may choose the card here") from None

    def raise_socket_error(self) -> None:
        if code := self.opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, os.strerror(code))


class TcpProbe(Probe):
    """Connects and, if there is a payload, sends it and waits until it is acknowledged and
    answered.
    """

    events = select.EPOLLOUT

    def __init__(self, ask: Question) -> None:
        super().__init__(ask)
        self.connected = self.ended = False
        self.sent = 0
        self.answered = 0.0

    def start(self) -> None:
        self.open(socket.SOCK_STREAM)

    def advance(self, events: int) -> str | None:
        if not self.connected:
            self.raise_socket_error()
            self.connected = True
            if not self.ask.payload:
                return "open"
        try:
            if events & select.EPOLLIN:
                self.gather_answer()
            self.send_payload()
            if events & select.EPOLLERR:
                self.raise_socket_error()
        except OSError as error:
            return self.broken(error)
        self.events = (select.EPOLLOUT if self.sent < len(self.ask.payload) else 0) | (
            0 if self.ended else select.EPOLLIN
        )
        return None

    def broken(self, error: OSError) -> str:
        """The result if an established connection breaks: it depends on whether the payload has
        arrived.
        """
        if self.is_acknowledged():
            return "delivered"
        return (
            "stalled" if error.errno == errno.ETIMEDOUT else RESULTS.get(error.errno or 0, "error")
        )

    def gather_answer(self) -> None:
        try:
            while not self.ended:
                chunk = self.opened.recv(4096)
                if chunk:
                    self.answer = (self.answer + chunk)[:LONGEST_ANSWER]
                    self.answered = time.monotonic()
                self.ended = not chunk or len(self.answer) == LONGEST_ANSWER
        except BlockingIOError:
            return

    def send_payload(self) -> None:
        try:
            while self.sent < len(self.ask.payload):
                self.sent += self.opened.send(
                    memoryview(self.ask.payload)[self.sent :], socket.MSG_NOSIGNAL
                )
        except BlockingIOError:
            return

    def is_acknowledged(self) -> bool:
        return self.sent == len(self.ask.payload) and not any(
            fcntl.ioctl(self.opened, SIOCOUTQ, bytes(4))
        )

    def due(self, now: float) -> float:
        if not self.connected:
            return self.deadline
        if not self.acknowledged:
            return min(self.deadline, now + REVIEW)
        return min(
            self.deadline,
            self.answered + SILENCE if self.answered else self.acknowledged + FIRST_ANSWER,
        )

    def review(self, now: float) -> str | None:
        if self.connected and not self.acknowledged and self.is_acknowledged():
            self.acknowledged = now
        if self.acknowledged:
            return "delivered" if self.ended or now >= self.due(now) else None
        if now >= self.deadline:
            return "stalled" if self.connected else "timeout"
        return None


class DatagramProbe(Probe):
    """Sends a datagram, up to `SENDINGS` times, until it is answered."""

    sendings = 0

    def start(self) -> None:
        self.open(socket.SOCK_DGRAM)
        self.send()

    def send(self) -> None:
        """Sends it, for the first time or again. Raises OSError."""
        self.sendings += 1
        self.opened.send(self.ask.payload)

    def advance(self, events: int) -> str | None:  # noqa: ARG002 - all events are read in the same way
        try:
            self.answer = self.opened.recv(LONGEST_ANSWER)
        except BlockingIOError:
            return None
        return "answered"

    def due(self, now: float) -> float:  # noqa: ARG002
        return (
            min(self.deadline, self.began + self.sendings * RESEND)
            if self.sendings < SENDINGS
            else self.deadline
        )

    def review(self, now: float) -> str | None:
        if now >= self.deadline:
            return "timeout"
        if self.sendings < SENDINGS and now >= self.due(now):
            self.send()
        return None


class EchoProbe(DatagramProbe):
    """An ICMP echo request."""

    identity = 0
    """The same in all echo requests of this process."""

    def start(self) -> None:
        self.open(socket.SOCK_RAW, socket.IPPROTO_ICMPV6 if self.ask.ipv6 else socket.IPPROTO_ICMP)
        self.send()

    @property
    def sequence(self) -> int:
        return self.ask.number & 0xFFFF

    def send(self) -> None:
        self.sendings += 1
        self.opened.send(
            echo_request(self.ask.ipv6, EchoProbe.identity, self.sequence, self.ask.payload)
        )

    def advance(self, events: int) -> str | None:  # noqa: ARG002
        self.raise_own_error()
        try:
            while packet := self.opened.recv(65536):
                # A raw IPv4 socket shows the IP header. Its length is in the lower half of byte 0.
                message = packet if self.ask.ipv6 else packet[(packet[0] & 15) * 4 :]
                if is_echo(message, 129 if self.ask.ipv6 else 0, EchoProbe.identity, self.sequence):
                    return "answered"
        except BlockingIOError:
            return None
        return None

    def review(self, now: float) -> str | None:
        try:
            return super().review(now)
        except OSError:  # it may belong to another probe
            return self.advance(0)

    def raise_own_error(self) -> None:
        """Raw sockets to one target see each other's errors. The error queue says to which request
        each belongs.
        """
        while True:
            try:
                request, controls, _, _ = self.opened.recvmsg(
                    8, 512, MSG_ERRQUEUE | socket.MSG_DONTWAIT
                )
            except OSError:
                break
            if controls and is_echo(
                request, 128 if self.ask.ipv6 else 8, EchoProbe.identity, self.sequence
            ):
                (code,) = struct.unpack_from("=I", controls[0][2])
                raise OSError(code, os.strerror(code))
        self.opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # clears it


class ForgedProbe(DatagramProbe):
    """Packets with the source that the question names. Nobody can answer them, so the result is
    only `sent`.
    """

    def start(self) -> None:
        # A port from 32768 on, as clients have.
        self.source_port = int.from_bytes(os.urandom(2), "big") | 0x8000
        self.send()

    def send(self) -> None:
        self.sendings += 1
        ask = self.ask
        payload = ask.payload if ask.protocol == "spoof-udp" else None
        packet = forged_packet(ask.source, ask.target, self.source_port, ask.port, payload)
        family = socket.AF_INET6 if ask.ipv6 else socket.AF_INET
        with socket.socket(
            family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW
        ) as raw:
            raw.sendto(packet, (ask.target, 0))

    def due(self, now: float) -> float:
        return super().due(now) if self.sendings < SENDINGS else now

    def review(self, now: float) -> str | None:
        return "sent" if self.sendings == SENDINGS or super().review(now) else None


KINDS = {
    "tcp": TcpProbe,
    "udp": DatagramProbe,
    "icmp": EchoProbe,
    "spoof-udp": ForgedProbe,
    "spoof-tcp": ForgedProbe,
}


class Flight:
    """The probes that are being sent."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.probes: set[Probe] = set()

    def start(self, ask: Question) -> None:
        probe = KINDS[ask.protocol](ask)
        try:
            probe.start()
        except OSError as error:
            self.fail(probe, error)
            return
        self.probes.add(probe)
        if probe.socket:
            self.epoll.register(probe.socket, probe.events)

    def step(self) -> None:
        """Waits until something happens on a socket, or until the clock matters to a probe."""
        now = time.monotonic()
        wake = min(probe.due(now) for probe in self.probes)
        by_number = {probe.socket.fileno(): probe for probe in self.probes if probe.socket}
        for number, events in self.epoll.poll(max(0.0, wake - now), 64):
            self.advance(by_number[number], events)
        now = time.monotonic()
        for probe in list(self.probes):
            self.review(probe, now)

    def advance(self, probe: Probe, events: int) -> None:
        try:
            result = probe.advance(events)
        except OSError as error:
            self.fail(probe, error)
            return
        if result:
            self.finish(probe, result)
        else:
            self.epoll.modify(probe.opened, probe.events)

    def review(self, probe: Probe, now: float) -> None:
        try:
            result = probe.review(now)
        except OSError as error:
            self.fail(probe, error)
            return
        if result:
            self.finish(probe, result)

    def fail(self, probe: Probe, error: OSError) -> None:
        result = RESULTS.get(error.errno or 0, "error")
        self.finish(probe, result, (error.strerror or "unknown") if result == "error" else "")

    def finish(self, probe: Probe, result: str, error: str = "") -> None:
        """Prints the result and forgets the probe."""
        seconds = (probe.acknowledged or time.monotonic()) - probe.began
        line = {
            "id": probe.ask.id,
            "result": result,
            "port": probe.source_port,
            "ms": round(seconds * 1000, 3),
        }
        if probe.sender:
            line["sender"] = probe.sender
        if probe.answer:
            line["answer"] = base64.b64encode(probe.answer).decode()
        if error:
            line["error"] = error
        print(json.dumps(line, separators=(",", ":")))
        if probe.socket:
            probe.socket.close()
        self.probes.discard(probe)


def probe_all(data: bytes) -> None:
    """Asks all questions of the input. Raises InputError before any is asked if one line is wrong."""
    waiting = parse_each(data, parse_question)[::-1]
    EchoProbe.identity = int.from_bytes(os.urandom(2), "big")
    flight = Flight()
    while waiting or flight.probes:
        while waiting and len(flight.probes) < IN_FLIGHT:
            flight.start(waiting.pop())
        if flight.probes:
            flight.step()
