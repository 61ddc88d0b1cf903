"""A vApp that a release of format 1 has made is taken over: looked at, changed live, verified and
removed, without a restart.
"""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.vm.conftest import Raise
from tests.vm.driver import NAMESPACE, Operator, Vapp, domains, parse, remains, write_vapp

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

NAME = "former"
RECORD = f"vcloud-manifest-{NAME}"
DOCUMENT: dict[str, Any] = {
    "vcloud": 1,
    "name": NAME,
    "zones": {"front": {}},
    "vms": {"web": {"image": "base", "zone": "front", "ready": {"tcp": 22}}},
    "flows": [
        {"id": "login", "from": "internet", "to": "web", "service": "tcp/22", "publish": 2222}
    ],
}
MARKS_OF_1 = ("vapp", "name", "role", "host-key", "rules", "root", "hardware", "identity")


@pytest.fixture(scope="module")
def former(raised: Raise, tmp_path_factory: pytest.TempPathFactory) -> Vapp:
    """As a release of format 1 left it: its manifest has no envelope, its marks have no format, its
    networks no digests.
    """
    file = write_vapp(tmp_path_factory.mktemp(NAME) / "former.yaml", DOCUMENT)
    vapp = raised(NAME, file)
    write_as_format_1(vapp.operator)
    return vapp


def write_as_format_1(operator: Operator) -> None:
    for domain in domains(operator, NAME):
        mark = own_element(operator.virsh("dumpxml", domain), "vm")
        former = {key: mark.attrib[key] for key in MARKS_OF_1 if key in mark.attrib} | {
            "hardware": "as format 1 computed it"
        }
        text = ElementTree.tostring(ElementTree.Element("vm", former), encoding="unicode")
        operator.virsh(
            "metadata", domain, NAMESPACE, "--key", "vcloud", "--set", text, "--live", "--config"
        )
    record = parse(operator.virsh("net-dumpxml", RECORD))
    element = record.find(f"metadata/{{{NAMESPACE}}}record")
    assert element is not None
    body = json.loads(zlib.decompress(base64.b64decode(element.text or "")))
    element.text = base64.b64encode(zlib.compress(json.dumps(as_format_1(body)).encode())).decode()
    element.attrib.clear()
    redefine(operator, record)


def as_format_1(body: dict[str, Any]) -> dict[str, Any]:
    """The body without what format 2 added, and with what it replaced."""
    del body["networks"], body["filter"]
    body["vms"] = [
        [name, {**digests, "hardware": "as format 1 computed it"}] for name, digests in body["vms"]
    ]
    design = body["design"]
    vms = [*design["workloads"], design["firewall"]]
    for part in (*vms, *design["flows"], *design["inspection"]["detectors"], design["inspection"]):
        part["line"] = part.pop("origin").get("line", 0)
    for vm in vms:
        vm["image"]["recipe"] = f"/home/operator/vcloud/images/{vm['image']['recipe']}"
    return body


def own_element(xml: str, tag: str) -> ElementTree.Element:
    found = parse(xml).find(f"metadata/{{{NAMESPACE}}}{tag}")
    assert found is not None
    return found


def redefine(operator: Operator, network: ElementTree.Element) -> None:
    """Through a file on this machine: virsh reads the XML of a network from nowhere else."""
    path = Path(operator.env["HOME"]) / "network.xml"
    path.write_text(ElementTree.tostring(network, encoding="unicode"))
    operator.virsh("net-define", str(path))


def test_a_vapp_of_format_1_is_seen_changed_verified_and_removed_without_a_restart(
    former: Vapp,
) -> None:
    operator, numbers = former.operator, domains(former.operator, NAME)
    assert operator.run("status", NAME, "--exit-code").code == 0
    (row,) = operator.run("list", "-o", "json").data
    assert (row["vapp"], row["state"]) == (NAME, "ready")
    changed = {**DOCUMENT, "flows": [{**DOCUMENT["flows"][0], "publish": 2223}]}
    operator.up(write_vapp(former.file, changed))
    assert domains(operator, NAME) == numbers
    assert operator.run("plan", str(former.file), "--exit-code").code == 0
    record = own_element(operator.virsh("net-dumpxml", RECORD), "record")
    assert record.get("format") == "2"
    assert operator.run("verify", NAME).code == 0
    operator.run("down", "--yes", NAME)
    assert remains(operator, NAME) == []


def test_nothing_is_done_to_a_vapp_that_a_newer_release_has_made(
    raised: Raise, tmp_path: Path
) -> None:
    """Every command says so; whoever made it can still use it, because nothing was changed."""
    file = write_vapp(tmp_path / "former.yaml", DOCUMENT)
    vapp = raised(NAME, file)
    operator = vapp.operator
    record = parse(operator.virsh("net-dumpxml", RECORD))
    element = record.find(f"metadata/{{{NAMESPACE}}}record")
    assert element is not None
    ours = element.attrib["format"]
    element.set("format", "99")
    redefine(operator, record)
    before = remains(operator, NAME)
    for command in (
        ["status", NAME],
        ["plan", str(file)],
        ["up", "--yes", str(file)],
        ["save", NAME],
        ["verify", NAME],
        ["down", "--yes", NAME],
    ):
        done = operator.run(*command, code=1)
        assert "format 99; this release reads up to 2" in done.err, command
        assert "Use the release of vcloud that made it" in done.err
    assert remains(operator, NAME) == before
    (row,) = operator.run("list", "-o", "json").data
    assert row["state"] == "unreadable"
    element.set("format", ours)
    redefine(operator, record)
    assert operator.run("status", NAME, "--exit-code").code == 0
