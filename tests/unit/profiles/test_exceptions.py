"""An exception loosens one control until a day, is told everywhere, and ends by itself."""

from __future__ import annotations

from datetime import date, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cards import DAY, cards, design, hardened, said
from vcloud.views.affected import expired

OPEN = ("vault: {", "vault: {open: true, ")
LAST = date(2026, 12, 31)


def excepted(control: str, expires: date = LAST) -> str:
    return f"    - {{control: {control}, reason: moves in spring, approved_by: the office, expires: {expires}}}\n"


def with_exceptions(*controls: str) -> str:
    return cards("4.0.1", OPEN, more="  exceptions:\n" + "".join(map(excepted, controls)))


def test_an_excepted_control_is_not_demanded() -> None:
    assert [what.partition(": ")[0] for what in said(cards("4.0.1", OPEN))] == [
        "zones.vault.open pci-dss@4.0.1 1.4.3, 2.2.3"
    ]
    assert [what.partition(": ")[0] for what in said(with_exceptions("1.4.3"))] == [
        "zones.vault.open pci-dss@4.0.1 2.2.3"
    ]
    assert said(with_exceptions("1.4.3", "pci-dss/2.2.3")) == []


@settings(max_examples=15)
@given(st.dates(date(2026, 1, 1), date(2028, 1, 1)))
def test_an_exception_counts_up_to_its_day_and_no_longer(day: date) -> None:
    assert bool(said(with_exceptions("1.4.3", "2.2.3"), day)) == (day > LAST)


def test_an_exception_takes_away_what_the_control_adds() -> None:
    assert design(cards()).inspection.zones == ("front", "app", "vault")
    text = cards(more="  exceptions:\n" + excepted("6.4.2"))
    assert design(text).inspection.zones == ("app", "vault")
    assert design(text, LAST + timedelta(1)).inspection.zones == ("front", "app", "vault")


def test_an_exception_is_told_and_so_is_its_end() -> None:
    controls = design(with_exceptions("1.4.3", "2.2.3")).controls
    assert controls.told()[1] == (
        "exception: pci-dss@4.0.1 1.4.3 does not count, until 2026-12-31 "
        "(moves in spring; approved by the office)"
    )
    assert list(expired(controls, LAST)) == []
    after = controls.told(LAST + timedelta(1))[1]
    assert "1.4.3 is not enforced yet, expired on 2026-12-31" in after
    assert controls.told(LAST)[1] == controls.told()[1]
    (first, second) = expired(controls, LAST + timedelta(1))
    assert "1.4.3 has expired on 2026-12-31" in first
    assert "2.2.3" in second
    late = design(cards(more="  exceptions:\n" + excepted("6.4.2")), LAST + timedelta(1)).controls
    assert "counts again, expired on 2026-12-31" in late.told()[1]
    # It did not count when the vApp was made either.
    assert list(expired(late, LAST + timedelta(2))) == []


def test_an_exception_for_what_no_profile_demands_is_an_error() -> None:
    (problem,) = hardened(cards(more="  exceptions:\n" + excepted("1.4.33"))).problems
    assert problem.field == "protection.exceptions[0].control"
    assert problem.hint.startswith("Did you mean '1.4.")
    assert said(cards(more="  exceptions:\n" + excepted("hipaa/1.4.3")))
    twice = said(with_exceptions("1.4.3", "2.2.3", "pci-dss/1.4.3"))
    assert twice == ["protection.exceptions[2].control '1.4.3' is excepted twice"]


def test_an_exception_without_a_profile_is_an_error() -> None:
    text = cards(more="  exceptions:\n" + excepted("1.4.3")).replace(
        "  profiles: [pci-dss@4.0.1]\n", ""
    )
    assert said(text, DAY)
