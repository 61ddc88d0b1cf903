"""Verdicts on a host's side of a vApp. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from vcloud.plan.host_difference import CLAIMS, ON_DEMAND, HostDifference, HostKind
from vcloud.proof.checks import HOST, Check, Kind, Outcome
from vcloud.proof.observed import Verdict


def host_verdicts(
    differences: Sequence[HostDifference],
    unseen: Mapping[HostKind, str],
    demanded: Collection[HostKind] = (),
) -> Iterator[Verdict]:
    """One verdict for each kind of difference. A kind in `unseen` was not looked at, for the reason
    there. Of the kinds that count on demand only, those have one that are `demanded`.
    """
    for kind, claim in CLAIMS.items():
        if kind in ON_DEMAND and kind not in demanded:
            continue
        found = [difference.what for difference in differences if difference.kind is kind]
        outcome, detail = (
            (Outcome.NOT_RUN, unseen[kind])
            if kind in unseen
            else (Outcome.FAIL, "; ".join(found))
            if found
            else (Outcome.PASS, "so the host reports")
        )
        check = Check(
            id=f"config/host/{kind.replace(' ', '-')}",
            kind=Kind.CONFIG,
            claim=claim,
            vantage=HOST,
            probe=None,
            passes=True,
            proves="ctl:host",
        )
        yield Verdict(check, outcome, detail)
