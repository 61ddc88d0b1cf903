"""The header of a qcow2: real ones pass, and each field that must not be is named."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcloud.images.qcow2 import HEADER_BYTES, fault_of

KINDS = {
    "plain": (),
    "old": ("-o", "compat=0.10"),
    "clusters": ("-o", "cluster_size=2M"),
    "small-clusters": ("-o", "cluster_size=512"),
    "zstd": ("-o", "compression_type=zstd"),
    "extended": ("-o", "extended_l2=on,cluster_size=128k"),
    "lazy": ("-o", "lazy_refcounts=on"),
}


@pytest.fixture(params=KINDS)
def header(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[bytes, int]:
    return _made(tmp_path, *KINDS[request.param])


@pytest.fixture
def plain(tmp_path: Path) -> tuple[bytes, int]:
    return _made(tmp_path)


def _made(folder: Path, *options: str) -> tuple[bytes, int]:
    path = folder / "disk.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), "16M"], check=True
    )
    return path.read_bytes()[:HEADER_BYTES], path.stat().st_size


def test_what_qemu_makes_passes(header: tuple[bytes, int]) -> None:
    assert fault_of(*header) is None


def test_a_header_that_ends_early_is_refused(header: tuple[bytes, int]) -> None:
    content, _ = header
    needed = 72 if content[7] == 2 else HEADER_BYTES
    for length in range(needed):
        assert fault_of(content[:length], length) is not None
    assert fault_of(content[:needed], 1 << 30) is None


CHANGES = {
    "version 1": (4, ">I", 1, "version 1"),
    "version 4": (4, ">I", 4, "version 4"),
    "backing file": (8, ">Q", 512, "needs another file"),
    "data file": (72, ">Q", 4, "needs another file"),
    "aes": (32, ">I", 1, "encrypted"),
    "luks": (32, ">I", 2, "encrypted"),
    "no size": (24, ">Q", 0, "disk of 0 bytes"),
    "huge": (24, ">Q", (1 << 64) - 1, "disk of"),
    "tiny clusters": (20, ">I", 8, "damaged"),
    "endless clusters": (20, ">I", 0xFFFFFFFF, "damaged"),
    "corrupt": (72, ">Q", 2, "damaged"),
    "unknown feature": (72, ">Q", 1 << 5, "features"),
    "table beyond the end": (40, ">Q", 1 << 62, "cut off"),
    "endless table": (36, ">I", 0xFFFFFFFF, "cut off"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_header_that_says_something_else_is_refused(
    plain: tuple[bytes, int], change: str
) -> None:
    content, size = plain
    offset, form, value, said = CHANGES[change]
    changed = bytearray(content)
    struct.pack_into(form, changed, offset, value)
    fault = fault_of(bytes(changed), size)
    assert fault is not None
    assert said in fault[0]
    assert fault[1]


@given(st.binary(max_size=HEADER_BYTES), st.integers(0, 1 << 40))
def test_any_bytes_get_an_answer(tail: bytes, size: int) -> None:
    fault_of(b"QFI\xfb" + tail, size)
