"""A Debian cloud image as its publisher makes them: cloud-init, netplan, a boot loader of its own,
and nothing of vcloud in it.

It is built from packages, because nothing can be downloaded, and without loop devices: mke2fs fills
the partition, and GRUB's parts are laid where its own installer would lay them (its core image
behind the partition table, from sector 1 on).
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from vcloud.images.cache import default_cache

SUITE = "trixie"
PACKAGES = (
    *(
        "systemd-sysv",
        "udev",
        "dbus",
        "kmod",
        "linux-image-cloud-amd64",
        "initramfs-tools",
        "zstd",
        "grub-pc-bin",
    ),
    *("cloud-init", "netplan.io", "cloud-guest-utils", "e2fsprogs", "fdisk", "eject", "procps"),
    *("openssh-server", "sudo", "iproute2", "iputils-ping", "qemu-guest-agent"),
)
INITRAMFS_MODULES = ("virtio_pci", "virtio_blk", "ext4")
"""What the root needs. The distribution's initramfs holds every driver there is, which takes ten
seconds more to load without KVM.
"""
GRUB_MODULES = ("biosdisk", "part_msdos", "ext2", "linux")
GRUB = """\
set root=(hd0,msdos1)
linux /vmlinuz root=/dev/vda1 ro console=ttyS0 net.ifnames=0 cryptomgr.notests
initrd /initrd.img
boot
"""
CUSTOMIZE = """\
set -eu
printf '%s\\n' {modules} >"$1/etc/initramfs-tools/modules"
echo MODULES=list >"$1/etc/initramfs-tools/conf.d/modules"
chroot "$1" update-initramfs -u
cat >"$1/boot/grub.cfg" <<'END'
{grub}END
chroot "$1" grub-mkimage -O i386-pc -p / -c /boot/grub.cfg -o /boot/core.img {grub_modules}
cp "$1/boot/core.img" "$1/usr/lib/grub/i386-pc/boot.img" {folder}
echo '/dev/vda1 / ext4 rw 0 1' >"$1/etc/fstab"
: >"$1/etc/machine-id"
chroot "$1" systemctl enable systemd-networkd
chroot "$1" systemctl disable e2scrub_reap
chroot "$1" ldconfig
# Otherwise systemd builds caches at the first boot, as after an update of /usr.
touch "$1/etc/.updated" "$1/var/.updated"
"""
WITHOUT_AGENT = "symlink /etc/systemd/system/qemu-guest-agent.service /dev/null"
"""For debugfs: what `systemctl mask` does."""
SECTOR = 512
START = 2048
"""First sector of the only partition."""
ROOT_MIB = 2048
BOOT_CODE, TABLE = 440, 446
"""Where in the first sector the boot loader ends, and where the partitions stand."""


def cloud_image() -> Path:
    """The qcow2, built when it is first asked for."""
    return _kept("cloud", _build)


def cloud_image_without_agent() -> Path:
    """The same, but nothing in it answers the hypervisor."""
    whole = cloud_image()
    return _kept("cloud-without-agent", lambda work: _without_agent(whole, work))


def _kept(name: str, make: Callable[[Path], Path]) -> Path:
    script = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    folder = default_cache().folder.parent / "test-images"
    image = folder / f"{name}-{script}.qcow2"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not image.exists():
            with tempfile.TemporaryDirectory(dir=folder) as work:
                make(Path(work)).rename(image)
    return image


def _without_agent(whole: Path, work: Path) -> Path:
    disk, image = work / "disk", work / "image.qcow2"
    _run("qemu-img", "convert", "-O", "raw", str(whole), str(disk))
    _run("debugfs", "-w", "-R", WITHOUT_AGENT, f"{disk}?offset={START * SECTOR}")
    _run("qemu-img", "convert", "-O", "qcow2", str(disk), str(image))
    return image


def _build(work: Path) -> Path:
    root, partition, disk, image = (
        work / "root",
        work / "partition",
        work / "disk",
        work / "image.qcow2",
    )
    customize = CUSTOMIZE.format(
        modules=" ".join(INITRAMFS_MODULES),
        grub=GRUB,
        grub_modules=" ".join(GRUB_MODULES),
        folder=work,
    )
    _run(
        "mmdebstrap",
        "--variant=minbase",
        f"--include={','.join(PACKAGES)}",
        f"--customize-hook={customize}",
        SUITE,
        str(root),
    )
    _run("mke2fs", "-q", "-t", "ext4", "-d", str(root), str(partition), f"{ROOT_MIB}M")
    shutil.rmtree(root)
    with disk.open("wb") as content:
        content.truncate((ROOT_MIB + 2) << 20)
    with disk.open("r+b") as content:
        content.write(_first_sector((work / "boot.img").read_bytes()))
        core = (work / "core.img").read_bytes()
        assert len(core) <= (START - 1) * SECTOR
        content.write(core)
    _run(
        "dd",
        f"if={partition}",
        f"of={disk}",
        "bs=1M",
        f"seek={START * SECTOR >> 20}",
        "conv=notrunc,sparse",
        "status=none",
    )
    _run("qemu-img", "convert", "-O", "qcow2", str(disk), str(image))
    return image


def _first_sector(boot: bytes) -> bytes:
    """GRUB's first stage, and a partition table with one bootable Linux partition."""
    entry = struct.pack("<B3xB3xII", 0x80, 0x83, START, (ROOT_MIB << 20) // SECTOR)
    return boot[:BOOT_CODE].ljust(TABLE, b"\0") + entry.ljust(4 * len(entry), b"\0") + b"\x55\xaa"


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, f"{argv[0]}: {(done.stdout + done.stderr)[-3000:]}"
