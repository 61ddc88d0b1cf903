"""Whole vApps, rendered: every byte as expected, and every text loads where it belongs.

The expected folders show a reviewer what a change of a template or of the compiler does. After such
a change: `pytest tests/golden --update-golden`, and read the difference. (Suricata's files are
loaded in tests/netns.)
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from tests.rendered import render_file
from tests.vapps import SHOP
from vcloud.views.render import LIST

FOLDER = Path(__file__).parent / "artifacts"
CASES = {"shop": SHOP} | {
    name: FOLDER / name / "vapp.yaml" for name in ("homes", "segment", "vault")
}
SCHEMAS = Path("/usr/share/libvirt/schemas")
IMAGE_DIGEST = re.compile(rb"/(kernel|initrd)-([a-z-]+)-[0-9a-f]{12}")
"""It follows the sources of the images, which are not what is looked at here."""


@pytest.fixture(scope="module", params=sorted(CASES))
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A vApp's name and the folder that it was rendered to."""
    out = tmp_path_factory.mktemp(request.param)
    render_file(CASES[request.param], out)
    return request.param, out


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != LIST)
    return {
        str(path.relative_to(folder)): IMAGE_DIGEST.sub(rb"/\1-\2-DIGEST", path.read_bytes())
        for path in files
    }


def update(expected: Path, rendered: dict[str, bytes]) -> None:
    if expected.exists():
        shutil.rmtree(expected)
    for name, content in rendered.items():
        path = expected / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def test_what_is_rendered_is_what_was_reviewed(
    case: tuple[str, Path], request: pytest.FixtureRequest
) -> None:
    name, out = case
    expected, rendered = FOLDER / name / "expected", contents(out)
    if request.config.getoption("--update-golden"):
        update(expected, rendered)
    stored = contents(expected)
    assert list(rendered) == list(stored)
    for path, content in rendered.items():
        assert content.decode() == stored[path].decode(), path


def load_ruleset(path: Path) -> subprocess.CompletedProcess[bytes]:
    """Has nft check a ruleset against the real kernel, in a network namespace of its own."""
    command = ["unshare", "--map-root-user", "--net", "nft", "--check", "--file", str(path)]
    return subprocess.run(command, capture_output=True, timeout=60, check=False)


def test_nft_loads_the_ruleset(case: tuple[str, Path]) -> None:
    done = load_ruleset(case[1] / "firewall" / "firewall.nft")
    assert (done.returncode, done.stderr) == (0, b"")


def test_nft_refuses_a_ruleset_with_a_broken_line(case: tuple[str, Path], tmp_path: Path) -> None:
    """The twin: nft looks at all of it."""
    text = (case[1] / "firewall" / "firewall.nft").read_text()
    broken = tmp_path / "broken.nft"
    broken.write_text(
        text[: text.rindex("}\n")] + "\tchain extra {\n\t\tip saddr nonsense accept\n\t}\n}\n"
    )
    assert load_ruleset(broken).returncode != 0


@pytest.mark.parametrize(
    ("folder", "kind"), [("domains", "domain"), ("filters", "nwfilter"), ("networks", "network")]
)
def test_libvirts_schemas_accept_the_xml(case: tuple[str, Path], folder: str, kind: str) -> None:
    schema: Callable[[Any], bool] = etree.RelaxNG(etree.parse(SCHEMAS / f"{kind}.rng"))
    files = sorted((case[1] / folder).iterdir())
    assert files
    for path in files:
        assert schema(etree.parse(path)), path.name
