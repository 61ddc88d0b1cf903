"""The manifest comes back from libvirt as it went in, and holds nothing that a reader of libvirt
should not see.
"""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.standing import manifest_of
from tests.vapps import TWO_HOMES, design_of_text, shop
from vcloud.compile.artifacts import compile_vapp
from vcloud.plan.formats import decoded, encoded
from vcloud.plan.manifest import Manifest, Phase, digest_of, redacted, without_folders
from vcloud.views.render import UPLINK

FILE = """\
vcloud: 1
name: safe
parameters: {password: change-me}
zones: {dmz: {}}
vms:
  web:
    image: nginx
    zone: dmz
    files: {/etc/secret: {content: "token=CONTENT ${password}", mode: '0600'}}
    run: ["login --password RUNLINE-${password}"]
"""


@pytest.mark.parametrize("text", [TWO_HOMES, FILE])
def test_a_manifest_comes_back_as_it_was(text: str) -> None:
    manifest = manifest_of(design_of_text(text))
    assert decoded(*encoded(manifest)) == manifest


def test_each_claim_has_a_higher_number_than_the_one_before() -> None:
    """Whatever the clocks of two operators say, and also where the manifest of before is lost."""
    wanted = manifest_of(shop())
    first = wanted.claimed("lock 1", None, 1000)
    second = wanted.claimed("lock 2", replace(first, ids=(("web-1", 7),)), 900)
    assert (first.generation, second.generation) == (1000, 1001)
    assert wanted.claimed("lock 3", None, 1002).generation == 1002
    assert (second.lock, second.phase, second.ids) == ("lock 2", Phase.APPLYING, (("web-1", 7),))
    assert wanted.claimed("lock 4", first, 900, above=5000).generation == 5001, "a host knows more"
    assert second.agrees_with(first)
    assert replace(first, signed=(("web-1", 7),)).claimed("lock 5", None, 1).signed == ()
    assert (
        wanted.claimed("lock 6", replace(first, signed=(("web-1", 7),)), 1).signed_of("web-1") == 7
    )
    assert not second.agrees_with(replace(first, firewall="another"))


def test_a_manifest_that_names_no_run_is_read() -> None:
    """Releases before this one wrote no lock and no number, in the same format."""
    envelope, body = encoded(manifest_of(shop()).claimed("lock", None, 5))
    document = json.loads(zlib.decompress(base64.b64decode(body)))
    del document["lock"], document["generation"]
    read = decoded(
        envelope, base64.b64encode(zlib.compress(json.dumps(document).encode())).decode()
    )
    assert isinstance(read, Manifest)
    assert (read.lock, read.generation) == ("", 0)


def test_an_uplink_without_ipv6_comes_back_too() -> None:
    manifest = manifest_of(shop(), uplink=replace(UPLINK, address6=None, gateway6=None))
    assert decoded(*encoded(manifest)) == manifest


def body_of(manifest: Manifest) -> str:
    """The JSON that stands in a manifest's body."""
    return zlib.decompress(base64.b64decode(encoded(manifest)[1])).decode()


def test_the_manifests_of_operators_with_their_files_in_different_folders_are_equal() -> None:
    design = shop()
    moved = replace(
        design,
        workloads=tuple(
            replace(vm, image=replace(vm.image, recipe=f"/home/other/{vm.image.name}"))
            for vm in design.workloads
        ),
    )
    assert redacted(moved) == redacted(design)
    assert redacted(design).firewall.image.recipe == "firewall"


def test_no_secret_is_in_it() -> None:
    design = design_of_text(FILE, password="hunter2-hunter2")
    text = body_of(manifest_of(design))
    for secret in ("CONTENT", "RUNLINE", "hunter2", "token", "change-me"):
        assert secret not in text
    assert "/etc/secret" in text
    assert text.count("sha256:") == 2


def test_no_secret_of_the_shop_is_in_it() -> None:
    text = body_of(manifest_of(shop(db_password="hunter2-hunter2")))
    assert "hunter2" not in text
    assert "CREATE ROLE" not in text


def test_a_changed_secret_changes_the_digest_of_its_vm() -> None:
    one, other = (
        manifest_of(design_of_text(FILE, password=word)).digests_of("web")
        for word in ("first", "second")
    )
    assert one is not None
    assert other is not None
    assert one.root != other.root
    assert one.identity != other.identity
    assert one.hardware == other.hardware


def test_redaction_leaves_everything_else_as_it_is() -> None:
    design = design_of_text(FILE)
    seen = redacted(design)
    plain = [
        replace(vm, files=(), run=(), image=without_folders(vm.image)) for vm in design.workloads
    ]
    assert [replace(vm, files=(), run=()) for vm in seen.workloads] == plain
    assert redacted(seen) != design
    assert compile_vapp(seen, UPLINK).firewall == compile_vapp(design, UPLINK).firewall


def test_manifests_agree_whatever_phase_time_and_writer() -> None:
    manifest = manifest_of(shop())
    assert manifest.agrees_with(
        replace(manifest, phase=Phase.READY, written="later", vcloud="9.9.9")
    )
    assert not manifest.agrees_with(replace(manifest, firewall="another"))


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_digests_differ_where_values_do(one: list[str], other: list[str]) -> None:
    assert (digest_of(*one) == digest_of(*other)) == (one == other)
