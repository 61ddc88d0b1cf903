"""What a host keeps for operators cannot be read by those whom libvirt lets in for reading only."""

from __future__ import annotations

import base64
import contextlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import replace

import libvirt
import pytest

from tests.design_builder import build_design
from tests.standing import manifest_of, standing
from tests.unit.conftest import NoSecretError, Secret
from tests.vapps import design_of_text
from vcloud.design.addressing import uuid_of
from vcloud.errors import HostError
from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.manifests import PREFIX, delete_manifest, read_manifest, write_manifest
from vcloud.hosts.metadata import Record, read_record, write_record
from vcloud.hosts.sealing import UUID, sealing_of
from vcloud.marks import VmDigests, VmMarks
from vcloud.plan.diff import plan_changes
from vcloud.plan.formats import Unreadable, encoded
from vcloud.plan.manifest import Manifest, VmImage

DESIGN = design_of_text("""\
vcloud: 1
name: shop
zones: {dmz: {}}
vms:
  web:
    image: nginx
    zone: dmz
    ready: {command: mysql -u root -phunter2 -e status}
    run: echo hunter2 | passwd
    files: {/etc/secret: hunter2}
protection:
  dlp: [{detect: {name: project, regex: 'Project Blue(bird|jay)'}, leaving: dmz}]
""")
MARKS = VmMarks("shop", "web-1", "workload", "ssh-ed25519 AAAA", VmDigests("r", "h", "i"))


@pytest.fixture
def host(kept_secrets: dict[str, Secret]) -> Iterator[Host]:
    kept_secrets.clear()
    with open_host(HostRef("t", "test:///default")) as opened:
        yield opened
        delete_manifest(opened, "shop")


def readable(host: Host) -> bytes:
    """All that can be made of the manifest's record without a key."""
    record = read_record(host, PREFIX + "shop")
    assert record
    body = base64.b64decode(record.text)
    with contextlib.suppress(zlib.error):
        body += zlib.decompress(body)
    return repr(record).encode() + body


def test_a_manifest_on_a_host_tells_no_command_pattern_or_digest(host: Host) -> None:
    written = manifest_of(DESIGN)
    secret = [b"hunter2", b"Project Blue", b"sha256:", b"/etc/secret"]
    _, body = encoded(written)
    in_the_open = zlib.decompress(base64.b64decode(body))
    assert [part for part in secret if part in in_the_open] == secret
    write_manifest(host, written)
    found = readable(host)
    assert [part for part in (*secret, written.ips.encode()) if part in found] == []
    assert read_manifest(host, "shop") == written


def test_another_process_opens_what_one_has_sealed(host: Host) -> None:
    write_manifest(host, manifest_of(DESIGN))
    with open_host(HostRef("t", "test:///default")) as other:
        assert sealing_of(other).opened(sealing_of(host).sealed(b"text", "x"), "x") == b"text"
        # Each had found no key before it was made.
        assert sealing_of(host).sealed(b"text", "x") == sealing_of(other).sealed(b"text", "x")


def test_a_manifest_of_an_earlier_release_is_read_and_then_sealed(host: Host) -> None:
    written = manifest_of(DESIGN)
    envelope, body = encoded(written)
    document = json.loads(zlib.decompress(base64.b64decode(body)))
    # Format 2 knew only the recipe of an image.
    document["images"] = [[vm, image["recipe"]] for vm, image in document["images"]]
    former = base64.b64encode(zlib.compress(json.dumps(document).encode())).decode()
    form = envelope | {"format": "2"}
    write_record(host, Record(PREFIX + "shop", uuid_of("manifest", "shop"), form, former))
    assert b"hunter2" in readable(host)
    recipes = tuple((vm, VmImage(image.recipe)) for vm, image in written.images)
    assert read_manifest(host, "shop") == replace(written, images=recipes)
    write_manifest(host, written)
    assert b"hunter2" not in readable(host)


def test_where_the_key_is_lost_nothing_is_built_and_down_still_works(
    host: Host, kept_secrets: dict[str, Secret]
) -> None:
    write_manifest(host, manifest_of(DESIGN))
    kept_secrets.clear()
    with open_host(HostRef("t", "test:///default")) as later:
        found = read_manifest(later, "shop")
        assert isinstance(found, Unreadable)
        assert (found.locked, found.is_newer) == (True, False)
        assert found.address4 == manifest_of(DESIGN).uplink.address4.ip
    state = replace(standing(DESIGN), manifest=None, unreadable=found)
    with pytest.raises(HostError, match="has lost the key") as caught:
        plan_changes(manifest_of(DESIGN), state, "h1")
    assert "vcloud down shop" in caught.value.hint
    # `down` asks only this.
    state.refuse_newer("shop", "h1")


def test_where_the_key_is_lost_no_other_takes_its_place(
    host: Host, kept_secrets: dict[str, Secret]
) -> None:
    """Otherwise the key of before, when it is brought back, would lock what the other one sealed."""
    write_manifest(host, manifest_of(DESIGN))
    lost = dict(kept_secrets)
    kept_secrets.clear()
    other = manifest_of(build_design(zones="dmz", vms={"web": "dmz"}, vapp="other"))
    with open_host(HostRef("t", "test:///default")) as later:
        with pytest.raises(HostError, match="lost the key") as caught:
            write_manifest(later, other)
        assert "vcloud-manifest-shop" in caught.value.what
        assert kept_secrets == {}
    kept_secrets.update(lost)
    with open_host(HostRef("t", "test:///default")) as restored:
        assert isinstance(read_manifest(restored, "shop"), Manifest)


def test_a_sealed_manifest_that_somebody_has_changed_is_no_manifest(host: Host) -> None:
    write_manifest(host, manifest_of(DESIGN))
    record = read_record(host, PREFIX + "shop")
    assert record
    for text in ("", "?", record.text[:-8], "AAAA" + record.text[4:]):
        write_record(host, replace(record, text=text))
        assert isinstance(read_manifest(host, "shop"), Unreadable)
    write_record(host, record)
    assert isinstance(read_manifest(host, "shop"), Manifest)


def test_the_digests_of_a_mark_are_sealed_and_come_back(host: Host) -> None:
    sealed = sealing_of(host).sealed_marks(MARKS)
    assert not {"root", "hardware", "identity"} & set(sealed)
    assert sealing_of(host).opened_marks(sealed) == MARKS
    unfinished = replace(MARKS, digests=None)
    assert sealing_of(host).sealed_marks(unfinished) == unfinished.attributes()
    assert sealing_of(host).opened_marks(None).vapp == ""


def test_digests_of_another_vm_or_of_another_key_are_no_digests(
    host: Host, kept_secrets: dict[str, Secret]
) -> None:
    sealed = sealing_of(host).sealed_marks(MARKS)
    for other in (sealed | {"name": "web-2"}, sealed | {"made-from": "AAAA"}):
        assert sealing_of(host).opened_marks(other).digests is None
    kept_secrets[UUID].content = bytes(64)
    with open_host(HostRef("t", "test:///default")) as later:
        assert sealing_of(later).opened_marks(sealed).digests is None


def test_the_digests_of_marks_of_earlier_releases_are_read(host: Host) -> None:
    assert (
        sealing_of(host).opened_marks(MARKS.attributes() | {"format": "3"}).digests == MARKS.digests
    )


def test_a_host_that_keeps_no_secrets_is_told(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoSupportError(NoSecretError):
        def get_error_code(self) -> int:
            return libvirt.VIR_ERR_NO_SUPPORT

    def refuse(*_: object) -> Secret:
        raise NoSupportError("this function is not supported by the connection driver")

    monkeypatch.setattr(libvirt.virConnect, "secretLookupByUUIDString", refuse)
    monkeypatch.setattr(libvirt.virConnect, "secretDefineXML", refuse)
    with pytest.raises(HostError, match=r"libvirt on t keeps no secrets") as caught:
        write_manifest(host, manifest_of(DESIGN))
    assert "libvirt-daemon-driver-secret" in caught.value.hint
    assert read_record(host, PREFIX + "shop") is None
