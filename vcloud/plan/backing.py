"""The header of a qcow2 names the file that the qcow2 is based on. A copy on another host is based on
another file, so its header must say so. Pure.

See docs/interop/qcow2.txt in QEMU's source.
"""

from __future__ import annotations

import struct
from typing import Final

from vcloud.untrusted import UnreadableError

HEAD: Final = 64 << 10
"""Bytes at the beginning of a qcow2 that are read to change its header: the first cluster of every
qcow2 that libvirt makes.
"""
_MAGIC: Final = b"QFI\xfb"
_START: Final = struct.Struct(">4sIQII")
"""Magic, version, where the name of the backing file begins, its bytes, bits of a cluster's size."""
_LONGEST: Final = 1023
"""Bytes of the name of a backing file."""
_CLUSTER_BITS: Final = range(9, 22)


def backing_file(head: bytes) -> str:
    """The name of the backing file; empty if there is none. `head` are the first `HEAD` bytes of the
    file, or the whole file. Raises UnreadableError.
    """
    at, size, _ = _place(head)
    return head[at : at + size].decode(errors="surrogateescape") if at else ""


def with_backing_file(head: bytes, path: str) -> bytes:
    """The same bytes with another backing file. `head` is as for `backing_file`.

    Raises UnreadableError if the qcow2 has no backing file, or no room for the longer name.
    """
    at, size, end = _place(head)
    name = path.encode()
    if not at:
        raise UnreadableError("it is based on no other file")
    # QEMU writes the name behind all other parts of the header. Behind it the cluster is empty.
    room = min(end, len(head)) - at
    if not 0 < len(name) <= min(_LONGEST, room) or any(head[at + size : at + len(name)]):
        raise UnreadableError(f"its header has no room for the name '{path}'")
    changed = bytearray(head)
    changed[at : at + max(size, len(name))] = name.ljust(size, b"\0")
    struct.pack_into(">I", changed, 16, len(name))
    return bytes(changed)


def _place(head: bytes) -> tuple[int, int, int]:
    """Where the name of the backing file begins (0: there is none), its bytes, and where the first
    cluster ends. Raises UnreadableError.
    """
    if len(head) < _START.size or head[:4] != _MAGIC:
        raise UnreadableError("it is no qcow2")
    _, _, at, size, bits = _START.unpack_from(head)
    if bits not in _CLUSTER_BITS:
        raise UnreadableError("its header is damaged")
    if not at:
        return 0, 0, 1 << bits
    if not 0 < size <= _LONGEST or not _START.size <= at <= min(len(head), 1 << bits) - size:
        raise UnreadableError("its header is damaged")
    return at, size, 1 << bits
