"""One host for all tests of a module. Each test leaves it as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netns.host.machine import Machine, machine


@pytest.fixture(scope="module")
def built() -> Iterator[Machine]:
    with machine() as host:
        yield host


@pytest.fixture
def host(built: Machine) -> Iterator[Machine]:
    assert built.differences() == ()
    yield built
    assert built.differences() == ()
