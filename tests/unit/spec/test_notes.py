"""What is valid but probably not meant."""

from __future__ import annotations

import time

import pytest

from tests.vapps import vapp_of
from vcloud.spec.notes import notes

TEXT = """\
vcloud: 1
name: shop
zones: {{dmz: {{}}, app: {{}}, cde: {{}}}}
vms:
  web: {{image: nginx, zone: dmz}}
  api: {{image: nginx, zone: {api}, count: 2}}
  db: {{image: nginx, zone: cde}}
flows:
  - {{id: store, from: api, to: db, service: tcp/5432}}
  - {{id: visits, from: internet, to: web, service: tcp/80}}
  - {{id: pay, from: api, to: internet, service: [tcp/443, udp/443]}}
  - {{id: answers, from: web, to: api, service: tcp/8000-8010, app: http}}
{flows}
protection:
  dlp:
    - {{detect: card-number, leaving: [{leaving}], except: [{excepted}]}}
"""


def said(
    excepted: str = "", flows: str = "", leaving: str = "app, cde", api: str = "app"
) -> list[tuple[str, str]]:
    text = TEXT.format(
        api=api,
        leaving=leaving,
        excepted=excepted,
        flows="".join(f"  - {flow}\n" for flow in flows.splitlines()),
    )
    found = notes(vapp_of(text))
    assert all(note.line and note.hint for note in found)
    return [(note.field, note.what) for note in found]


@pytest.mark.parametrize("flow", ["pay", "answers"])
def test_an_exception_on_which_data_leaves_is_meant(flow: str) -> None:
    """Also in the answers."""
    assert said(flow) == []


@pytest.mark.parametrize("flow", ["store", "visits"])
def test_an_exception_on_which_nothing_leaves_is_noted(flow: str) -> None:
    what = f"flow '{flow}' never leaves the zones of this detector, so the exception has no effect"
    assert said(flow) == [("protection.dlp[0].except", what)]


@pytest.mark.parametrize(
    "flow",
    [
        "{id: more, from: 'vm:api', to: internet, service: tcp/443}",
        "{id: more, from: app, to: internet, service: udp/1-1000}",
        "{id: more, from: internet, to: web, service: tcp/81}\n{id: other, from: zone:app, to: internet, service: udp/443}",
    ],
)
def test_an_exception_that_holds_for_a_flow_that_is_not_excepted_is_noted(flow: str) -> None:
    name = "other" if "other" in flow else "more"
    ((field, what),) = said("pay", flow)
    assert field == "protection.dlp[0].except"
    assert f"the exception for flow 'pay' also applies to flow '{name}' in line 1" in what
    assert said(f"pay, {name}", flow) == []


@pytest.mark.parametrize(
    "flow",
    [
        "{id: more, from: api, to: internet, service: tcp/80}",
        "{id: more, from: db, to: internet, service: tcp/443}",
        "{id: more, from: internet, to: api, service: tcp/443}",
        "{id: more, from: api, to: web, service: tcp/443}",
    ],
)
def test_a_flow_that_differs_from_an_excepted_one_is_searched(flow: str) -> None:
    assert said("pay", flow) == []


def test_flows_go_by_the_card_that_the_design_chooses() -> None:
    """From its first zone to the internet; to a VM that shares a zone, within that one."""
    assert [field for field, _ in said("pay", api="[app, dmz]")] == ["protection.dlp[0].leaving"]
    assert [
        what for field, what in said("pay, answers", api="[dmz, app]") if "except" in field
    ] == [
        "flow 'pay' never leaves the zones of this detector, so the exception has no effect",
        "flow 'answers' never leaves the zones of this detector, so the exception has no effect",
    ]


def test_a_vm_with_a_card_that_no_detector_watches_is_noted() -> None:
    what = "VM 'api' also has a NIC in dmz, where this detector does not search the traffic"
    assert said(api="[app, dmz]") == [("protection.dlp[0].leaving", what)]
    assert said(api="[app, dmz]", leaving="dmz, app") == []
    assert said(api="[app, cde]") == []


def work_for(flows: int) -> float:
    """Seconds of processor time that comparing so many flows takes, of which a hundred are
    exceptions of one detector.
    """
    ports = range(1000, 1000 + flows)
    excepted = ", ".join(f"f{port}" for port in ports[:100])
    lines = "".join(
        f"  - {{id: f{port}, from: api, to: internet, service: tcp/{port}, app: http}}\n"
        for port in ports
    )
    vapp = vapp_of(TEXT.format(api="app", leaving="app", excepted=excepted, flows=lines))
    began = time.process_time()
    assert notes(vapp) == ()
    return time.process_time() - began


def test_the_work_of_comparing_flows_grows_far_less_than_with_their_pairs() -> None:
    """Ten times as many flows have a hundred times as many pairs."""
    assert work_for(5000) < 50 * max(work_for(500), 0.01)


def test_an_inspected_flow_of_which_nobody_says_what_it_carries_is_noted() -> None:
    flow = "{id: more, from: web, to: api, service: [tcp/8080, udp/53, tcp/22]}"
    ((where, what),) = said(flows=flow)
    assert where == "flows[4]"
    assert what.startswith("flow 'more' does not say which protocol tcp/8080 carries")


@pytest.mark.parametrize(
    "flow",
    [
        "{id: more, from: web, to: api, service: tcp/8080, app: other}",
        "{id: more, from: internet, to: web, service: tcp/8080}",
    ],
    ids=["said", "not inspected"],
)
def test_a_flow_that_says_it_or_is_not_inspected_is_not_noted(flow: str) -> None:
    assert said(flows=flow) == []
