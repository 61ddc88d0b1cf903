"""Extracts the ELF kernel from a distribution's bzImage.

A bzImage unpacks itself in the guest, which takes more than a second without KVM. QEMU can boot an
ELF file directly if it has a PVH entry note.
"""

from __future__ import annotations

import lzma
import struct
import subprocess
import zlib

from vcloud.errors import ImageError

SETUP_SECTORS = 0x1F1
"""Offsets in the header of a bzImage; see Documentation/arch/x86/boot.rst in the kernel's source. 0
setup sectors mean 4.
"""
HEADER_MAGIC = 0x202
PAYLOAD = 0x248
"""The place in the header of the packed kernel's offset and length. The offset counts from the end
of the setup sectors (boot protocol 2.08 and later).
"""
SECTOR = 512
ELF = b"\x7fELF"
NOTE_SEGMENT = 4
PVH_NOTE = (b"Xen\0", 18)
"""Name and type of the ELF note with the PVH entry (XEN_ELFNOTE_PHYS32_ENTRY)."""
GZIP = 31
"""zlib's window size for a stream with a gzip header (16 + 15)."""
STREAM_PROGRAMS = {b"\x28\xb5\x2f\xfd": "zstd", b"\x02\x21\x4c\x18": "lz4"}
"""First bytes of a packed kernel -> the program that unpacks it."""


def unpack_kernel(bzimage: bytes) -> bytes:
    """The ELF kernel in a bzImage. Raises ImageError if QEMU could not boot it directly."""
    if bzimage[HEADER_MAGIC : HEADER_MAGIC + 4] != b"HdrS":
        raise ImageError(
            "the kernel is not an x86 bzImage", "The recipe must install a Debian kernel for amd64."
        )
    start, length = struct.unpack_from("<II", bzimage, PAYLOAD)
    # One sector is added for the boot sector, which the header does not count.
    start += ((bzimage[SETUP_SECTORS] or 4) + 1) * SECTOR
    kernel = _unpack(bzimage[start : start + length])
    if not has_pvh_entry(kernel):
        raise ImageError(
            "the kernel has no PVH entry note",
            "Use a kernel with CONFIG_PVH=y, such as Debian's cloud kernel.",
        )
    return kernel


def has_pvh_entry(kernel: bytes) -> bool:
    """Whether QEMU can boot this ELF file directly, without firmware."""
    # 2: a file for 64 bits (ELFCLASS64).
    if kernel[:5] != ELF + b"\x02":
        return False
    # Offsets in an ELF header: e_phoff at 32, e_phentsize and e_phnum at 54.
    table, size, count = (
        struct.unpack_from("<Q", kernel, 32)[0],
        *struct.unpack_from("<HH", kernel, 54),
    )
    for index in range(count):
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", kernel, table + index * size)
        if kind == NOTE_SEGMENT and PVH_NOTE in _notes(kernel[offset : offset + length]):
            return True
    return False


def _notes(segment: bytes) -> list[tuple[bytes, int]]:
    notes, offset = [], 0
    while offset + 12 <= len(segment):
        name_length, content_length, kind = struct.unpack_from("<III", segment, offset)
        notes.append((segment[offset + 12 : offset + 12 + name_length], kind))
        offset += 12 + _aligned(name_length) + _aligned(content_length)
    return notes


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _unpack(payload: bytes) -> bytes:
    """Unpacks the kernel. For some compressions the build of the kernel appends the unpacked size.
    These bytes are ignored.
    """
    if payload[:4] == ELF:
        return payload
    try:
        if payload[:2] == b"\x1f\x8b":
            return zlib.decompressobj(wbits=GZIP).decompress(payload)
        if payload[:6] == b"\xfd7zXZ\0":
            return lzma.LZMADecompressor().decompress(payload)
    except (zlib.error, lzma.LZMAError) as error:
        raise ImageError(
            f"the kernel cannot be unpacked: {error}",
            "Its package may be damaged; build the image again.",
        ) from error
    return _unpack_by_program(payload)


def _unpack_by_program(payload: bytes) -> bytes:
    program = STREAM_PROGRAMS.get(payload[:4])
    if program is None:
        raise ImageError(
            "the kernel is compressed with an unknown program",
            "Use a kernel that is compressed with zstd, xz, lz4 or gzip.",
        )
    try:
        unpacked = subprocess.run(
            [program, "-d", "-c"], input=payload, capture_output=True, check=False
        )
    except FileNotFoundError as error:
        raise ImageError(
            f"the kernel is compressed with {program}, which is not installed",
            f"Run: apt-get install {program}",
        ) from error
    # The exit code is ignored, because the program may complain about the bytes after the stream
    # (`_unpack`).
    if unpacked.stdout[:4] != ELF:
        raise ImageError(
            f"{program} cannot unpack the kernel", unpacked.stderr.decode(errors="replace").strip()
        )
    return unpacked.stdout
