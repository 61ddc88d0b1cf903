"""Pictures of a lab: Graphviz itself must accept the one, whatever the names on hosts are."""

from __future__ import annotations

import re
import subprocess

import pytest
from lxml import etree

from vcloud.compile.lab_graph import LabHost, Tenant, render_lab_dot, render_lab_mermaid
from vcloud.tenancy import DEDICATED, Terms

SHOP = Terms("shop", (("owner", "retail"),), never=((("owner", "bank"),),), conflicts=("web",))
BANK = Terms("bank", (("owner", "bank"),))
RIVAL = Terms("rival", (("owner", "retail"),), conflicts=("web",))
ALONE = Terms("alone", (("owner", "x"),), share=DEDICATED)
HOSTILE = 'a"]; x -> y; b [label="\\" |"] <b>\u202e\n end'
LAB = [
    LabHost("h1", (("site", "eu"),), (Tenant("shop", 3, SHOP), Tenant("old", 0))),
    LabHost("h2", (), (Tenant("bank", 2, BANK), Tenant(HOSTILE, 1, managed=False))),
    LabHost("h3", (), (Tenant("alone", 1, ALONE),)),
    LabHost("h4", (), (Tenant("rival", 1, RIVAL),)),
    LabHost("h5", error=f"no route to {HOSTILE}"),
    LabHost("h6"),
]


def drawn(hosts: list[LabHost]) -> tuple[dict[str, str], dict[str, str]]:
    """Title -> text of the nodes and clusters, and of the edges, that Graphviz drew."""
    done = subprocess.run(
        ["dot", "-Tsvg"], input=render_lab_dot(hosts).encode(), capture_output=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")
    found: dict[str, dict[str, str]] = {"node": {}, "edge": {}}
    for group in etree.fromstring(done.stdout).findall(".//{*}g"):
        kind = "edge" if group.get("class") == "edge" else "node"
        texts = [text.text or "" for text in group.findall("{*}text")]
        found[kind][group.findtext("{*}title") or ""] = " ".join(texts)
    return found["node"], found["edge"]


def test_hosts_hold_their_vapps_and_arrows_lead_to_whom_they_keep_away() -> None:
    nodes, edges = drawn(LAB)
    assert nodes["cluster_h0"].split() == ["h1", "site=eu"]
    assert nodes["h0_0"] == (
        "shop 3 VMs keeps away vApps with owner=bank keeps away other vApps of class 'web'"
    )
    assert nodes["h0_1"] == "old does not run"
    assert nodes["h2_0"] == "alone 1 VM keeps away every other vApp"
    assert {edge: "never" in text or "class" in text for edge, text in edges.items()} == {
        "h0_0->h1_0": True,
        "h0_0->h3_0": True,
    }
    assert "'bank' has it" in edges["h0_0->h1_0"]


def test_a_host_that_cannot_be_reached_is_drawn_as_such() -> None:
    nodes, _ = drawn(LAB)
    assert "cannot be asked: no route to" in nodes["cluster_h4"]
    assert nodes["h4_empty"] == "unreachable"
    assert nodes["h5_empty"] == "nothing"
    assert "h0_empty" not in nodes


@pytest.mark.parametrize("hosts", [LAB, [], LAB[:1]], ids=["all", "none", "one"])
def test_mermaid_has_the_same_boxes_and_arrows(hosts: list[LabHost]) -> None:
    mermaid, (nodes, edges) = render_lab_mermaid(hosts), drawn(hosts)
    boxes = set(re.findall(r"^    (\w+)\[\"[^\"]*\"\]$", mermaid, re.MULTILINE))
    assert boxes == {node for node in nodes if re.fullmatch(r"h\d+_\w+", node)}
    arrows = re.findall(r"^  (\w+) -->\|\"[^\"|]*\"\| (\w+)$", mermaid, re.MULTILINE)
    assert {f"{source}->{target}" for source, target in arrows} == {*edges}
    groups = len(re.findall(r"^  subgraph h\d+\[\"[^\"]*\"\]$", mermaid, re.MULTILINE))
    assert groups == mermaid.count("\n  end\n") == len(hosts)


def test_names_are_only_names_in_both_languages() -> None:
    nodes, edges = drawn(LAB)
    assert not {"x", "y", "b"} & {*nodes}
    assert "x->y" not in edges
    assert nodes["h1_1"].startswith('a"]; x -> y; b [label="\\" |"] <b>')
    mermaid = render_lab_mermaid(LAB)
    assert "<b>" not in mermaid
    assert "\u202e" not in mermaid + render_lab_dot(LAB)
