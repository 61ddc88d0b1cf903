"""How long vcloud waits for a slow host. One setting says it, the time that a VM may take to boot; the
other limits are parts of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from vcloud.errors import UsageError

BOOT_VARIABLE = "VCLOUD_BOOT_TIMEOUT"
BOOT_TIMEOUT = 300
"""Seconds from the start of a VM to the first answer of its agent, unless `BOOT_VARIABLE` says other
ones. A distribution's stock image takes a minute without KVM, and a VM in an emulated VM some.
"""
LONGEST_BOOT = 24 * 3600


def boot_timeout(environment: Mapping[str, str] = os.environ) -> int:
    """Seconds that a VM may take to boot. Raises UsageError where the environment names no number."""
    said = environment.get(BOOT_VARIABLE) or str(BOOT_TIMEOUT)
    if not re.fullmatch("[0-9]{1,5}", said) or not 1 <= int(said) <= LONGEST_BOOT:
        raise UsageError(
            f"{BOOT_VARIABLE} is '{said[:20]}', which is no number of seconds",
            f"Write a number from 1 to {LONGEST_BOOT}.",
        )
    return int(said)


def patience(seconds: int, environment: Mapping[str, str] = os.environ) -> int:
    """So many seconds, and in proportion more where VMs may take longer than usual to boot."""
    return max(seconds, seconds * boot_timeout(environment) // BOOT_TIMEOUT)
