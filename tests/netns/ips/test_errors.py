"""ICMP errors, which quote a packet: the detectors read them, too. The firewall lets these kinds pass
from a VM, about a packet of a connection that stands.
"""

from __future__ import annotations

import socket

import pytest

from tests.netns import frames
from tests.netns.ips.lab import LONGEST, IpsLab
from tests.netns.ips.traffic import CARD, DB, DESIGN, NO_CARD, NOWHERE, VERSIONS

PORT = 9099
KINDS = (((3, 3), (3, 4)), ((1, 4), (2, 0)))
"""Type and code, of IPv4 and of IPv6."""


@VERSIONS
@pytest.mark.parametrize("number", [0, 1])
def test_an_error_carries_no_leak(shared: IpsLab, version: int, number: int) -> None:
    source, target = DB[version], NOWHERE[version]
    family = (socket.AF_INET, socket.AF_INET6)[version]
    machine, card = shared.machine(source), DESIGN.zone("cde").gateway.ifname
    with (
        shared.connection(target, source, PORT) as (client, server),
        machine.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw,
        frames.listening(shared.firewall, card) as until,
    ):
        server.settimeout(LONGEST)
        client.sendall(b"question")
        assert server.recv(100) == b"question"
        quoted = frames.tcp(target, client.getsockname()[1], source, PORT, frames.ACK)
        for text in (CARD, NO_CARD):
            content = quoted + b" " + text.encode() + b" "
            error = frames.error(source, target, *KINDS[version][number], content)
            raw.sendto(error, (target, 0))
        assert CARD.encode() not in b"".join(until(NO_CARD.encode()))
