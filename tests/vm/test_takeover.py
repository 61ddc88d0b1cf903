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
from vcloud.hosts.connection import open_host
from vcloud.hosts.inventory import load_inventory
from vcloud.hosts.sealing import Sealing, sealing_of
from vcloud.plan.formats import FORMAT, Unreadable, decoded
from vcloud.plan.manifest import Manifest, VmImage
from vcloud.plan.wanted import root_digest

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]

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
    with open_host(load_inventory(Path(operator.env["VCLOUD_INVENTORY"]))[0]) as host:
        write_in_the_open(operator, sealing_of(host))


def write_in_the_open(operator: Operator, sealing: Sealing) -> None:
    """Formats before 5 sealed nothing."""
    record = parse(operator.virsh("net-dumpxml", RECORD))
    element = record.find(f"metadata/{{{NAMESPACE}}}record")
    assert element is not None
    content = sealing.opened(element.text or "", RECORD)
    assert content is not None, f"the record cannot be opened: {element.attrib} {element.text}"
    body = json.loads(zlib.decompress(content))
    roots = roots_of_1(decoded(element.attrib, base64.b64encode(content).decode()))
    for domain in domains(operator, NAME):
        sealed = own_element(operator.virsh("dumpxml", domain), "vm").attrib
        mark = sealing.opened_marks(sealed).attributes()
        former = {key: mark[key] for key in MARKS_OF_1 if key in mark} | {
            "hardware": "as format 1 computed it",
            "root": roots[domain.partition(".")[2]],
        }
        text = ElementTree.tostring(ElementTree.Element("vm", former), encoding="unicode")
        operator.virsh(
            "metadata", domain, NAMESPACE, "--key", "vcloud", "--set", text, "--live", "--config"
        )
    element.text = base64.b64encode(
        zlib.compress(json.dumps(as_format_1(body, domains(operator, NAME), roots)).encode())
    ).decode()
    element.attrib.clear()
    redefine(operator, record)


def roots_of_1(manifest: Manifest | Unreadable) -> dict[str, str]:
    """VM -> digest of what its root disk began with. Of the image only the recipe was known."""
    assert isinstance(manifest, Manifest)
    recipes = {vm: VmImage(image.recipe) for vm, image in manifest.images}
    return {vm.name: root_digest(recipes[vm.name], vm) for vm in manifest.design.vms}


def as_format_1(
    body: dict[str, Any], numbers: dict[str, str], roots: dict[str, str]
) -> dict[str, Any]:
    """The body without what later formats added, and with what they replaced. Connected VMs were known
    by libvirt's numbers.
    """
    del body["networks"], body["filter"], body["connected"], body["defined"]
    body["ids"] = [[vm, int(numbers[f"{NAME}.{vm}"])] for vm, _ in body["vms"]]
    body["vms"] = [
        [name, {**digests, "hardware": "as format 1 computed it", "root": roots[name]}]
        for name, digests in body["vms"]
    ]
    body["images"] = [[name, image["recipe"]] for name, image in body["images"]]
    design = body["design"]
    vms = [*design["workloads"], design["firewall"]]
    for part in (*vms, *design["flows"], *design["inspection"]["detectors"], design["inspection"]):
        part["line"] = part.pop("origin").get("line", 0)
    for vm in vms:
        vm["image"]["recipe"] = f"/home/operator/vcloud/images/{vm['image']['recipe']}"
    return body


def own_element(xml: str, tag: str) -> ElementTree.Element:
    found = parse(xml).find(f"metadata/{{{NAMESPACE}}}{tag}")
    assert found is not None, xml
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
    assert record.get("format") == str(FORMAT)
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
        assert f"format 99; this release reads up to {FORMAT}" in done.err, command
        assert "Use the release of vcloud that made it" in done.err
    assert remains(operator, NAME) == before
    (row,) = operator.run("list", "-o", "json").data
    assert row["state"] == "unreadable"
    element.set("format", ours)
    redefine(operator, record)
    assert operator.run("status", NAME, "--exit-code").code == 0
