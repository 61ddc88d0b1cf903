"""What runs on a host, from its kernel and from the files that libvirt keeps of running domains. The text
of this module is part of the hook (`vcloud.enforce.install`).
"""

from __future__ import annotations

import functools
from pathlib import Path
from xml.etree import ElementTree

from vcloud.enforce.hook_files import broken_if

MACHINES = Path("/run/libvirt/qemu")
"""What libvirt keeps of each running domain: its state in NAME.xml, its process number in NAME.pid."""
PROC = Path("/proc")
ENDED = (b"Z", b"X")
"""States of a process that has ended, and of which only its number is left."""
MOST_XML = 16 << 20


def domain_now(name: str) -> ElementTree.Element | None:
    """The XML of a domain that runs, as libvirt has it; None where it does not tell. Raises
    BrokenError.
    """
    with broken_if(f"the domain '{name}', which runs, cannot be read", ElementTree.ParseError):
        try:
            with (MACHINES / f"{name}.xml").open("rb") as file:
                text = file.read(MOST_XML)
        except FileNotFoundError:
            return None
        return ElementTree.fromstring(text).find("domain")  # noqa: S314 - libvirt has written it


def qemu_of(name: str) -> tuple[int, int]:
    """What identifies the QEMU process of a domain; (0, 0) where there is none. Raises BrokenError."""
    with broken_if(f"the process of '{name}' is not known", ValueError):
        try:
            number = int((MACHINES / f"{name}.pid").read_text())
        except FileNotFoundError:
            return 0, 0
        return identity_of(number)


def is_alive(process: int, began: int) -> bool:
    """Whether the process exists that has this number and began then (see `identity_of`)."""
    return began > 0 and identity_of(process) == (process, began)


def identity_of(process: int) -> tuple[int, int]:
    """The number of a process, and when it began (proc(5), field 22): no other process ever has
    both. It is (number, 0) where there is none. Raises BrokenError where that cannot be seen.
    """
    with broken_if(f"process {process} cannot be seen", ValueError, IndexError):
        try:
            text = (PROC / str(int(process)) / "stat").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return process, 0
        # The name is in brackets, and the process can change it.
        fields = text.rpartition(b")")[2].split()
        return process, 0 if fields[0] in ENDED else int(fields[19])


@functools.cache
def boot() -> str:
    """What names this boot of the host."""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()
