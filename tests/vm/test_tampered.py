"""`verify` goes red when somebody tampers with the firewall, `status` says so, and `vcloud up` makes
it right.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.vm.conftest import Raise
from tests.vm.driver import Probe, Vapp, must_open, write_vapp
from vcloud.compile.firewall.model import ROUTED_MARK

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]

NAME = "tampered"
DOCUMENT: dict[str, Any] = {
    "vcloud": 1,
    "name": NAME,
    "zones": {"one": {}, "two": {}},
    "vms": {
        "near": {"image": "base", "zone": "one", "memory": "256M"},
        "far": {"image": "base", "zone": "two", "memory": "256M", "ready": {"tcp": 22}},
    },
    "flows": [{"id": "talk", "from": "near", "to": "far", "service": "tcp/22"}],
}


@pytest.fixture(scope="module")
def vapp(raised: Raise, tmp_path_factory: pytest.TempPathFactory) -> Vapp:
    return raised(NAME, write_vapp(tmp_path_factory.mktemp(NAME) / "tampered.yaml", DOCUMENT))


def is_healthy(vapp: Vapp) -> bool:
    return bool(vapp.operator.status(NAME)["healthy"])


@pytest.mark.parametrize(
    ("script", "kinds"),
    [
        ("nft flush ruleset", {"config", "flow"}),
        (
            f"nft insert rule inet vcloud hook_flows meta mark set {ROUTED_MARK} accept",
            {"config", "denied"},
        ),
        pytest.param("nft add table inet other", {"config"}, marks=pytest.mark.long),
    ],
    ids=["no rules", "a rule that lets all pass", "somebody else's table"],
)
def test_verify_goes_red_when_the_firewall_is_tampered_with(
    vapp: Vapp, script: str, kinds: set[str]
) -> None:
    assert is_healthy(vapp)
    vapp.inside("firewall", script)
    found = vapp.operator.run("verify", NAME, "-o", "json", code=4).data
    assert kinds <= {check["kind"] for check in found["checks"] if check["outcome"] == "fail"}
    status = vapp.operator.status(NAME)
    assert not status["healthy"]
    assert all("`vcloud up` with its file" in problem for problem in status["problems"])
    assert "load firewall" in vapp.operator.run("up", "--dry-run", str(vapp.file)).out
    vapp.operator.up(vapp.file)
    assert is_healthy(vapp)
    far = vapp.addresses4["far"]
    assert vapp.probe("near", must_open(far, 22), Probe("tcp", far, 23)) == ["open", "timeout"]


def test_after_the_last_reload_verify_is_green(vapp: Vapp) -> None:
    assert vapp.operator.run("verify", NAME).code == 0
