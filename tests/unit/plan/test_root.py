"""The root disk of a VM has the size that the file gives: it grows, and never shrinks."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import yaml

from tests.standing import manifest_of, standing
from tests.vapps import SMALL, design_of_text, vapp_of
from vcloud.compile.guest.cloudinit import user_data
from vcloud.design.model import Design, Vm
from vcloud.errors import SmallerDiskError, SpecError
from vcloud.files import Folder
from vcloud.images.build import ROOT_SIZE
from vcloud.images.qcow2 import HEADER_BYTES, disk_size
from vcloud.pipeline import design_of
from vcloud.plan.diff import plan_changes
from vcloud.plan.manifest import Manifest
from vcloud.plan.memory_image import why_not_wakeable
from vcloud.plan.steps import Plan, Verb
from vcloud.spec.load import parse_vapp
from vcloud.spec.model import Vapp
from vcloud.views.render import UPLINK

GIB = 1 << 30


def sized(root: str = "", image: str = "nginx") -> str:
    written = f", root: {root}" if root else ""
    return SMALL.replace("image: nginx, zone: dmz", f"image: {image}, zone: dmz{written}")


def changes(before: str, after: str) -> Plan:
    old, new = (design_of_text(sized(root)) for root in (before, after))
    return plan_changes(manifest_of(new), standing(old), "h1")


def web(design: Design | Manifest) -> Vm:
    vms = design.design.workloads if isinstance(design, Manifest) else design.workloads
    return vms[0]


def test_a_larger_root_disk_is_named_and_restarts_the_vm() -> None:
    for before, told in (("", "as its image"), ("8G", "8192 MiB")):
        plan = changes(before, "20G")
        steps = [step for step in plan.steps if step.subject == "web"]
        assert steps[0].verb is Verb.RESTART_VM
        assert steps[0].why == f"root disk: {told} -> 20480 MiB"
    assert changes("20G", "20GB").steps == ()
    assert changes("", "").steps == ()


@pytest.mark.parametrize("after", ["8G", ""])
def test_a_root_disk_never_becomes_smaller(after: str) -> None:
    with pytest.raises(SmallerDiskError, match="the root disk of 'web' has 20480M") as raised:
        changes("20G", after)
    assert "Write root: 20480M" in raised.value.hint


def test_an_earlier_release_made_the_same_machine() -> None:
    """The digest of a VM without `root` is that of before."""
    plain, rooted = (manifest_of(design_of_text(sized(root))) for root in ("", "8G"))
    one, other = (manifest.digests_of("web") for manifest in (plain, rooted))
    assert one is not None
    assert other is not None
    assert one.root == other.root
    assert one.hardware != other.hardware


def test_a_root_disk_smaller_than_a_recipes_image_is_an_error_with_its_line() -> None:
    assert ROOT_SIZE == "4G"
    with pytest.raises(SpecError) as raised:
        vapp_of(sized("3G"))
    assert str(raised.value).startswith(
        "vapp.yaml:5: vms.web.root: the image has a disk of 4G, and a disk cannot become smaller\n"
        "  Write root: 4G or more, or remove root."
    )
    assert vapp_of(sized("4G")).vms["web"].root == 4 * GIB


def qcow2(size: int) -> bytes:
    return struct.pack(">4sIQIIQ", b"QFI\xfb", 3, 0, 0, 16, size).ljust(HEADER_BYTES, b"\0")


def test_a_root_disk_is_compared_with_a_qcow2_of_the_users_own(tmp_path: Path) -> None:
    def read(root: str) -> Vapp:
        return vapp_of(sized(root, "own.qcow2"), tmp_path)

    (tmp_path / "own.qcow2").write_bytes(qcow2(6 * GIB + 1))
    with pytest.raises(SpecError, match=r"vms.web.root: the image has a disk of 6145M"):
        read("6G")
    assert read("6145M").vms["web"].root == 6145 << 20
    assert (disk_size(qcow2(7)), disk_size(b"x" * 104), disk_size(qcow2(7)[:20])) == (7, 0, 0)
    assert vapp_of(sized("", "own.qcow2"), tmp_path).vms["web"].root is None


def test_cloud_init_fills_a_disk_that_has_a_size(tmp_path: Path) -> None:
    (tmp_path / "own.qcow2").write_bytes(qcow2(2 * GIB))
    for root, grows in (("10G", True), ("", False)):
        text = sized(root, str(tmp_path / "own.qcow2"))
        design = design_of(parse_vapp(text.encode(), Folder(tmp_path)))
        config = yaml.safe_load(user_data(design, web(design), None))
        assert ("growpart" in config, config.get("resize_rootfs")) == (grows, grows or None)


def test_a_vm_whose_root_disk_grows_is_booted() -> None:
    rooted, plain = (web(design_of_text(sized(root))) for root in ("8G", ""))
    assert "grows while it boots" in why_not_wakeable(rooted, UPLINK)
    assert why_not_wakeable(plain, UPLINK) == ""
