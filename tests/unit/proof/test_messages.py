"""What the probes of a detector are written as, on flows that carry different protocols."""

from __future__ import annotations

import re
from itertools import product

import pytest

from tests.design_builder import UPLINK
from tests.unit.proof.samples import WORLD, leak_checks, probe_of
from tests.vapps import design_of_text
from vcloud.compile.ips.apps import app_rules
from vcloud.compile.ips.openings import CLIENT
from vcloud.proof.checks import Kind
from vcloud.proof.inspection import inspection_checks

VAULT = """\
vcloud: 1
name: vault
zones: {front: {}, back: {}}
vms:
  door: {image: base, zone: front}
  safe: {image: base, zone: back}
flows:
  - {id: asks, from: door, to: safe, service: SERVICE}
protection:
  dlp: [{detect: card-number, leaving: [back], action: block}]
"""


@pytest.mark.parametrize(("service", "protocol"), [("tcp/7000", "tcp"), ("udp/7000", "udp")])
def test_what_leaves_in_answers_only_is_tried_by_an_echo(service: str, protocol: str) -> None:
    """Nothing begins in the vault, so what is sent in must not be given back."""
    checks = [
        check
        for check in inspection_checks(
            design_of_text(VAULT.replace("SERVICE", service)), UPLINK, WORLD
        )
        if check.kind is Kind.LEAK
    ]
    assert {(check.passes, probe_of(check).target.version) for check in checks} == set(
        product((True, False), (4, 6))
    )
    for check in checks:
        assert (check.vantage, probe_of(check).protocol) == ("door", protocol)
        assert check.listener
        assert check.echo
        near_miss = next(other for other in checks if other.id == check.echo.check)
        assert near_miss.passes
        assert check.echo.harmless in probe_of(near_miss).payload
        assert check.echo.data in probe_of(check).payload


@pytest.mark.parametrize(
    ("service", "begins"),
    [
        ("tcp/7000, app: http", b"POST / HTTP/1.1\r\n"),
        ("tcp/80", b"POST / HTTP/1.1\r\n"),
        ("tcp/6379", b"*2\r\n$4\r\nECHO\r\n$17\r\n"),
        ("tcp/5432", b"\0\0\0\x20\0\x03\0\0user\0"),
        ("tcp/7000", b""),
        ("tcp/7000, app: other", b""),
    ],
)
def test_what_is_echoed_is_written_in_the_protocol_of_its_flow(service: str, begins: bytes) -> None:
    """The IPS drops everything else on that flow, and the detector would never see it."""
    design = design_of_text(VAULT.replace("SERVICE", service))
    checks = leak_checks(design)
    assert len(checks) == 4
    for check in checks:
        payload = probe_of(check).payload
        assert payload.startswith(begins + b"4111" if b"HTTP" not in begins else begins)
        assert check.echo
        assert check.echo.data in payload
        assert (check.echo.harmless == check.echo.data) == check.passes
        (held,) = app_rules(design).checks or (None,)
        if held is not None:
            opening = CLIENT[held.app]
            assert re.match(opening.whole, payload.decode(), re.DOTALL)
            assert not re.match(opening.wrong.replace(r"\z", r"\Z"), payload.decode(), re.DOTALL)


@pytest.mark.parametrize(
    ("service", "begins"),
    [("tcp/6379", b"*2\r\n"), ("tcp/5432", b"\0\0\0"), ("[tcp/6379, tcp/80]", b"POST /")],
)
def test_what_a_client_sends_out_is_written_in_the_protocol_of_its_flow(
    service: str, begins: bytes
) -> None:
    outwards = VAULT.replace("from: door, to: safe", "from: safe, to: door")
    checks = [
        check
        for check in leak_checks(design_of_text(outwards.replace("SERVICE", service)))
        if "(" not in check.claim
    ]
    assert len(checks) == 4
    for check in checks:
        assert probe_of(check).payload.startswith(begins)
        assert check.echo is None


@pytest.mark.parametrize("service", ["tcp/443", "tcp/22", "tcp/3306", "tcp/53", "tcp/25", "tcp/21"])
def test_a_protocol_in_which_no_probe_is_known_is_not_tried(service: str) -> None:
    (check,) = leak_checks(design_of_text(VAULT.replace("SERVICE", service)))
    assert (check.probe, check.excused) == (None, True)


def test_a_detector_that_no_flow_can_try_says_so() -> None:
    (check,) = [
        check
        for check in inspection_checks(
            design_of_text(VAULT.replace("SERVICE", "icmp")), UPLINK, WORLD
        )
        if check.kind is Kind.LEAK
    ]
    assert (check.probe, check.excused) == (None, True)
    assert "no declared flow" in check.reason
