"""The shipped shop, which all tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vm.conftest import SHOP, taken_down_in_the_end
from tests.vm.driver import Operator, Vapp


@pytest.fixture(scope="package")
def shop(operator: Operator) -> Iterator[Vapp]:
    """Five VMs, two of them appliances."""
    with taken_down_in_the_end(operator) as bring:
        yield bring("shop", SHOP)
