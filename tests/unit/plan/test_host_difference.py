"""What is said of each kind of difference of a host's side."""

from __future__ import annotations

import pytest

from vcloud.plan.host_difference import CLAIMS, NEEDS, ON_DEMAND, HostDifference, HostKind
from vcloud.plan.host_side import LOOKS
from vcloud.proof.checks import Outcome
from vcloud.proof.host import host_verdicts


@pytest.mark.parametrize("kind", HostKind)
def test_every_kind_is_looked_for_and_claimed(kind: HostKind) -> None:
    assert kind in LOOKS
    assert kind in CLAIMS
    assert kind in NEEDS


def test_each_kind_is_a_check_of_its_own() -> None:
    found = (
        HostDifference(HostKind.PORT, "first"),
        HostDifference(HostKind.PORT, "second"),
    )
    verdicts = {
        verdict.check.id: verdict for verdict in host_verdicts(found, {HostKind.FILTER: "no nft"})
    }
    assert len(verdicts) == len(HostKind) - len(ON_DEMAND)
    foreign = verdicts["config/host/foreign-port"]
    assert (foreign.outcome, foreign.detail) == (Outcome.FAIL, "first; second")
    unseen = verdicts["config/host/filter"]
    assert (unseen.outcome, unseen.detail) == (Outcome.NOT_RUN, "no nft")
    assert {
        verdict.outcome for key, verdict in verdicts.items() if verdict not in (foreign, unseen)
    } == {Outcome.PASS}


def test_what_counts_on_demand_is_a_check_only_where_it_is_demanded() -> None:
    """Nothing is called right that nobody has looked at."""
    found = [*host_verdicts((), {}, {HostKind.MERGING})]
    assert {verdict.check.id for verdict in found} & {
        f"config/host/{kind.replace(' ', '-')}" for kind in ON_DEMAND
    } == {"config/host/page-sharing"}
