"""What `verify` relies on, with the real Suricata: its test payloads, and what Suricata says that
it lost.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.netns.ips.lab import LONGEST, OUTSIDE4, IpsLab, Seen
from tests.netns.ips.traffic import CARDS, DB, DESIGN, ORDERS, send
from vcloud.compile.ips.files import ips_files
from vcloud.compile.ips.rules import PayloadPair
from vcloud.compile.leaks.payloads import places_of
from vcloud.compile.leaks.rules import rule_sids
from vcloud.design.model import Detector
from vcloud.proof.ips_report import parse_ips_report

SIDS = rule_sids((CARDS, ORDERS))
PLACES = [
    pytest.param(detector, channel, payload, id=f"{detector.id}-{channel}")
    for detector in (CARDS, ORDERS)
    for channel, payload in places_of(detector).items()
]
RING = 1024
"""Frames that Suricata's ring holds (`ring-size` in suricata.yaml)."""


@pytest.mark.parametrize(("detector", "channel", "payload"), PLACES)
def test_what_is_sent_to_each_place_is_stopped_and_its_harmless_twin_passes(
    shared: IpsLab, detector: Detector, channel: str, payload: PayloadPair
) -> None:
    stopped, passed = (
        send(shared, payload, content, DB[0], OUTSIDE4)
        for content in (payload.stopped, payload.passed)
    )
    assert not stopped.arrived
    assert stopped.blocked <= {sid for (name, _), sid in SIDS.items() if name == detector.id}
    # Suricata searches the bodies of HTTP/2 with the rules of HTTP/1 as well.
    first = "http-request-body" if channel == "http2-body" else channel
    assert SIDS[detector.id, first] in stopped.blocked
    assert passed == Seen(arrived=True, alerts=())


def test_a_rule_that_is_gone_lets_its_place_pass_and_no_other(own: IpsLab) -> None:
    """So its own check, and no other one, goes red."""
    gone = f"sid:{SIDS[CARDS.id, 'http-request-cookie']};".encode()
    files = ips_files(DESIGN)
    left = {
        name: b"\n".join(line for line in text.split(b"\n") if gone not in line)
        for name, text in files.items()
    }
    assert left != files
    own.load(left)
    places = places_of(CARDS)
    arrived = {
        channel
        for channel in ("http-request-cookie", "http-request-header", "http-target")
        if send(own, places[channel], places[channel].stopped, DB[0], OUTSIDE4).arrived
    }
    assert arrived == {"http-request-cookie"}


def lost(lab: IpsLab) -> int:
    return parse_ips_report(lab.chroot("/usr/lib/vcloud/ips-report").stdout).lost


@contextmanager
def halted(lab: IpsLab) -> Iterator[None]:
    """Suricata takes no packets out of its ring."""
    pid = lab.path("/run/suricata/suricata.pid").read_text().strip()
    lab.ips.run("kill", "-STOP", pid)
    try:
        yield
    finally:
        lab.ips.run("kill", "-CONT", pid)


def test_packets_that_did_not_fit_into_the_ring_are_known_to_be_lost(shared: IpsLab) -> None:
    """The twin are those that only waited there: all of them arrive, and none counts as lost."""
    family, kind = socket.AF_INET, socket.SOCK_DGRAM
    with (
        shared.machine(OUTSIDE4).socket(family, kind) as server,
        shared.machine(DB[0]).socket(family, kind) as client,
    ):
        server.bind((OUTSIDE4, 9000))
        server.settimeout(LONGEST)
        client.bind((DB[0], 0))
        with halted(shared):
            for _ in range(RING // 4):
                client.sendto(b"waits", (OUTSIDE4, 9000))
        assert {server.recv(100) for _ in range(RING // 4)} == {b"waits"}
        assert lost(shared) == 0
        with halted(shared):
            for _ in range(RING * 2):
                client.sendto(b"too many", (OUTSIDE4, 9000))
        deadline = time.monotonic() + LONGEST
        while not lost(shared):
            assert time.monotonic() < deadline, "Suricata counts every 3 seconds"
            time.sleep(0.2)
