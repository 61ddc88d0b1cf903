"""What an ordinary user of this machine, or a guest that has broken out of QEMU, can do with a lab:
nothing.
"""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

import libvirt
import pytest

from tests.lab.places import at, command, start_machine, virsh
from vcloud.errors import HostError
from vcloud.hosts.connection import open_host
from vcloud.hosts.inventory import load_inventory
from vcloud.hosts.sealing import UUID, sealing_of
from vcloud.lab import lab as labs
from vcloud.lab.account import qemu_account
from vcloud.lab.layout import KVM, Lab

pytestmark = pytest.mark.netns

NOBODY = 65534
SOCKETS = ("libvirt-sock", "libvirt-sock-ro", "libvirt-admin-sock")


def test_qemu_is_not_root(lab: Lab, tmp_path: Path) -> None:
    host = lab.host(1)
    start_machine(host, tmp_path, "humble")
    try:
        pid = host.machine_path(Path("/run/libvirt/qemu/humble.pid")).read_text()
        said = dict(
            line.split(":", 1) for line in at(lab, "h1", "cat", f"/proc/{pid}/status").splitlines()
        )
        user = qemu_account()
        assert said["Name"].strip().startswith("qemu-system")
        assert {int(uid) for uid in said["Uid"].split()} == {user.uid}
        assert {int(gid) for gid in said["Gid"].split()} == {user.gid}
        assert int(said["CapEff"], 16) == 0
        assert 0 not in (user.uid, user.gid)
    finally:
        virsh(host.uri, "destroy", "humble")
        virsh(host.uri, "undefine", "humble")


def test_only_root_reaches_the_sockets_of_libvirt(lab: Lab) -> None:
    for name in SOCKETS:
        found = lab.host(1).machine_path(Path("/run/libvirt") / name).stat()
        assert (found.st_uid, stat.S_IMODE(found.st_mode) & 0o077) == (0, 0), name
    asks = ["virsh", "--connect", "qemu:///system", "list", "--name"]
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    enter = labs.enter(lab, "h1")
    assert command([*enter, *asks]).returncode == 0
    for argv in ([*asks], [*asks, "--readonly"], ["virsh", "-r", *asks[1:]]):
        done = command([*enter, *become, "env", "HOME=/tmp", *argv])
        assert done.returncode != 0
    refused = command([*enter, *become, "env", "HOME=/tmp", "virsh", "-r", *asks[1:]])
    assert "Permission denied" in refused.stderr


def test_a_host_has_a_kvm_of_its_own_and_the_machines_stays_as_it_is(lab: Lab) -> None:
    if not KVM.exists():
        assert not lab.host(1).kvm.exists()
        return
    before = KVM.stat()
    on_host = at(lab, "h1", "stat", "-c", "%u %g %a %t:%T", str(KVM)).split()
    user = qemu_account()
    assert on_host[:3] == [str(user.uid), str(user.gid), "600"]
    assert on_host[3] == f"{os.major(before.st_rdev):x}:{os.minor(before.st_rdev):x}"
    assert (KVM.stat().st_uid, KVM.stat().st_ino) == (before.st_uid, before.st_ino)


def test_libvirt_tells_the_key_of_sealed_records_only_to_who_may_write(lab: Lab) -> None:
    ref = load_inventory(lab.inventory)[0]
    with open_host(ref) as host, open_host(ref) as other:
        sealed = sealing_of(host).sealed(b"text", "x")
        assert sealing_of(other).opened(sealed, "x") == b"text"
        key = host.connection.secretLookupByUUIDString(UUID).value()
        kept = host_file(lab, f"/etc/libvirt/secrets/{UUID}.base64")
        assert stat.S_IMODE(kept.stat().st_mode) & 0o077 == 0
        assert base64.b64decode(kept.read_text()) == key
    reader = libvirt.openReadOnly(ref.local_uri)
    try:
        known = reader.secretLookupByUUIDString(UUID)
        with pytest.raises(libvirt.libvirtError, match="read only access"):
            known.value()
    finally:
        reader.close()


def host_file(lab: Lab, path: str) -> Path:
    return lab.host(1).machine_path(Path(path))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where labs may be. The labs in it have never run; `down` removes them."""
    folder = tmp_path / "labs"
    folder.mkdir(mode=0o700)
    return folder


LAB, ABOVE = "t-safe", "."
"""The lab's folder and the one that holds it, in the folder of labs."""
CHANGES: dict[str, tuple[str, int, int, bool]] = {
    "as it is made": (LAB, 0, 0o700, True),
    "readable by all": (LAB, 0, 0o755, True),
    "in a shared folder like /tmp": (ABOVE, 0, 0o1777, True),
    "of somebody else": (LAB, NOBODY, 0o700, False),
    "writable by all": (LAB, 0, 0o777, False),
    "writable by a group": (LAB, 0, 0o770, False),
    "writable by all, with the bit of /tmp": (LAB, 0, 0o1777, False),
    "in a folder of somebody else": (ABOVE, NOBODY, 0o700, False),
    "in a folder that all may write": (ABOVE, 0, 0o777, False),
}
"""Which folder, its owner, its mode, and whether a lab may be there."""


@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_that_somebody_else_can_change_is_no_place_for_a_lab(
    folder: Path, change: str
) -> None:
    lab = Lab(LAB, folder / LAB)
    lab.folder.mkdir(mode=0o700)
    kept = lab.folder / "kept"
    kept.touch()
    place, owner, mode, safe = CHANGES[change]
    os.chown(folder / place, owner, 0)
    (folder / place).chmod(mode)
    if safe:
        assert labs.down(lab)
        assert not lab.folder.exists()
        return
    for act in (labs.up, labs.down):
        with pytest.raises(HostError, match="is not safe") as caught:
            act(lab)
        assert "VCLOUD_LAB_DIR" in caught.value.hint
    assert [path.name for path in lab.folder.iterdir()] == ["kept"]
