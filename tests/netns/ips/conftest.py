"""The IPS of one vApp that many tests share, and one that a test has for itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.ips.lab import IpsLab
from tests.netns.ips.root import find_ips_root
from tests.netns.ips.traffic import (
    DESIGN,
)
from vcloud.compile.ips.files import ips_digest, ips_files


@pytest.fixture(scope="session")
def ips_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return find_ips_root(tmp_path_factory.mktemp("ips-image"))


@pytest.fixture(scope="module")
def shared(
    ips_root: Path, program: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[IpsLab]:
    """One running IPS for all tests that only send packets."""
    with IpsLab(DESIGN, ips_root, program, tmp_path_factory.mktemp("ips")) as lab:
        answer = lab.load(ips_files(DESIGN))
        assert (answer["action"], answer["rules_failed"], answer["digest"]) == (
            "start",
            0,
            ips_digest(ips_files(DESIGN)),
        )
        yield lab


@pytest.fixture(scope="module")
def still(
    ips_root: Path, program: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[IpsLab]:
    """An IPS that is not in any path: Suricata reads captures there (`replay`)."""
    with IpsLab(DESIGN, ips_root, program, tmp_path_factory.mktemp("ips")) as lab:
        yield lab


@pytest.fixture
def own(ips_root: Path, program: Path, tmp_path: Path) -> Iterator[IpsLab]:
    """An IPS of a test's own, not loaded yet."""
    with IpsLab(DESIGN, ips_root, program, tmp_path) as lab:
        yield lab
