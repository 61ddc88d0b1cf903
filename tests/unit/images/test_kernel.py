"""Unpacking kernels: every packing that kernels come in, and what QEMU could not boot."""

from __future__ import annotations

import gzip
import lzma
import struct
import subprocess
from collections.abc import Callable

import pytest

from vcloud.errors import ImageError
from vcloud.images.kernel import has_pvh_entry, unpack_kernel


def elf(note: bytes = b"Xen\0", kind: int = 18) -> bytes:
    """A 64-bit ELF file with one note segment."""
    segment = (
        struct.pack("<III", 4, 4, 1)
        + b"GNU\0"
        + b"\0" * 4
        + struct.pack("<III", len(note), 8, kind)
        + note
        + b"\0" * 8
    )
    header = b"\x7fELF\x02\x01\x01".ljust(32, b"\0") + struct.pack(
        "<QQIHHHHHH", 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    program = struct.pack("<IIQQQQQQ", 4, 4, 120, 0, 0, len(segment), len(segment), 4)
    return header + program + segment + bytes(range(256)) * 64


def bzimage(payload: bytes, sectors: int = 4) -> bytes:
    setup = bytearray((sectors + 1) * 512)
    setup[0x1F1] = sectors
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", setup, 0x248, 100, len(payload))
    return bytes(setup) + b"\x90" * 100 + payload + b"what follows"


def packed_by(*program: str) -> Callable[[bytes], bytes]:
    return lambda data: subprocess.run(program, input=data, capture_output=True, check=True).stdout


SIZE = struct.pack("<I", len(elf()))
"""What a kernel's build appends to most streams."""


@pytest.mark.parametrize(
    "pack",
    [
        bytes,
        gzip.compress,
        lambda data: lzma.compress(data, check=lzma.CHECK_CRC32) + SIZE,
        lambda data: packed_by("zstd", "-c")(data) + SIZE,
        packed_by("lz4", "-l", "-c"),
    ],
    ids=["plain", "gzip", "xz", "zstd", "lz4"],
)
def test_every_packing_is_unpacked(pack: Callable[[bytes], bytes]) -> None:
    assert unpack_kernel(bzimage(pack(elf()))) == elf()


def test_a_kernel_without_pvh_entry_is_refused() -> None:
    assert has_pvh_entry(elf())
    assert not has_pvh_entry(elf(kind=6))
    assert not has_pvh_entry(elf(note=b"GNU\0"))
    with pytest.raises(ImageError, match="PVH"):
        unpack_kernel(bzimage(elf(kind=6)))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x7fELF",
        bzimage(b"unknown packing"),
        bzimage(b"\x28\xb5\x2f\xfd broken"),
        bzimage(b"\xfd7zXZ\0 broken"),
        bzimage(b"\x1f\x8b broken"),
    ],
    ids=["empty", "no kernel", "unknown", "zstd", "xz", "gzip"],
)
def test_what_is_no_kernel_is_refused(content: bytes) -> None:
    with pytest.raises(ImageError):
        unpack_kernel(content)
