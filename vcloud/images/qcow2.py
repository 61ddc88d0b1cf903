"""Checks the header of a qcow2 before any other program reads the file.

A qcow2 may name other files as its backing file or data file. A hostile one could name a file of
the host, and the guest would read it. See docs/interop/qcow2.txt in QEMU's source for the header.
"""

from __future__ import annotations

import struct
from typing import Final

HEADER_BYTES: Final = 104
"""Size of the header of version 3 without optional fields. The header of version 2 has 72 bytes."""
_MAGIC: Final = b"QFI\xfb"
_VERSION_2: Final = struct.Struct(">4sIQIIQIIQQIIQ")
_FEATURES: Final = struct.Struct(">QQQII")
_CLUSTER_BITS: Final = range(9, 22)
"""Clusters of 512 bytes to 2 MiB."""
_LARGEST_DISK: Final = 16 << 40
"""Bytes of the disk as the guest sees it. No real image is so large, and QEMU would need a table of
gigabytes for a larger one.
"""
_CORRUPT: Final = 1 << 1
_EXTERNAL_DATA: Final = 1 << 2
_KNOWN_FEATURES: Final = (1 << 5) - 1
"""Incompatible features that QEMU 7.2 knows: dirty, corrupt, external data, compression type and
extended tables.
"""
_CONVERT: Final = (
    "Make one plain file of it: qemu-img convert -O qcow2 OLD NEW. Use NEW as the image."
)
_BROKEN: Final = "Copy or download the image again."


def fault_of(header: bytes, size: int) -> tuple[str, str] | None:
    """What is wrong with a qcow2 (completing "the image ..."), and the way out; None if nothing is
    wrong. `header` are the first `HEADER_BYTES` bytes of the file or more, unless the file is
    shorter. `size` is the size of the file.
    """
    if header[:4] != _MAGIC:
        return "is not a qcow2", _CONVERT
    if len(header) < _VERSION_2.size:
        return "ends within its header", _BROKEN
    _, version, backing, _, cluster_bits, disk, encryption, l1_entries, l1, _, _, _, _ = (
        _VERSION_2.unpack_from(header)
    )
    if version not in (2, 3):
        return f"is a qcow2 of version {version}; vcloud supports 2 and 3", _CONVERT
    # Version 2 has no features.
    features = 0
    if version == 3:
        if len(header) < HEADER_BYTES:
            return "ends within its header", _BROKEN
        features, *_ = _FEATURES.unpack_from(header, _VERSION_2.size)
    if backing or features & _EXTERNAL_DATA:
        return "needs another file", _CONVERT
    if encryption:
        return "is encrypted", "Decrypt it: qemu-img convert -O qcow2. Use the result as the image."
    if features & ~_KNOWN_FEATURES:
        return "uses qcow2 features that vcloud does not support", _CONVERT
    if not 0 < disk <= _LARGEST_DISK:
        return f"claims to be a disk of {disk} bytes", "The largest possible disk has 16 TiB."
    if features & _CORRUPT or cluster_bits not in _CLUSTER_BITS:
        return "is damaged", _BROKEN
    if l1 + 8 * l1_entries > size:
        return "is cut off", _BROKEN
    return None


def disk_size(header: bytes) -> int:
    """Bytes of the disk as the guest sees it; 0 where these are not the first bytes of a qcow2."""
    if header[:4] != _MAGIC or len(header) < _VERSION_2.size:
        return 0
    return int(_VERSION_2.unpack_from(header)[5])
