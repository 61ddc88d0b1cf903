"""The guest program, compiled as for the images, and two machines that run it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.guest.machines import (
    FLAGS,
    GATEWAY,
    SOURCES,
    WORKLOAD,
    Machine,
    new_machine,
    plug,
    run,
)


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("guest") / "guest"
    run(
        "musl-gcc",
        *FLAGS,
        "-o",
        str(path),
        *(str(source) for source in sorted(SOURCES.glob("*.c"))),
    )
    return path


@pytest.fixture
def guest(tmp_path: Path, program: Path) -> Iterator[Machine]:
    with new_machine(tmp_path / "guest", program) as machine:
        yield machine


@pytest.fixture
def firewall(tmp_path: Path, program: Path) -> Iterator[Machine]:
    with new_machine(tmp_path / "firewall", program) as machine:
        yield machine


@pytest.fixture
def cable(guest: Machine, firewall: Machine) -> None:
    plug(guest, firewall)


@pytest.fixture
def lan(guest: Machine, firewall: Machine, cable: None) -> None:  # noqa: ARG001
    """Both machines have their identity, and reach each other."""
    assert guest.identity(*WORKLOAD) == "ok"
    assert firewall.identity(*GATEWAY) == "ok"
