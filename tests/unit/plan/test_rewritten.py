"""A file that is written in another way and says the same reloads, restarts and configures nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.standing import manifest_of, standing
from tests.vapps import SHOP, vapp_of
from vcloud.design.model import Design
from vcloud.design.standing import in_standing_order
from vcloud.files import Folder
from vcloud.pipeline import design_of
from vcloud.plan.diff import plan_changes
from vcloud.plan.state import VappState
from vcloud.plan.steps import Plan, Verb
from vcloud.spec.load import parse_vapp

TEXT = (
    SHOP.read_text()
    .replace("disks: {data: 1G}", "disks: {data: 1G, logs: 1G, spare: 1G}", 1)
    .replace("    files:\n", "    files:\n      /etc/one: first\n", 3)
)
LIVE = standing(design_of(vapp_of(TEXT)))


def plan(text: str, name: str = "vapp.yaml", state: VappState = LIVE, **parameters: str) -> Plan:
    """The plan of `up` with the file that has this text."""
    vapp = parse_vapp(text.encode(), Folder(Path()), name, parameters)
    assert state.manifest
    wanted: Design = in_standing_order(design_of(vapp), state.manifest.design)
    return plan_changes(manifest_of(wanted), state, "h1")


def touched(plan: Plan) -> list[str]:
    """The steps that touch something that runs."""
    return [step.id for step in plan.steps if step.verb is not Verb.RECORD]


def turned(tree: Any) -> Any:
    """The same mappings with their keys the other way round."""
    if isinstance(tree, dict):
        return {key: turned(value) for key, value in reversed(tree.items())}
    return [turned(item) for item in tree] if isinstance(tree, list) else tree


def dumped(change: Callable[[dict[str, Any]], Any], **style: Any) -> str:
    return yaml.safe_dump(change(yaml.safe_load(TEXT)), sort_keys=False, **style)


def without(*keys: str) -> Callable[[dict[str, Any]], Any]:
    """All keys the other way round, but for those of these mappings of the file."""
    return lambda tree: {
        key: tree[key] if key in keys else turned(tree[key]) for key in reversed(tree)
    }


def test_the_file_has_what_these_tests_are_about() -> None:
    database = design_of(vapp_of(TEXT)).workloads[-1]
    assert [disk.name for disk in database.disks] == ["data", "logs", "spare"]
    assert len(database.files) > 1


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(TEXT, id="nothing"),
        pytest.param(f"# a comment\n\n{TEXT}", id="comment"),
        pytest.param(
            TEXT.replace("\nvms:", "   # why\n\n\nvms:   # which"),
            id="comments at the end of lines",
        ),
        pytest.param(TEXT.replace("\n", "\r\n"), id="ends of lines"),
        pytest.param(dumped(lambda tree: tree, default_flow_style=False, indent=7), id="layout"),
        pytest.param(dumped(lambda tree: tree, default_flow_style=True), id="one line"),
        pytest.param(dumped(turned), id="all keys the other way round"),
        pytest.param(dumped(without("zones")), id="all keys but those of zones"),
        pytest.param(
            dumped(lambda tree: dict(sorted(tree.items()))), id="keys of the file in order"
        ),
        pytest.param(
            dumped(lambda tree: {**tree, "flows": tree["flows"][::-1]}),
            id="flows the other way round",
        ),
    ],
)
def test_another_way_to_write_the_same_touches_nothing(text: str) -> None:
    assert touched(plan(text)) == []


def test_another_name_or_folder_of_the_file_touches_nothing(tmp_path: Path) -> None:
    assert touched(plan(TEXT, "other.yaml")) == []
    assert touched(plan(TEXT, str(tmp_path / "vapp.yaml"))) == []
    assert plan(TEXT, "vapp.yaml").steps == ()


def test_a_parameter_with_the_value_that_it_has_touches_nothing() -> None:
    assert plan(TEXT, web_count="1").steps == ()
    assert "make VM web-2" in touched(plan(TEXT, web_count="2"))


def test_the_second_run_with_another_order_has_nothing_to_do() -> None:
    """The first one wrote the description in the order that stands."""
    text = dumped(turned)
    assert LIVE.manifest
    kept = in_standing_order(design_of(vapp_of(text)), LIVE.manifest.design)
    assert plan(text, state=standing(kept)).steps == ()


def test_what_is_new_comes_after_what_stands() -> None:
    assert LIVE.manifest
    text = TEXT.replace("zones:\n", "zones:\n  first: {}\n", 1)
    new = in_standing_order(design_of(vapp_of(text)), LIVE.manifest.design)
    assert [zone.name for zone in new.zones] == ["dmz", "app", "cde", "first"]
    assert [nic.zone for nic in new.firewall.nics] == ["dmz", "app", "cde", "first", "uplink"]
    assert "restart VM firewall" in touched(plan(text))


def test_the_first_zone_of_a_vm_means_something() -> None:
    """Its default route is there, so here an order is a change."""
    both = TEXT.replace("zone: app", "zone: [app, dmz]", 1)
    state = standing(design_of(vapp_of(both)))
    assert touched(plan(both.replace("[app, dmz]", "[dmz, app]"), state=state))


def test_a_disk_that_is_mounted_elsewhere_is_a_change() -> None:
    assert touched(plan(TEXT.replace("logs: 1G", "logs: {size: 1G, mount: /srv/logs}", 1)))
