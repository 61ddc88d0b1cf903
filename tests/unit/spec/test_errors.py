"""What a user reads when a file is wrong: one folder per case in tests/golden/errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from vcloud.errors import SpecError
from vcloud.files import Folder
from vcloud.spec.load import parse_vapp

CASES = sorted(
    path for path in (Path(__file__).parents[2] / "golden" / "errors").iterdir() if path.is_dir()
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_problem_of_a_file_is_reported_at_once(
    case: Path, request: pytest.FixtureRequest
) -> None:
    """Each case is loaded as a user's file is, and its whole message compared."""
    with pytest.raises(SpecError) as raised:
        parse_vapp((case / "vapp.yaml").read_bytes(), Folder(case))
    said = f"{raised.value}\n"
    expected = case / "expected.txt"
    if request.config.getoption("--update-golden"):
        expected.write_text(said)
    assert said == expected.read_text()
