"""What `verify` sends into the zones of a detector and gets back, with the real Suricata: it is
written in the protocol of its flow, so the detector decides, and no rule on what the flow carries.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.ips.lab import IpsLab, Seen
from tests.vapps import design_of_text
from vcloud.compile.ips.apps import app_rules
from vcloud.compile.ips.files import ips_files
from vcloud.compile.leaks.payloads import message_of, payloads_of
from vcloud.compile.leaks.rules import rule_sids
from vcloud.design.model import Detector
from vcloud.values import App

DESIGN = design_of_text("""\
vcloud: 1
name: vault
zones: {front: {}, back: {}}
vms:
  door: {image: base, zone: front}
  safe: {image: base, zone: back}
flows:
  - {id: asks, from: door, to: safe, service: [tcp/80, tcp/6379, tcp/5432]}
protection:
  ips: {inspect: [front, back]}
  dlp:
    - {id: cards, detect: card-number, leaving: [back], action: block}
    - {id: orders, detect: {name: orders, regex: 'SHOP-[0-9]{8}'}, leaving: [back], action: block}
""")
DOOR, SAFE = (str(vm.nics[0].address4) for vm in DESIGN.workloads)
PORTS = {App.HTTP: 80, App.REDIS: 6379, App.POSTGRES: 5432}
SIDS = rule_sids(DESIGN.inspection.detectors)


@pytest.fixture(scope="module")
def lab(
    ips_root: Path, program: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[IpsLab]:
    with IpsLab(DESIGN, ips_root, program, tmp_path_factory.mktemp("ips")) as made:
        assert made.load(ips_files(DESIGN))["rules_failed"] == 0
        yield made


@pytest.mark.parametrize("app", PORTS)
@pytest.mark.parametrize("detector", DESIGN.inspection.detectors, ids=lambda one: one.id)
def test_what_a_service_sends_back_is_stopped_by_the_detector_alone(
    lab: IpsLab, detector: Detector, app: App
) -> None:
    pair = message_of(detector, app)
    assert pair
    stopped, passed = (
        lab.tcp(DOOR, SAFE, PORTS[app], message, request=message)
        for message in (pair.stopped, pair.passed)
    )
    assert not stopped.arrived
    assert stopped.blocked
    assert stopped.logged <= {sid for (name, _), sid in SIDS.items() if name == detector.id}
    assert passed == Seen(arrived=True, alerts=())


@pytest.mark.parametrize("app", PORTS)
def test_the_data_alone_does_not_reach_the_detector(lab: IpsLab, app: App) -> None:
    """The twin: no such flow begins with it."""
    *_, data = payloads_of(DESIGN.inspection.detectors[0])
    seen = lab.tcp(DOOR, SAFE, PORTS[app], data.stopped)
    apps = {int(sid) for held in app_rules(DESIGN).checks for sid in held.sids}
    assert not seen.arrived
    assert seen.blocked <= apps
