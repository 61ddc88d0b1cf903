"""What a vApp with card data gets under each version of pci-dss, in full: one file per version in
tests/golden/profiles. Two files side by side show what a new version changes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cards import VERSIONS, cards, design
from vcloud.compile.artifacts import compile_vapp
from vcloud.compile.ips.files import FOLDER, ips_files
from vcloud.design.model import Design
from vcloud.views.render import UPLINK

GOLDEN = Path(__file__).parents[2] / "golden/profiles"


def told(made: Design) -> str:
    """The protection of a design: whole where profiles change it, by digest where they do not."""
    inspection, files = made.inspection, ips_files(made)
    lines = [
        *made.controls.told(),
        *(f"inspects {zone}: {inspection.origin_in(zone)}" for zone in inspection.zones),
        f"mode: {inspection.mode}",
        *(
            f"{'enforces' if one.enforced else 'supports'} {one.origin}: {', '.join(one.proved_by)}"
            for one in made.controls.controls
        ),
        "",
        *(path.removeprefix(FOLDER) for path in files),
        "",
        files[f"{FOLDER}/rules/leaks.rules"].decode(),
    ]
    return "\n".join(lines)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_rendered_is_what_was_reviewed(
    version: str, request: pytest.FixtureRequest
) -> None:
    said, expected = told(design(cards(version))), GOLDEN / f"{version}.txt"
    if request.config.getoption("--update-golden"):
        expected.write_text(said)
    assert said == expected.read_text()


def test_the_firewall_is_the_same_and_the_ips_is_not() -> None:
    by_version = {version: compile_vapp(design(cards(version)), UPLINK) for version in VERSIONS}
    assert len({made.firewall_digest for made in by_version.values()}) == 1
    assert by_version["4.0"].ips_digest == by_version["4.0.1"].ips_digest
    assert by_version["3.2.1"].ips_digest != by_version["4.0"].ips_digest
