"""Every format of manifests and marks that a release has written can be read, and a newer one is
never built upon.
"""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.standing import build_of, manifest_of, standing
from tests.vapps import TWO_HOMES, design_of_text, shop
from vcloud import marks
from vcloud.compile.artifacts import comparable_domain, comparable_networks
from vcloud.compile.libvirt.host import HostFacts
from vcloud.design.model import Design
from vcloud.marks import (
    NO_NETWORK,
    NO_VM,
    NetworkMarks,
    VmDigests,
    VmMarks,
    network_marks,
    vm_marks,
)
from vcloud.plan import formats
from vcloud.plan.diff import plan_changes
from vcloud.plan.formats import FORMAT, UPGRADES, Unreadable, decoded, encoded
from vcloud.plan.images import chosen_image
from vcloud.plan.manifest import Manifest
from vcloud.plan.steps import LOADED, Verb
from vcloud.views.render import UPLINK

FORMATS = Path(__file__).parents[2] / "golden/formats"
DESIGNS = {
    "shop": design_of_text((FORMATS / "shop.yaml").read_text()),
    "two-homes": design_of_text(TWO_HOMES),
}
"""The first is the shop as it was shipped when format 1 was current: what it renders must not
change with the shop of today.
"""


def packed(document: Any) -> str:
    return base64.b64encode(zlib.compress(json.dumps(document).encode())).decode()


def golden(form: int, name: str) -> Manifest | Unreadable:
    """The manifest of a vApp that a release of that format has made."""
    record = json.loads((FORMATS / f"manifest-{form}-{name}.json").read_text())
    return decoded(
        *((record["envelope"], packed(record["body"])) if form > 1 else ({}, packed(record)))
    )


def test_there_is_a_golden_of_each_format() -> None:
    for form in range(1, FORMAT + 1):
        assert {path.name for path in FORMATS.glob(f"manifest-{form}-*.json")} == {
            f"manifest-{form}-{name}.json" for name in DESIGNS
        }
    assert set(UPGRADES) == set(range(1, FORMAT))
    assert {path.name for path in FORMATS.glob("marks-*.xml")} == {
        f"marks-{form}.xml" for form in range(1, marks.FORMAT + 1)
    }


@pytest.mark.parametrize("name", DESIGNS)
def test_this_release_writes_its_format_as_the_golden_has_it(
    name: str, request: pytest.FixtureRequest
) -> None:
    """A field more makes this fail: raise `FORMAT` and keep the old golden, or give the field a
    default.
    """
    manifest = standing(DESIGNS[name]).manifest
    assert manifest
    envelope, body = encoded(manifest)
    written = {"envelope": envelope, "body": json.loads(zlib.decompress(base64.b64decode(body)))}
    path = FORMATS / f"manifest-{FORMAT}-{name}.json"
    if request.config.getoption("--update-golden"):
        path.write_text(json.dumps(written, indent=1, sort_keys=True) + "\n")
    assert json.loads(path.read_text()) == written


@pytest.mark.parametrize("form", range(1, FORMAT + 1))
@pytest.mark.parametrize("name", DESIGNS)
def test_a_vapp_that_an_earlier_release_made_stands_and_needs_no_restart(
    form: int, name: str
) -> None:
    """What this release renders as the earlier one did is not touched; rules and what guests are
    told may be given to them live.
    """
    manifest, design = golden(form, name), DESIGNS[name]
    assert isinstance(manifest, Manifest)
    assert manifest.design.vapp == design.vapp
    state = standing(design)
    assert state.manifest
    builds = {
        vm.name: chosen_image(build_of(vm).recipe, manifest.image_of(vm.name), build_of(vm))
        for vm in design.vms
    }
    wanted = manifest_of(design, images=builds)
    steps = plan_changes(wanted, replace(state, manifest=manifest), "h1").steps
    assert {step.verb for step in steps} <= {
        *LOADED,
        Verb.CONFIGURE_VM,
        Verb.DEFINE_FILTER,
        Verb.MEND_VM,
        Verb.RECORD,
    }


@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
def test_this_release_renders_what_releases_of_format_1_rendered(design: Design) -> None:
    """The digests of a vApp that they made are taken from the texts of this release. Where these
    change, `plan.formats` must compare otherwise.
    """
    texts = {
        f"{vm.domain}.domain.xml": comparable_domain(vm, UPLINK, HostFacts("tcg"))
        for vm in design.vms
    }
    texts |= {f"{name}.network.xml": text for name, text in comparable_networks(design).items()}
    for name, text in texts.items():
        assert canonical(text) == canonical((FORMATS / "rendered-1" / name).read_text()), name


def canonical(xml: str) -> str:
    """The XML without blanks and without vcloud's own element. libvirt gives addresses to devices
    kind by kind, in the order of each kind.
    """
    root = ElementTree.fromstring(xml)  # noqa: S314 - our own
    for place in root.iter("metadata"):
        place.clear()
    for devices in root.iter("devices"):
        devices[:] = sorted(devices, key=lambda device: device.tag)
    for element in root.iter():
        element.text, element.tail = (element.text or "").strip(), ""
    return ElementTree.canonicalize(ElementTree.tostring(root, encoding="unicode"))


# What cannot be read


def test_a_manifest_of_a_newer_release_still_tells_its_address_and_who_made_it() -> None:
    envelope, _ = encoded(manifest_of(shop()))
    found = decoded(
        envelope | {"format": str(FORMAT + 1), "vcloud": "9.1"},
        "whatever the newer release keeps here",
    )
    assert found == Unreadable(FORMAT + 1, "9.1", IPv4Address("198.18.0.2"))
    assert found.is_newer
    assert "vcloud 9.1" in found.reason


@pytest.mark.parametrize("form", ["0", "-1", "two", "", "9" * 40])
def test_a_format_that_is_no_number_of_ours_is_taken_for_a_newer_one(form: str) -> None:
    envelope, body = encoded(manifest_of(shop()))
    found = decoded(envelope | {"format": form}, body)
    assert isinstance(found, Unreadable)
    assert found.is_newer
    assert vm_marks({"format": form, "vapp": "shop", "name": "web", "role": "workload"}).is_newer


def test_a_damaged_manifest_is_not_a_newer_one() -> None:
    envelope, body = encoded(manifest_of(shop()))
    document = json.loads(zlib.decompress(base64.b64decode(body)))
    del document["firewall"]
    for text in (body[:-8], packed(document), "", "%", packed([]), packed({"design": 5})):
        for written in (envelope, {}):
            found = decoded(written, text)
            assert isinstance(found, Unreadable)
            assert not found.is_newer
            assert found.reason == "its description is damaged"


@given(
    st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=4),
    st.text(max_size=200) | st.from_type(dict[str, int]).map(packed),
)
def test_nothing_that_somebody_else_wrote_is_more_than_unreadable(
    envelope: dict[str, str], body: str
) -> None:
    assert isinstance(decoded(envelope, body), Unreadable)


def test_a_body_that_unpacks_to_more_than_any_manifest_is_damaged() -> None:
    envelope, _ = encoded(manifest_of(shop()))
    bomb = base64.b64encode(zlib.compress(b" " * (formats.MOST + 1), 9)).decode()
    assert isinstance(decoded(envelope, bomb), Unreadable)


# Marks


MARKS = VmMarks(
    "shop",
    "web-1",
    "workload",
    "ssh-ed25519 AAAA",
    VmDigests("r", "h", "i"),
    "f" * 8,
    unready=True,
    blank=("data", "logs"),
)


def test_a_mark_comes_back_as_it_was() -> None:
    assert vm_marks(MARKS.attributes()) == MARKS
    assert network_marks(NetworkMarks("shop", "dmz", "d").attributes()) == NetworkMarks(
        "shop", "dmz", "d"
    )
    plain = VmMarks("shop", "web-1", "workload")
    assert vm_marks(plain.attributes()) == plain


def test_what_has_no_mark_is_not_ours() -> None:
    assert vm_marks(None) == NO_VM
    assert network_marks(None) == NO_NETWORK
    assert not NO_VM.is_newer


@pytest.mark.parametrize("form", range(1, marks.FORMAT + 1))
def test_the_marks_of_each_format_are_read(form: int) -> None:
    """The host key decides whom ssh trusts, the digests what is restarted."""
    element = ElementTree.fromstring((FORMATS / f"marks-{form}.xml").read_text())  # noqa: S314 - our own
    found = {child.get("name"): vm_marks(child.attrib) for child in element if child.tag == "vm"}
    assert found["web-1"].digests == VmDigests("3f0c", "a41b", "77de")
    assert found["web-1"].host_key == "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEw"
    assert found["firewall"].rules == "c0ffee"
    assert found["db"].digests is None
    assert found["db"].blank == (("data", "logs") if form >= 3 else ())
    assert {(mark.vapp, mark.format) for mark in found.values()} == {("shop", form)}
    (network,) = [network_marks(child.attrib) for child in element if child.tag == "network"]
    assert (network.vapp, network.zone) == ("shop", "dmz")


def test_without_a_mark_no_disk_counts_as_blank() -> None:
    """Only a disk that is known to hold no data may be made anew without asking."""
    assert NO_VM.blank == ()
    assert vm_marks({"vapp": "shop", "name": "db", "role": "workload"}).blank == ()
    assert vm_marks(MARKS.attributes()).blank == ("data", "logs")


def test_a_newer_mark_tells_whose_it_is_and_nothing_more() -> None:
    newer = vm_marks(MARKS.attributes() | {"format": str(marks.FORMAT + 1)})
    assert (newer.vapp, newer.vm, newer.role) == ("shop", "web-1", "workload")
    assert (newer.digests, newer.host_key, newer.is_newer) == (None, "", True)


def test_marks_are_read_by_a_program_that_has_only_pythons_library() -> None:
    """A program on a host reads them, too, where vcloud is not installed."""
    import subprocess
    import sys

    program = f"import runpy; found = runpy.run_path({marks.__file__!r}); print(found['vm_marks']({MARKS.attributes()!r}).vm)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "web-1\n"
