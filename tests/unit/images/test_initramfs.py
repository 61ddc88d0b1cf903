"""The initramfs: read back by cpio, and in an order in which the kernel can load it."""

from __future__ import annotations

import lzma
import subprocess
from pathlib import Path

import pytest

from vcloud.errors import ImageError
from vcloud.images.initramfs import load_order, make_initramfs

TREE = {
    "kernel/net/core/failover.ko.xz": [],
    "kernel/drivers/net/net_failover.ko.xz": ["kernel/net/core/failover.ko.xz"],
    "kernel/drivers/net/virtio_net.ko.xz": [
        "kernel/drivers/net/net_failover.ko.xz",
        "kernel/net/core/failover.ko.xz",
    ],
    "kernel/drivers/char/hw_random/virtio-rng.ko": [],
}


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    root = tmp_path / "6.12.0-cloud"
    for name in TREE:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = f"module {path.name}".encode()
        path.write_bytes(lzma.compress(content) if path.suffix == ".xz" else content)
    (root / "modules.dep").write_text(
        "".join(f"{name}: {' '.join(needs)}\n" for name, needs in TREE.items())
    )
    (root / "modules.builtin").write_text("kernel/drivers/virtio/virtio_pci.ko\n")
    return root


def test_a_module_comes_after_all_that_it_needs_and_only_once(modules: Path) -> None:
    order = [
        path.name.partition(".")[0]
        for path in load_order(modules, ["virtio_net", "virtio_pci", "failover", "virtio_rng"])
    ]
    assert order == ["failover", "net_failover", "virtio_net", "virtio-rng"]


def test_an_unknown_module_is_named(modules: Path) -> None:
    with pytest.raises(ImageError, match="virtio_warp"):
        load_order(modules, ["virtio_warp"])


@pytest.mark.parametrize("path", ["../../../../etc/hostname", "/etc/hostname", "a/../../x.ko"])
def test_a_list_that_leads_out_of_the_image_reads_no_file_of_this_machine(
    modules: Path, path: str
) -> None:
    """The commands of a recipe may have written it."""
    listed = (modules / "modules.dep").read_text()
    for line in (f"{path}:\n", f"kernel/net/core/failover.ko.xz: {path}\n"):
        (modules / "modules.dep").write_text(listed + line)
        with pytest.raises(ImageError, match="is not a module of this kernel"):
            make_initramfs(b"init", modules, ["failover"])


def test_a_link_in_the_place_of_a_module_is_not_followed(modules: Path) -> None:
    module = modules / "kernel/drivers/char/hw_random/virtio-rng.ko"
    module.unlink()
    module.symlink_to("/etc/hostname")
    with pytest.raises(ImageError, match="is not a regular file"):
        make_initramfs(b"init", modules, ["virtio_rng"])


def test_cpio_unpacks_what_was_packed(modules: Path, tmp_path: Path) -> None:
    archive = make_initramfs(b"\x7fELF init", modules, ["virtio_net", "virtio_rng"])
    target = tmp_path / "unpacked"
    target.mkdir()
    subprocess.run(
        ["cpio", "--extract", "--quiet", "--make-directories"],
        cwd=target,
        input=archive,
        check=True,
    )
    assert (target / "init").read_bytes() == b"\x7fELF init"
    assert (target / "init").stat().st_mode & 0o777 == 0o755
    listed = (target / "modules").read_text().splitlines()
    assert [(target / name.lstrip("/")).read_bytes() for name in listed] == [
        b"module failover.ko.xz",
        b"module net_failover.ko.xz",
        b"module virtio_net.ko.xz",
        b"module virtio-rng.ko",
    ]
    assert (target / "dev/console").is_char_device()


def test_equal_input_gives_equal_bytes(modules: Path) -> None:
    assert make_initramfs(b"init", modules, ["virtio_net"]) == make_initramfs(
        b"init", modules, ["virtio_net"]
    )
