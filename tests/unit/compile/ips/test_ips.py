"""The files of the IPS and the rules that ship with it."""

from __future__ import annotations

import hashlib
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.design_builder import build_design
from vcloud.compile.ips.files import FOLDER, ips_digest, ips_files
from vcloud.compile.ips.rules import SHIPPED, ShippedRule
from vcloud.design.model import Design, Detector
from vcloud.design.origin import Product
from vcloud.values import Action, Mode


def design_with(zones: str = "dmz:inspected lab app-tier:inspected") -> Design:
    return build_design(
        zones=zones,
        vms={"web": "dmz x2", "api": "app-tier", "tool": "lab"},
        flows="orders: web -> api tcp/8000",
    )


def configuration(design: Design) -> dict[str, object]:
    text = ips_files(design)[f"{FOLDER}/suricata.yaml"]
    loaded: dict[str, object] = yaml.safe_load(text)
    return loaded


def test_same_design_same_bytes() -> None:
    assert ips_files(design_with()) == ips_files(design_with())


def test_a_design_without_inspection_has_no_files() -> None:
    assert ips_files(build_design(zones="dmz", vms={"web": "dmz"})) == {}


def test_each_inspected_zone_is_a_wire_in_both_directions() -> None:
    wires = configuration(design_with())["af-packet"]
    assert [(wire["interface"], wire["copy-iface"]) for wire in wires] == [  # type: ignore[attr-defined]
        ("v-dmz", "f-dmz"),
        ("f-dmz", "v-dmz"),
        ("v-app-tier", "f-app-tier"),
        ("f-app-tier", "v-app-tier"),
    ]
    assert len({wire["cluster-id"] for wire in wires}) == 4  # type: ignore[attr-defined]
    assert {wire["copy-mode"] for wire in wires} == {"ips"}  # type: ignore[attr-defined]


def test_nothing_that_was_seen_is_written_to_the_log() -> None:
    (eve,) = configuration(design_with())["outputs"]  # type: ignore[misc]
    alert, drop = eve["eve-log"]["types"]
    assert {
        alert["alert"][key]
        for key in ("payload", "payload-printable", "packet", "http-body", "http-body-printable")
    } == {False}
    assert alert["alert"]["metadata"]["app-layer"] is False
    assert set(drop) == {"drop"}


def test_variables_hold_every_zone_in_both_versions_of_ip() -> None:
    design = design_with()
    groups = yaml.safe_load(ips_files(design)[f"{FOLDER}/vars.yaml"])["vars"]["address-groups"]
    assert set(groups) == {"VAPP", "ZONE_DMZ", "ZONE_LAB", "ZONE_APP_TIER"}
    assert all(f"{zone.prefix4},{zone.prefix6}" in groups["VAPP"] for zone in design.zones)


def test_variables_hold_the_groups_that_rules_name() -> None:
    design = build_design(
        zones="dmz:inspected", vms={"web": "dmz x100"}, flows="all: web -> web tcp/80"
    )
    detector = Detector("cards", "card-number", "", 1, ("dmz",), ("all",), Action.BLOCK, Product())
    files = ips_files(replace(design, inspection=replace(design.inspection, detectors=(detector,))))
    groups = yaml.safe_load(files[f"{FOLDER}/vars.yaml"])["vars"]["address-groups"]
    named = set(
        re.findall(
            r"\$(\w+)", files[f"{FOLDER}/rules/leaks.rules"].decode() + "".join(groups.values())
        )
    )
    assert any(name.startswith("NICS_") for name in named)
    assert named == set(groups) - {"VAPP"}


def test_only_inspected_zones_touch_what_takes_a_restart() -> None:
    def fixed(design: Design) -> bytes:
        return ips_files(design)[f"{FOLDER}/suricata.yaml"]

    assert fixed(design_with("dmz:inspected lab app-tier:inspected more")) == fixed(design_with())
    assert fixed(design_with("dmz:inspected lab:inspected app-tier:inspected")) != fixed(
        design_with()
    )


@pytest.mark.parametrize(("mode", "action"), [(Mode.PREVENT, "drop"), (Mode.DETECT, "alert")])
def test_the_mode_decides_what_attack_rules_do(mode: Mode, action: str) -> None:
    design = design_with()
    design = replace(design, inspection=replace(design.inspection, mode=mode))
    lines = ips_files(design)[f"{FOLDER}/rules/attacks.rules"].decode().splitlines()
    assert [line.split()[0] for line in lines if not line.startswith("#")] == [action] * len(
        SHIPPED
    )


def test_the_digest_is_what_sha256sum_makes_of_the_folder(tmp_path: Path) -> None:
    files = ips_files(design_with())
    for path, content in files.items():
        place = tmp_path / path.removeprefix(f"{FOLDER}/")
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(content)
    listing = subprocess.run(
        ["sh", "-c", "find . -type f -exec sha256sum {} + | LC_ALL=C sort -k 2"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    ).stdout
    assert ips_digest(files) == hashlib.sha256(listing).hexdigest()


def test_sids_are_unique() -> None:
    assert len({shipped.rule.sid for shipped in SHIPPED}) == len(SHIPPED)


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda shipped: str(shipped.rule.sid))
def test_a_test_payload_has_two_different_messages(shipped: ShippedRule) -> None:
    assert shipped.payload.stopped
    assert shipped.payload.passed
    assert shipped.payload.stopped != shipped.payload.passed
