"""Loads a BPF program that lets everything pass, attaches it to a device, and holds it until its
input ends: `bpf.py xdp|ingress|egress NUMBER`. Runs on the host of the tests.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

NUMBER = {"x86_64": 321, "aarch64": 280}[platform.machine()]
"""Of bpf(2)."""
PROG_LOAD, LINK_CREATE = 5, 28
KINDS = {"xdp": (6, 37, 2), "ingress": (3, 46, -1), "egress": (3, 47, -1)}
"""Place -> type of program, type of attachment, and the verdict that lets a packet pass."""
GENERIC_XDP = 2


def bpf(command: int, attributes: bytes) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attributes, 128)
    number = int(libc.syscall(NUMBER, command, buffer, 128))
    if number < 0:
        raise OSError(ctypes.get_errno(), f"bpf command {command}")
    return number


def main() -> None:
    place, device = sys.argv[1], int(sys.argv[2])
    kind, attachment, verdict = KINDS[place]
    code = struct.pack("<BBhi", 0xB7, 0, 0, verdict) + struct.pack("<BBhi", 0x95, 0, 0, 0)
    text, terms = (
        ctypes.create_string_buffer(code, len(code)),
        ctypes.create_string_buffer(b"GPL"),
    )
    program = bpf(
        PROG_LOAD,
        struct.pack("<IIQQ", kind, 2, ctypes.addressof(text), ctypes.addressof(terms)),
    )
    flags = GENERIC_XDP if place == "xdp" else 0
    bpf(LINK_CREATE, struct.pack("<IIII", program, device, attachment, flags))
    print("ready", flush=True)
    os.read(0, 1)


main()
