"""What another version of a profile changes for packets, while connections stand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cards import cards, design
from tests.netns.ips.lab import OUTSIDE4, IpsLab, Seen, receive
from tests.netns.ips.traffic import CARD, NO_CARD, answer, upload
from vcloud.compile.ips.files import ips_files
from vcloud.compile.ips.rules import http_request
from vcloud.compile.leaks.rules import rule_sids

FRONT = "  ips: {inspect: [front]}\n"
OLD, NEW, NEWEST = (design(cards(version, more=FRONT)) for version in ("3.2.1", "4.0", "4.0.1"))
ADDRESSES = {vm.name: str(vm.nics[0].address4) for vm in OLD.workloads}
WEB, API = ADDRESSES["web"], ADDRESSES["api"]
ORDER = http_request("/orders/1")
SIDS = {sid for made in (OLD, NEW) for sid in rule_sids(made.inspection.detectors).values()}
PASSES = Seen(arrived=True, alerts=())


@pytest.fixture
def lab(ips_root: Path, program: Path, tmp_path: Path) -> Iterator[IpsLab]:
    with IpsLab(OLD, ips_root, program, tmp_path) as made:
        yield made


def told(lab: IpsLab, number: str) -> Seen:
    """The API's answer to the web server, on a declared flow within the vApp."""
    return lab.tcp(WEB, API, 8000, answer(b"card " + number.encode()), request=ORDER)


def is_stopped(seen: Seen) -> bool:
    return not seen.arrived and bool(seen.blocked) and seen.logged <= SIDS


def test_from_3_2_1_to_4_0_card_numbers_stay_in_their_zones_and_connections_stand(
    lab: IpsLab,
) -> None:
    assert lab.load(ips_files(OLD))["rules_failed"] == 0
    assert told(lab, CARD) == PASSES
    assert is_stopped(lab.tcp(API, OUTSIDE4, 9000, upload(b"card=" + CARD.encode())))
    with lab.connection(WEB, API, 8000) as (client, server):
        client.sendall(ORDER)
        assert receive(server, len(ORDER)) == ORDER
        loaded = lab.load(ips_files(NEW))
        assert (loaded["action"], loaded["rules_failed"]) == ("reload", 0)
        said = answer(b"what stood before goes on")
        server.sendall(said)
        assert receive(client, len(said)) == said
    assert is_stopped(told(lab, CARD))
    assert told(lab, NO_CARD) == PASSES
    assert is_stopped(lab.tcp(API, OUTSIDE4, 9000, upload(b"card=" + CARD.encode())))
    # 4.0.1 is the same, byte for byte.
    assert ips_files(NEWEST) == ips_files(NEW)
