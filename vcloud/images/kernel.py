"""The ELF kernel inside a distribution's bzImage.

QEMU boots an ELF file with a PVH entry note directly, which saves the guest the unpacking of itself: more than a second without KVM.
"""

from __future__ import annotations

import lzma
import struct
import subprocess
import zlib

from vcloud.errors import ImageError

SETUP_SECTORS = 0x1F1
HEADER_MAGIC = 0x202
PAYLOAD = 0x248
"""Offset and length of the packed kernel, counted from the end of the setup sectors (boot protocol 2.08 and later)."""
SECTOR = 512
ELF = b"\x7fELF"
NOTE_SEGMENT = 4
PVH_NOTE = (b"Xen\0", 18)
GZIP = 31
"""zlib's number for a stream with gzip's header."""
STREAM_PROGRAMS = {b"\x28\xb5\x2f\xfd": "zstd", b"\x02\x21\x4c\x18": "lz4"}


def unpack_kernel(bzimage: bytes) -> bytes:
    """The ELF kernel of a bzImage. Raises ImageError for anything that QEMU could not boot directly."""
    if bzimage[HEADER_MAGIC : HEADER_MAGIC + 4] != b"HdrS":
        raise ImageError("the kernel is not an x86 bzImage", "The recipe must install a Debian kernel for amd64.")
    start, length = struct.unpack_from("<II", bzimage, PAYLOAD)
    start += ((bzimage[SETUP_SECTORS] or 4) + 1) * SECTOR
    kernel = _unpack(bzimage[start : start + length])
    if not has_pvh_entry(kernel):
        raise ImageError("the kernel has no PVH entry note", "A kernel with CONFIG_PVH=y is needed; Debian's cloud kernel has it.")
    return kernel


def has_pvh_entry(kernel: bytes) -> bool:
    """Whether QEMU can start this ELF file without firmware."""
    if kernel[:5] != ELF + b"\x02":
        return False
    table, size, count = struct.unpack_from("<Q", kernel, 32)[0], *struct.unpack_from("<HH", kernel, 54)
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
    """What follows the packed stream is ignored: the build of a kernel appends the unpacked size to some."""
    if payload[:4] == ELF:
        return payload
    try:
        if payload[:2] == b"\x1f\x8b":
            return zlib.decompressobj(wbits=GZIP).decompress(payload)
        if payload[:6] == b"\xfd7zXZ\0":
            return lzma.LZMADecompressor().decompress(payload)
    except (zlib.error, lzma.LZMAError) as error:
        raise ImageError(f"the kernel cannot be unpacked: {error}", "Its package may be damaged; build the image again.") from error
    return _unpack_by_program(payload)


def _unpack_by_program(payload: bytes) -> bytes:
    program = STREAM_PROGRAMS.get(payload[:4])
    if program is None:
        raise ImageError("the kernel is packed in an unknown way", "Known are zstd, xz, lz4 and gzip.")
    try:
        unpacked = subprocess.run([program, "-d", "-c"], input=payload, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise ImageError(f"{program} is not installed, and the kernel is packed with it", f"apt-get install {program}") from error
    if unpacked.stdout[:4] != ELF:
        raise ImageError(f"{program} cannot unpack the kernel", unpacked.stderr.decode(errors="replace").strip())
    return unpacked.stdout
