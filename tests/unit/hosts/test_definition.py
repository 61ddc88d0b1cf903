"""The definition that a mend gives a running VM has the disks that the VM runs on."""

from __future__ import annotations

from xml.etree import ElementTree

from vcloud.hosts.machines import with_disks_of

OURS = """\
<domain>
  <devices>
    <disk type="file" device="disk">
      <driver name="qemu" type="qcow2" discard="unmap"/><source file="/pool/root"/><target dev="vda"/>
    </disk>
    <disk type="file" device="disk">
      <driver name="qemu" type="qcow2"/><source file="/pool/data"/><target dev="vdb"/>
    </disk>
  </devices>
</domain>
"""


def disks(xml: str) -> list[tuple[str, str, dict[str, str]]]:
    """Kind, format and source of each disk."""
    found = []
    for disk in ElementTree.fromstring(xml).iterfind("devices/disk"):  # noqa: S314
        driver, source = disk.find("driver"), disk.find("source")
        assert driver is not None
        assert source is not None
        found.append((disk.get("type", ""), driver.get("type", ""), dict(source.attrib)))
    return found


def test_a_vm_on_its_own_disks_gets_its_own_definition() -> None:
    assert disks(with_disks_of(OURS, OURS)) == disks(OURS)


def test_a_snapshot_and_a_block_device_stay_in_the_definition() -> None:
    running = OURS.replace('file="/pool/root"', 'file="/pool/root.one" index="3"').replace(
        """<disk type="file" device="disk">
      <driver name="qemu" type="qcow2"/><source file="/pool/data"/>""",
        """<disk type="block" device="disk">
      <driver name="qemu" type="raw"/><source dev="/dev/vg/data"/>""",
    )
    assert disks(with_disks_of(OURS, running)) == [
        ("file", "qcow2", {"file": "/pool/root.one", "index": "3"}),
        ("block", "raw", {"dev": "/dev/vg/data"}),
    ]


def test_a_disk_that_the_running_vm_lacks_comes_from_vcloud() -> None:
    running = OURS[
        : OURS.index(
            '    <disk type="file" device="disk">\n      <driver name="qemu" type="qcow2"/>'
        )
    ]
    assert disks(with_disks_of(OURS, f"{running}</devices></domain>")) == disks(OURS)
