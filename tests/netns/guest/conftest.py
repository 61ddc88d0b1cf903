"""Two machines that run the guest program."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.guest.machines import (
    GATEWAY,
    WORKLOAD,
    Machine,
    new_machine,
    plug,
)


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
