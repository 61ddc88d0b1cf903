"""Loads of several runs of vcloud in one IPS: what a killed run has left comes late and never wins."""

from __future__ import annotations

import pytest

from tests.netns.ips.lab import OUTSIDE4, IpsLab
from tests.netns.ips.traffic import API, CARD, CARDS, DESIGN, is_stopped, upload, with_detectors
from vcloud.compile.ips.files import FOLDER, ips_digest, ips_files

WITHOUT, WITH = ips_files(with_detectors(DESIGN)), ips_files(with_detectors(DESIGN, CARDS))


def leaks(own: IpsLab) -> bool:
    return own.tcp(API[0], OUTSIDE4, 80, upload(CARD.encode())).arrived


def test_files_of_a_run_before_come_late_and_change_nothing(own: IpsLab) -> None:
    assert own.load(WITH, 7)["digest"] == ips_digest(WITH)
    with pytest.raises(AssertionError, match="run 7 has loaded before this load of run 6"):
        own.load(WITHOUT, 6)
    assert own.report()["digest"] == ips_digest(WITH)
    assert is_stopped(own.tcp(API[0], OUTSIDE4, 80, upload(CARD.encode())))
    assert own.load(WITHOUT, 7)["digest"] == ips_digest(WITHOUT), "the same run may load again"
    assert leaks(own)


def test_after_a_load_that_was_killed_half_way_suricata_runs_with_what_is_sent(
    own: IpsLab,
) -> None:
    """It had exchanged the files, and Suricata had not read the new ones. A load of the same files
    would find that nothing is to be done.
    """
    own.load(WITHOUT)
    own.path("/run/suricata/unfinished").touch()
    assert own.chroot("mv", FOLDER, f"{FOLDER}.new.1").returncode == 0
    for path, content in WITH.items():
        own.path(path).parent.mkdir(parents=True, exist_ok=True)
        own.path(path).write_bytes(content)
    assert leaks(own), "Suricata runs with the files of before"
    assert own.load(WITH)["action"] == "restart"
    assert not leaks(own)
    assert own.load(WITH)["action"] == "none"
    left = sorted(path.name for path in own.path(FOLDER).parent.iterdir())
    assert left == ["ips", "ips.digest"]
