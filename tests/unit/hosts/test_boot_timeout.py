"""How long a VM may take to boot, as the user's environment says."""

from __future__ import annotations

import pytest

from vcloud.errors import UsageError
from vcloud.hosts.patience import BOOT_TIMEOUT, BOOT_VARIABLE, boot_timeout, patience


def test_a_slow_host_gets_the_time_that_its_user_names() -> None:
    assert boot_timeout({BOOT_VARIABLE: "900"}) == 900
    assert boot_timeout({}) == boot_timeout({BOOT_VARIABLE: ""}) == BOOT_TIMEOUT


@pytest.mark.parametrize("said", ["0", "-1", "5m", "86401", "1e3", "٣", "9" * 40])
def test_what_is_no_number_of_seconds_is_refused_with_a_way_out(said: str) -> None:
    with pytest.raises(UsageError, match=BOOT_VARIABLE) as raised:
        boot_timeout({BOOT_VARIABLE: said})
    assert "from 1 to" in raised.value.hint


def test_other_limits_grow_with_it_and_never_shrink() -> None:
    assert patience(15, {BOOT_VARIABLE: str(10 * BOOT_TIMEOUT)}) == 150
    assert patience(15, {}) == patience(15, {BOOT_VARIABLE: "1"}) == 15
