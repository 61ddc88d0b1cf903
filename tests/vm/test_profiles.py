"""A regulation changes while its vApp runs: from pci-dss 3.2.1 to 4.0 a card number does not leave
its zones any more, and no VM is restarted; from 4.0 to 4.0.1 nothing is loaded.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from tests.card_numbers import PUBLISHED
from tests.vm.conftest import Raise
from tests.vm.driver import Vapp, write_vapp

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]

NAME = "cards"
SITE = "/etc/nginx/conf.d/site.conf"
PROXY = "server { listen 8000 default_server; location / { proxy_pass http://api:8000; } }\n"
API = (
    "server { listen 8000 default_server; default_type text/plain; "
    f'location = /card {{ return 200 "card {PUBLISHED[0]}\\n"; }} '
    'location = /word { return 200 "word\\n"; } }\n'
)
WHY = {"app": "http", "why": "the shop"}
DOCUMENT: dict[str, Any] = {
    "vcloud": 1,
    "name": NAME,
    "zones": {"front": {}, "app": {}, "vault": {"holds": ["cardholder-data"]}},
    "vms": {
        "web": {
            "image": "nginx",
            "zone": "front",
            "after": ["api"],
            "ready": {"tcp": 8000},
            "files": {SITE: PROXY},
        },
        "api": {"image": "nginx", "zone": "app", "ready": {"tcp": 8000}, "files": {SITE: API}},
        "db": {"image": "base", "zone": "vault", "memory": "256M", "ready": {"tcp": 22}},
    },
    "flows": [
        {
            "id": "visits",
            "from": "internet",
            "to": "web",
            "service": "tcp/8000",
            "publish": 8080,
            **WHY,
        },
        {"id": "orders", "from": "web", "to": "api", "service": "tcp/8000", **WHY},
        {
            "id": "store",
            "from": "api",
            "to": "db",
            "service": "tcp/22",
            "carries": ["cardholder-data"],
            "why": "the store",
        },
    ],
    # The file itself inspects this zone, so that no version changes which zones are inspected.
    "protection": {"profiles": ["pci-dss@3.2.1"], "ips": {"inspect": ["front"]}},
}


def written(file: Path, version: str, more: dict[str, Any] | None = None) -> Path:
    document = copy.deepcopy(DOCUMENT)
    document["protection"] |= {"profiles": [f"pci-dss@{version}"], **(more or {})}
    return write_vapp(file, document)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp(NAME) / "cards.yaml"


@pytest.fixture(scope="module")
def vapp(raised: Raise, file: Path) -> Vapp:
    return raised(NAME, written(file, "3.2.1"))


def steps(vapp: Vapp, file: Path) -> list[tuple[str, str]]:
    found = vapp.operator.run("plan", str(file), "-o", "json").data["steps"]
    return [(step["verb"], step["subject"]) for step in found]


def boots(vapp: Vapp) -> list[str]:
    return [vapp.boot_id(name) for name in ("web", "api", "db")]


def test_a_new_version_stops_what_the_old_one_let_pass_and_restarts_nothing(
    vapp: Vapp, file: Path
) -> None:
    assert PUBLISHED[0] in vapp.curl("/card").out
    before = boots(vapp)
    written(file, "4.0")
    assert steps(vapp, file) == [("load IPS", "ips")]
    vapp.operator.up(file, "--yes")
    assert boots(vapp) == before
    assert vapp.curl("/word").out == "word\n"
    assert vapp.curl("/card", patience=8).code != 0
    events = vapp.operator.run("logs", f"{NAME}/ips").out
    assert "pci-dss-1-3-2" in events
    assert "[pci-dss@4.0 1.3.2]" in events
    assert PUBLISHED[0] not in events

    # 4.0.1 demands the same, so nothing is loaded.
    written(file, "4.0.1")
    assert steps(vapp, file) == [("record", NAME)]
    vapp.operator.up(file, "--yes")
    status = vapp.operator.status(NAME)
    assert status["healthy"]
    assert "pci-dss@4.0.1" in status["profiles"][0]
    assert vapp.curl("/card", patience=8).code != 0

    # An exception loosens one control, and is told.
    excepted = {
        "control": "1.3.2",
        "reason": "a test",
        "approved_by": "nobody",
        "expires": "2999-12-31",
    }
    written(file, "4.0.1", {"exceptions": [excepted]})
    vapp.operator.up(file, "--yes")
    assert PUBLISHED[0] in vapp.curl("/card").out
    assert any("1.3.2 does not count" in line for line in vapp.operator.status(NAME)["profiles"])
    written(file, "4.0.1")
    vapp.operator.up(file, "--yes")
    assert vapp.curl("/card", patience=8).code != 0


# `verify` takes minutes here.
@pytest.mark.long
def test_verify_names_the_controls_that_its_checks_are_evidence_for(vapp: Vapp, file: Path) -> None:
    written(file, "4.0.1")
    vapp.operator.up(file, "--yes")
    # Each payload is written in the protocol of its flow, so no other rule drops it first.
    found = vapp.operator.run("verify", NAME, "-o", "json", code=None).data
    inconclusive = [one for one in found["checks"] if one["outcome"] in ("error", "not run")]
    assert (found["exit"], inconclusive) == (0, [])
    leaks = [one for one in found["checks"] if one["kind"] == "leak"]
    assert any(one["outcome"] == "pass" for one in leaks), leaks
    for control in ("1.3.2", "1.4.3", "1.4.4", "6.4.2", "11.5.1"):
        counts = found["controls"][f"pci-dss@4.0.1 {control}"]
        assert counts["pass"], control
        assert counts["shown"] in ("held", "held in part"), control
        assert counts["evidence"] == "packets", control
