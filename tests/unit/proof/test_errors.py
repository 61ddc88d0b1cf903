"""About whose connections ICMP errors are forged. tests/netns/firewall/test_proof.py sends them."""

from __future__ import annotations

from tests.design_builder import UPLINK, build_design
from tests.unit.proof.samples import NOWHERE, checks_of
from tests.vapps import design_of_text, shop
from vcloud.proof.checks import Outcome
from vcloud.proof.errors import without_errors
from vcloud.proof.firewall_report import NOTHING
from vcloud.proof.judge import judge
from vcloud.proof.network import left_out
from vcloud.proof.observed import Observed
from vcloud.values import INTERNET


def test_each_vm_and_the_outside_forge_an_error_about_a_connection_of_others() -> None:
    """In the shop all but the outside send one to a client of `web`, or about `store`."""
    members = [check for check in checks_of(shop()) if check.about]
    ends = {check.id: {check.about.client, check.about.server} for check in members if check.about}
    assert ends == {
        f"forged-error/{name}/{version}": others
        for version in (4, 6)
        for name, others in (
            ("web-1", {"api", "db"}),
            ("api", {INTERNET, "web-1"}),
            ("db", {"web-1", "api"}),
            (INTERNET, {"web-1", "api"}),
        )
    }
    assert all(check.vantage not in ends[check.id] for check in members)
    wide = build_design(
        "red:open blue", {"web": "red", "api": "red", "db": "blue"}, "a: web -> api tcp/80"
    )
    assert not [check for check in checks_of(wide) if check.about], "no packet passes the firewall"
    replicas = build_design("red", {"web": "red x2", "api": "red"}, "in: internet -> web tcp/80=80")
    assert without_errors(replicas) == ["web-1", "web-2", "api"]
    assert "forged ICMP errors from web-1, web-2, api" in left_out(replicas, UPLINK)


def test_a_connection_from_elsewhere_outside_is_no_fault_of_the_users() -> None:
    """Nobody there opens it for a test."""
    design = design_of_text("""\
vcloud: 1
name: far
zones: {app: {}}
vms: {api: {image: base, zone: app}, web: {image: base, zone: app}}
flows: [{id: in, from: 203.0.113.0/24, to: api, service: tcp/80, publish: 80}]
""")
    (check,) = [
        check for check in checks_of(design, NOWHERE) if check.id.startswith("forged-error/web")
    ]
    verdict = judge(check, Observed({}, {}, NOTHING, NOTHING))
    assert (verdict.outcome, verdict.detail) == (
        Outcome.NOT_TRIED,
        "no probe is sent from 203.0.113.0/24",
    )
