"""Pictures: Graphviz itself must accept the one, and both must show what the design says."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace

import pytest
from lxml import etree

from tests.design_builder import build_design
from tests.vapps import TWO_HOMES, design_of_text, shop
from vcloud.compile.graph import render_dot, render_mermaid
from vcloud.design.model import Design

DESIGNS = {
    "shop": shop(web_count="3"),
    "relay": design_of_text(TWO_HOMES),
    "names": build_design(
        "end graph:inspected",
        {"node": "end", "sub-graph": "graph x2"},
        "edge: node -> sub-graph tcp/80",
    ),
    "spare": build_design("dmz spare", {"web": "dmz"}),
}
"""`names`: words that mean something to Graphviz or to Mermaid."""


@pytest.fixture(params=sorted(DESIGNS))
def design(request: pytest.FixtureRequest) -> Design:
    return DESIGNS[request.param]


def drawn(text: str) -> tuple[set[str], set[str]]:
    """Titles of the nodes and of the edges that Graphviz drew."""
    done = subprocess.run(
        ["dot", "-Tsvg"], input=text.encode(), capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    groups = etree.fromstring(done.stdout).findall(".//{*}g")
    nodes, edges = (
        {group.findtext("{*}title") for group in groups if group.get("class") == kind}
        for kind in ("node", "edge")
    )
    return nodes, edges


def test_graphviz_draws_a_box_for_each_tier_and_an_arrow_for_each_flow(design: Design) -> None:
    nodes, edges = drawn(render_dot(design))
    assert {f"vm_{vm.tier.replace('-', '_')}" for vm in design.workloads} | {"internet"} <= nodes
    assert len(edges) >= len({(flow.source, flow.target) for flow in design.flows})
    assert all(end in nodes for edge in edges for end in edge.split("->"))


def test_mermaid_has_the_same_boxes_and_arrows(design: Design) -> None:
    dot, mermaid = render_dot(design), render_mermaid(design)
    assert mermaid.startswith("flowchart LR\n")
    arrows = set(re.findall(r"^  (\w+) -->\|\"[^\"|]*\"\| (\w+)$", mermaid, re.MULTILINE))
    assert arrows == {tuple(edge.split("->")) for edge in drawn(dot)[1]}
    assert (
        len(re.findall(r"^  subgraph ", mermaid, re.MULTILINE))
        == len(re.findall(r"^  end$", mermaid, re.MULTILINE))
        == len(design.zones)
    )
    boxes = set(re.findall(r"^    (\w+)\[", mermaid, re.MULTILINE))
    assert {end for arrow in arrows for end in arrow} <= boxes | {"internet", "internet_beyond"}


def test_labels_tell_services_ports_counts_and_data() -> None:
    text = render_dot(DESIGNS["shop"])
    assert "checkout: tcp/80 http from port 8080" in text
    assert "web x 3" in text
    assert "cde (holds cardholder-data)" in text
    assert "lab (open)" in render_dot(DESIGNS["relay"])


def test_only_what_a_detector_looks_at_is_drawn_as_watched() -> None:
    """`acquirer` is excepted by one of the two detectors only; `store` stays within the set of
    zones.
    """
    arrows = {
        match[1]: "color" in match[0]
        for match in re.finditer(r'-> \w+ \[label=" ([a-z]+):.*', render_dot(DESIGNS["shop"]))
    }
    assert arrows == {
        "checkout": False,
        "orders": True,
        "store": False,
        "acquirer": True,
        "parcels": True,
    }


def test_a_design_without_detectors_watches_nothing() -> None:
    design = DESIGNS["shop"]
    plain = replace(design, inspection=replace(design.inspection, detectors=()))
    assert not re.search(r"-> \w+ \[.*color", render_dot(plain))
