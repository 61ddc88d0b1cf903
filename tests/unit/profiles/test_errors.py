"""What a user reads when a file breaks controls: one folder per case in tests/golden/profiles/errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cards import DAY
from vcloud.errors import SpecError
from vcloud.files import Folder
from vcloud.pipeline import design_of
from vcloud.spec.load import parse_vapp

CASES = sorted((Path(__file__).parents[2] / "golden/profiles/errors").iterdir())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_broken_control_is_told_at_once(case: Path, request: pytest.FixtureRequest) -> None:
    vapp = parse_vapp((case / "vapp.yaml").read_bytes(), Folder(case), str(case / "vapp.yaml"))
    with pytest.raises(SpecError) as raised:
        design_of(vapp, day=DAY)
    said = f"{raised.value}\n".replace(f"{case}/", "")
    expected = case / "expected.txt"
    if request.config.getoption("--update-golden"):
        expected.write_text(said)
    assert said == expected.read_text()
