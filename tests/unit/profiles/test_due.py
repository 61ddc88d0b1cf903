"""What has come into force since a vApp was made."""

from __future__ import annotations

from datetime import date

import pytest

from tests.cards import cards, design
from vcloud.design.controls import NO_CONTROLS
from vcloud.views.affected import due

WAY_OUT = "; `vcloud up` with its file applies it"


@pytest.mark.parametrize(
    ("version", "made", "day", "said"),
    [
        ("", date(2024, 6, 10), date(2024, 6, 10), []),
        (
            "",
            date(2024, 6, 10),
            date(2024, 6, 11),
            ["pci-dss@4.0.1 is in force since 2024-06-11, and the vApp has pci-dss@4.0"],
        ),
        ("4.0", date(2024, 6, 10), date(2024, 6, 11), []),
    ],
)
def test_a_newer_version_is_told_where_the_file_names_none(
    version: str, made: date, day: date, said: list[str]
) -> None:
    found = due(design(cards(version), made).controls, day)
    assert [*found] == [f"{text}{WAY_OUT}" for text in said]


def test_a_control_with_a_day_of_its_own_is_told_after_that_day() -> None:
    controls = design(cards("4.0.1"), date(2025, 3, 30)).controls
    assert [*due(controls, date(2025, 3, 30))] == []
    assert f"pci-dss@4.0.1 6.4.2 counts since 2025-03-31{WAY_OUT}" in due(
        controls, date(2025, 3, 31)
    )


def test_nothing_is_due_without_a_profile() -> None:
    assert [*due(NO_CONTROLS, date(2026, 1, 1))] == []
