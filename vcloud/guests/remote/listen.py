"""`listen`: serves addresses in the background so that probes get an answer, and logs who
connected.

All addresses are bound before the process goes into the background, so that the caller knows which
ones it can probe. `listen-stop` ends such a process.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from vcloud.guests.remote.wire import bytes_in, family_of, number_in, parse_each, plain

LONGEST_SERVICE = 86_400
"""Seconds."""
LONGEST_ECHO = 8192
"""Bytes that are sent back to one TCP peer. The prober keeps no more."""
MOST_PEERS = 512
"""TCP connections at once. A new one replaces the oldest."""
MOST_LOGGED = 100_000
"""At most so many lines of the log, and so many UDP answers. A flood must not fill the memory, and
two services must not answer each other for ever.
"""
STOP_SECONDS = 5.0
LOG_FOLDER = "/run/vcloud"


class Service:
    """An address that is served. `socket` is None if another program has the port."""

    def __init__(self, line: str, _number: int) -> None:
        fields = line.split(" ", 3)
        if fields[0] not in ("tcp", "udp"):
            raise ValueError(f"'{fields[0][:40]}' is not tcp or udp")
        if len(fields) < 3:
            raise ValueError("too few fields")
        self.protocol, self.family = fields[0], family_of(fields[1])
        self.address, self.port = plain(fields[1]), number_in(fields[2], 1, 0xFFFF)
        self.answer = bytes_in(fields[3]) if len(fields) == 4 else None
        self.socket: socket.socket | None = self.bound_socket()

    def bound_socket(self) -> socket.socket | None:
        kind = socket.SOCK_STREAM if self.protocol == "tcp" else socket.SOCK_DGRAM
        opened = socket.socket(self.family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        if self.protocol == "tcp":
            # Without this, connections that have just ended would keep the port busy. It is not set
            # for UDP, because two programs could then share a port.
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.family == socket.AF_INET6:
            # The same port can then be served in IPv4, too.
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            opened.bind((self.address, self.port))
            if self.protocol == "tcp":
                opened.listen(socket.SOMAXCONN)
        except OSError as error:
            opened.close()
            if error.errno == errno.EADDRINUSE:
                return None
            raise ValueError(f"{self.address}: {error.strerror}") from None
        return opened

    @property
    def opened(self) -> socket.socket:
        """The socket of a service that is served."""
        assert self.socket is not None  # noqa: S101 - `Server` keeps no other services
        return self.socket

    def __str__(self) -> str:
        return f"{self.protocol} {self.address} {self.port}"


class Peer:
    """A TCP connection to a service."""

    def __init__(
        self, service: Service, connection: socket.socket, address: str, port: int
    ) -> None:
        self.service, self.socket, self.address, self.port = service, connection, address, port
        self.received = self.echoed = 0


class Server:
    """Answers for all services, and logs who connected: one line each. The log never has a partial
    line.
    """

    def __init__(self, services: list[Service], log: int) -> None:
        self.log, self.logged = log, 0
        self.epoll = select.epoll()
        self.services = {service.socket.fileno(): service for service in services if service.socket}
        self.peers: dict[int, Peer] = {}
        for number in self.services:
            self.epoll.register(number, select.EPOLLIN)

    def serve(self, stop: int, deadline: float) -> None:
        """Serves until the deadline, or until there is something to read at `stop`."""
        self.epoll.register(stop, select.EPOLLIN)
        while (left := deadline - time.monotonic()) > 0:
            # One event at a time, because `welcome` may close a connection for which another event
            # waits.
            for number, _ in self.epoll.poll(left, 1):
                if number == stop:
                    deadline = 0.0
                elif number in self.peers:
                    self.converse(self.peers[number])
                elif self.services[number].protocol == "tcp":
                    self.welcome(self.services[number])
                else:
                    self.answer_datagram(self.services[number])
        for peer in list(self.peers.values()):
            self.part(peer)

    def welcome(self, service: Service) -> None:
        if len(self.peers) == MOST_PEERS:
            self.part(next(iter(self.peers.values())))
        try:
            connection, end = service.opened.accept()
        except OSError:  # the peer has gone already
            return
        connection.setblocking(False)
        self.peers[connection.fileno()] = Peer(service, connection, plain(end[0]), end[1])
        self.epoll.register(connection, select.EPOLLIN)

    def converse(self, peer: Peer) -> None:
        """Reads what the peer sent, so that it is acknowledged. Sends the service's answer after
        the first data, or sends the data back.
        """
        try:
            data = peer.socket.recv(16384)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.part(peer)
            return
        # A service with an answer of its own sends it once, after the first data. Any other service
        # sends the data back, up to a limit.
        back = data[: LONGEST_ECHO - peer.echoed] if peer.service.answer is None else b""
        answer = (
            peer.service.answer if peer.service.answer is not None and not peer.received else back
        )
        peer.echoed += len(back)
        peer.received += len(data)
        if answer:
            send_quietly(lambda: peer.socket.send(answer, socket.MSG_NOSIGNAL))

    def part(self, peer: Peer) -> None:
        self.note(peer.service, peer.address, peer.port, peer.received)
        del self.peers[peer.socket.fileno()]
        peer.socket.close()

    def answer_datagram(self, service: Service) -> None:
        opened = service.opened
        try:
            data, end = opened.recvfrom(65536)
        except OSError:
            return
        self.note(service, plain(end[0]), end[1], len(data))
        if self.logged < MOST_LOGGED:
            answer = data if service.answer is None else service.answer
            send_quietly(lambda: opened.sendto(answer, end))

    def note(self, service: Service, address: str, port: int, size: int) -> None:
        self.logged += 1
        if self.logged > MOST_LOGGED:
            return
        line = {"protocol": service.protocol, "address": service.address, "port": service.port}
        line.update({"from": address, "from_port": port, "bytes": size})
        try:
            os.write(self.log, json.dumps(line, separators=(",", ":")).encode() + b"\n")
        except OSError:
            self.logged = MOST_LOGGED  # the disk is full


def send_quietly(send: Callable[[], object]) -> None:
    """Sends an answer. An error is ignored, because whoever asked notices that no answer comes."""
    try:
        send()
    except OSError:
        return


def listen(seconds: str, data: bytes) -> None:
    """Binds all addresses, so that the caller knows which can be probed, and then serves them in a
    process of its own.
    """
    deadline = time.monotonic() + number_in(seconds, 1, LONGEST_SERVICE)
    # Each service and each peer needs a file number.
    most_files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    services = parse_each(data, Service)
    Path(LOG_FOLDER).mkdir(parents=True, exist_ok=True)
    path = f"{LOG_FOLDER}/listen-{os.urandom(6).hex()}.jsonl"
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
    # Until the child can handle SIGTERM, the signal waits. So an early one is not lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    pid = os.fork()
    if not pid:
        serve_in_background(Server(services, log), deadline)
        # os._exit and not sys.exit, because the child must not print the parent's buffered output.
        os._exit(0)
    bound, busy = (
        [str(service) for service in services if bool(service.socket) is there]
        for there in (True, False)
    )
    print(
        json.dumps({"pid": pid, "bound": bound, "busy": busy, "log": path}, separators=(",", ":"))
    )


def serve_in_background(server: Server, deadline: float) -> None:
    """Leaves the caller's session and its pipes, which the caller may wait for, and serves until
    SIGTERM.
    """
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    # A signal writes a byte into the socket. This wakes epoll, and the handler itself has nothing
    # to do.
    signal.set_wakeup_fd(sender.fileno())
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    server.serve(receiver.fileno(), deadline)


def listen_stop(pid: str) -> None:
    """Ends a background process. Raises ValueError if the process is no listener of this program."""
    number = number_in(pid, 2, 0x7FFFFFFF)
    try:
        process = os.pidfd_open(number)  # from here on, the number cannot become another process's
    except ProcessLookupError:  # its time was over
        return
    if select.select([process], [], [], 0)[0]:
        return
    if not is_listener(number):
        raise ValueError(f"process {number} is no guest listen")
    signal.pidfd_send_signal(process, signal.SIGTERM)
    if not select.select([process], [], [], STOP_SECONDS)[0]:
        raise ValueError(f"process {number} does not end")


def is_listener(pid: int) -> bool:
    """Whether the process was started with the same words as this one, but to listen."""
    ours, theirs = (words_of(name) for name in ("self", str(pid)))
    return len(theirs) == len(ours) and theirs[:-2] == ours[:-2] and theirs[-2] == b"listen"


def words_of(process: str) -> list[bytes]:
    """The words of the command that started a process (its number, or `self`)."""
    return Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")[:-1]
