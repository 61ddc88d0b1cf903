"""Labs of the tests of one file."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from vcloud.lab import lab as labs
from vcloud.lab import layout
from vcloud.lab.layout import Lab


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Lab]]:
    """Names labs in a folder of the tests' own, and ends them afterwards."""
    folder = tmp_path_factory.mktemp("labs")
    made = []

    def lab(name: str) -> Lab:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("VCLOUD_LAB_DIR", str(folder))
            made.append(layout.lab(name))
        return made[-1]

    yield lab
    for one in made:
        labs.down(one)


@pytest.fixture(scope="module")
def pair(make: Callable[[str], Lab]) -> Lab:
    """A lab of two hosts that the tests share, and break."""
    return make("t-lab")


@pytest.fixture
def lab(pair: Lab) -> Lab:
    """The shared lab, whole again whatever the last test did to it."""
    labs.up(pair, 2)
    return pair
