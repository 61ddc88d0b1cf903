"""Attaches a program that lets every packet pass to a NIC, as `bpftool` does, and holds it there
until stdin ends: `python3 programs.py xdp|tcx NIC`.
"""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import struct
import sys

PROG_LOAD, LINK_CREATE = 5, 28
BPF = {"x86_64": 321, "aarch64": 280}
KINDS = {"xdp": (6, 37, 2), "tcx": (3, 46, 0)}
"""Type of the program, place to attach it to, and the answer that lets a packet pass."""


def bpf(command: int, attributes: bytes) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = libc.syscall(BPF[platform.machine()], command, buffer, len(attributes))
    if result < 0:
        raise OSError(ctypes.get_errno(), "bpf")
    return int(result)


def attach(kind: str, nic: str) -> int:
    """The link, which lives as long as it is open."""
    program_type, place, answer = KINDS[kind]
    code = struct.pack("<BBhi", 0xB7, 0, 0, answer) + struct.pack("<BBhi", 0x95, 0, 0, 0)
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"GPL")
    load = struct.pack(
        "<IIQQ", program_type, 2, ctypes.addressof(instructions), ctypes.addressof(licence)
    )
    padded = load + bytes(44) + struct.pack("<I", place)  # up to expected_attach_type
    program = bpf(PROG_LOAD, padded)
    link = struct.pack("<IIII", program, socket.if_nametoindex(nic), place, 0)
    return bpf(LINK_CREATE, link + bytes(48))


if __name__ == "__main__":
    held = attach(sys.argv[1], sys.argv[2])
    os.write(1, b"attached\n")
    sys.stdin.read()
