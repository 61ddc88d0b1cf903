"""Tests with real packets need root and network namespaces; without them they fail, because a pass
would prove nothing.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.netns.guest.machines import FLAGS, SOURCES

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.netns)


@pytest.fixture(scope="session", autouse=True)
def _root() -> None:
    if os.geteuid() != 0:
        pytest.fail("needs root: real namespaces, bridges and rulesets are what is tested")


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest program, compiled as for the images."""
    path = tmp_path_factory.mktemp("guest") / "guest"
    sources = map(str, sorted(SOURCES.glob("*.c")))
    subprocess.run(["musl-gcc", *FLAGS, "-o", str(path), *sources], check=True)
    return path
