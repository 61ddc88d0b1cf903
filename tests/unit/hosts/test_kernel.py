"""Settings of a kernel that everybody may read: this machine's, and what a daemon may lock."""

from __future__ import annotations

from pathlib import Path

import pytest

from vcloud.hosts.connection import Host
from vcloud.hosts.kernel import KERNEL, KSM_RUN, ksm_of, most_locked, read_files
from vcloud.placement.capabilities import UNLIMITED

STATUS = "Name:\tlibvirtd\nCapEff:\t{}\nCapBnd:\t000001ffffffffff\n"
LIMITS = """\
Limit                     Soft Limit           Hard Limit           Units
Max locked memory         65536                {}              bytes
Max address space         unlimited            unlimited            bytes
"""


def test_files_that_exist_are_read_at_once(host: Host, tmp_path: Path) -> None:
    some, empty = tmp_path / "some", tmp_path / "a:b"
    some.write_text("one\ntwo:three\n")
    empty.write_text("x\n")
    found = read_files(host, (str(some), str(tmp_path / "missing")))
    assert found == {str(some): "one\ntwo:three"}


def test_this_machines_kernel_tells_whether_it_merges_pages(host: Host) -> None:
    assert KERNEL in read_files(host, (KERNEL, KSM_RUN))
    expected = Path(KSM_RUN).read_text().strip() == "1" if Path(KSM_RUN).exists() else False
    assert (ksm_of(host) == "on") >= expected
    assert ksm_of(host) in ("on", "off")


@pytest.mark.parametrize(
    ("capabilities", "hard", "most"),
    [
        ("000001ffffffffff", "65536", UNLIMITED),
        ("0000000001000000", "65536", UNLIMITED),
        ("00000000fe000000", "65536", 65536),
        ("0000000000000000", "unlimited", UNLIMITED),
        ("0000000000000000", "8388608", 8 << 20),
    ],
)
def test_a_daemon_without_the_capability_locks_as_much_as_its_own_limit_says(
    capabilities: str, hard: str, most: int
) -> None:
    assert most_locked(STATUS.format(capabilities), LIMITS.format(hard)) == most
