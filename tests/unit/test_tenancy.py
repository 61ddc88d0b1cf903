"""Who may share a host: each rule with its twin, and a second opinion on random vApps."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcloud.tenancy import (
    ANYONE,
    DEDICATED,
    DENY,
    FORMAT,
    LABELLED,
    SHARES,
    HostTenants,
    Policy,
    Refusal,
    Tenant,
    Terms,
    Unmanaged,
    carried_after,
    document_of,
    refusals,
    terms_of,
)

SHOP = Terms("shop", (("env", "prod"), ("owner", "retail")))
BANK = Terms("bank", (("env", "prod"), ("owner", "bank")))
LAPTOP = Unmanaged("laptop")
OPEN, STRICT = Policy(), Policy(DENY)


def rules(newcomer: Tenant, *residents: Tenant, policy: Policy = OPEN) -> list[str]:
    return [one.rule for one in refusals(newcomer, HostTenants(residents, policy))]


def both_ways(one: Tenant, other: Tenant, policy: Policy = OPEN) -> list[str]:
    """The rules by which they may not meet, whoever of them comes first."""
    found = rules(one, other, policy=policy)
    assert sorted(found) == sorted(rules(other, one, policy=policy))
    return found


def test_without_rules_all_may_meet() -> None:
    assert both_ways(SHOP, BANK) == []
    assert both_ways(SHOP, LAPTOP) == []
    assert refusals(SHOP, HostTenants()) == ()


def test_a_dedicated_vapp_is_alone_with_vms_of_its_own() -> None:
    alone = replace(BANK, share=DEDICATED)
    assert both_ways(alone, SHOP) == ["tenancy.share"]
    assert both_ways(alone, alone) == []
    assert both_ways(alone, LAPTOP) == []
    assert both_ways(alone, LAPTOP, STRICT) == ["host.unmanaged"]
    assert both_ways(SHOP, LAPTOP, STRICT) == []


def test_only_those_with_the_labels_are_beside_it() -> None:
    wants = replace(SHOP, together=((("owner", "retail"),), (("env", "prod"), ("owner", "bank"))))
    assert both_ways(wants, BANK) == []
    assert both_ways(wants, replace(BANK, labels=(("owner", "bank"),))) == ["tenancy.with"]
    assert both_ways(wants, replace(BANK, labels=(("owner", "retail"),))) == []


def test_those_with_the_labels_are_never_beside_it() -> None:
    avoids = replace(SHOP, never=((("env", "prod"), ("owner", "bank")),))
    assert both_ways(avoids, BANK) == ["tenancy.never"]
    assert both_ways(avoids, replace(BANK, labels=(("env", "prod"),))) == []


@pytest.mark.parametrize("share", [DEDICATED, ANYONE])
def test_selectors_belong_to_the_labelled(share: str) -> None:
    """`dedicated` says more, and `anyone` less."""
    found = rules(replace(SHOP, share=share, never=(BANK.labels,)), BANK)
    assert found == (["tenancy.share"] if share == DEDICATED else [])


def test_one_class_of_conflict_has_one_vapp_on_a_host() -> None:
    one, other = (replace(vapp, conflicts=("banks", "shops")) for vapp in (SHOP, BANK))
    assert both_ways(one, other) == ["tenancy.conflicts"] * 2
    assert both_ways(one, replace(other, conflicts=("bakers",))) == []
    assert both_ways(replace(one, share=ANYONE), other) == ["tenancy.conflicts"] * 2


def test_a_host_remembers_whom_it_has_carried_until_it_is_clean() -> None:
    first = replace(SHOP, conflicts=("banks",), remembered=("banks",))
    second = replace(BANK, conflicts=("banks",))
    assert carried_after(second, {}) == {}
    carried = carried_after(first, {})
    assert carried_after(first, carried) == carried == {"banks": {"shop"}}
    (refusal,) = refusals(second, HostTenants(carried=carried))
    assert (refusal.rule, refusal.of) == ("tenancy.conflicts", "shop")
    assert "vcloud host scrub" in refusal.reason
    assert refusals(first, HostTenants(carried=carried)) == ()
    assert refusals(BANK, HostTenants(carried=carried)) == ()


def test_a_reason_names_both_and_the_rule() -> None:
    avoids = replace(SHOP, never=((("owner", "bank"),),))
    assert refusals(BANK, HostTenants((avoids,))) == (
        Refusal(
            "tenancy.never",
            "shop",
            "'shop' never shares its host with a vApp that has owner=bank, and 'bank' has it",
        ),
    )


def test_vms_of_one_vapp_give_one_reason() -> None:
    """A vApp is on a host with all of its VMs."""
    alone = replace(BANK, share=DEDICATED)
    assert len(refusals(SHOP, HostTenants((alone, alone, alone)))) == 1


# A second opinion


def may_meet(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """The same rules, written from the documentation and by sets."""
    if one["vapp"] == other["vapp"]:
        return True
    if DEDICATED in (one["share"], other["share"]):
        return False
    if {*one["conflicts"]} & {*other["conflicts"]}:
        return False
    for owner, guest in ((one, other), (other, one)):
        if owner["share"] != LABELLED:
            continue
        fits = [
            all(guest["labels"].get(k) == v for k, v in one.items()) for one in owner["together"]
        ]
        if fits and True not in fits:
            return False
        if any(all(guest["labels"].get(k) == v for k, v in one.items()) for one in owner["never"]):
            return False
    return True


def random_document(source: random.Random) -> dict[str, Any]:
    def labels(fewest: int) -> dict[str, str]:
        keys = source.sample(("owner", "env", "rack"), source.randint(fewest, 2))
        return {key: source.choice("ab") for key in keys}

    conflicts = source.sample(("x", "y", "z"), source.choice((0, 0, 0, 1, 2)))
    return {
        "format": FORMAT,
        "vapp": source.choice(("one", "two", "three")),
        "labels": labels(0),
        "share": source.choice((LABELLED, LABELLED, LABELLED, ANYONE, DEDICATED)),
        "together": [labels(1) for _ in range(source.choice((0, 0, 1, 2)))],
        "never": [labels(1) for _ in range(source.choice((0, 0, 1)))],
        "conflicts": conflicts,
        "remembered": source.sample(conflicts, source.randint(0, len(conflicts))),
    }


def agreed(seed: int, count: int) -> dict[bool, int]:
    """How often each answer came, on hosts with up to three vApps. Both opinions were the same."""
    source, answers = random.Random(seed), {True: 0, False: 0}  # noqa: S311 - no secret
    for _ in range(count):
        newcomer, *residents = (random_document(source) for _ in range(source.randint(1, 4)))
        expected = all(may_meet(newcomer, resident) for resident in residents)
        host = HostTenants(tuple(map(terms_of, residents)))
        found = refusals(terms_of(newcomer), host)
        assert (not found) is expected, (newcomer, residents, found)
        answers[expected] += 1
    return answers


def test_a_second_opinion_agrees_on_random_vapps() -> None:
    answers = agreed(1, 3_000)
    assert min(answers.values()) > 300


@pytest.mark.long
def test_a_second_opinion_agrees_on_very_many_random_vapps() -> None:
    assert min(agreed(2, 100_000).values()) > 10_000


# What anybody may have written


@given(st.integers())
def test_terms_come_back_as_they_were(seed: int) -> None:
    document = random_document(random.Random(seed))  # noqa: S311
    assert document_of(terms_of(document)) == document


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"format": None},
        {"vapp": ""},
        {"vapp": "a\nb"},
        {"vapp": "x" * 300},
        {"vapp": 5},
        {"share": "nobody"},
        {"labels": ["a"]},
        {"labels": {"a": 1}},
        {"labels": {str(number): "x" for number in range(200)}},
        {"together": [{}]},
        {"never": {}},
        {"never": [{"a": None}]},
        {"conflicts": "x"},
        {"remembered": ["y"]},
        {"more": 1},
    ],
)
def test_what_is_not_understood_whole_is_refused(change: dict[str, Any]) -> None:
    """A rule that was overlooked would be one that is not kept."""
    document = document_of(replace(SHOP, conflicts=("x",), remembered=("x",)))
    assert terms_of(document)
    with pytest.raises(ValueError, match=r"."):
        terms_of(document | change)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda one: st.lists(one) | st.dictionaries(st.text(), one),
    )
)
def test_no_other_document_is_terms(document: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        terms_of(document)


def test_each_share_is_known() -> None:
    assert [terms_of({"format": FORMAT, "vapp": "a", "share": one}).share for one in SHARES] == [
        *SHARES
    ]
