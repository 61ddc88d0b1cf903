"""Whether a host is drained: no vApp is placed there until somebody says `vcloud host undrain`. The host
itself keeps that in a record, so that every operator finds it.
"""

from __future__ import annotations

from vcloud.design.addressing import uuid_of
from vcloud.errors import Problem, RefusedError
from vcloud.hosts.connection import Host, translated
from vcloud.hosts.metadata import Record, read_record, remove_record, write_record

NAME = "vcloud-drained"


def is_drained(host: Host) -> bool:
    """Raises HostError."""
    with translated(f"whether {host.name} is drained could not be read there"):
        return read_record(host, NAME) is not None


def mark_drained(host: Host) -> None:
    """Raises HostError."""
    with translated(f"{host.name} could not be marked as drained"):
        write_record(host, Record(NAME, uuid_of("record", NAME)))


def unmark_drained(host: Host) -> None:
    """Raises HostError."""
    with translated(f"{host.name} could not be marked as no longer drained"):
        remove_record(host, uuid_of("record", NAME))


def refuse_drained(host: Host, file: str) -> None:
    """Raises RefusedError if the host is drained. `file` is the vApp's file."""
    if is_drained(host):
        what = f"{host.name} is drained, so no vApp is placed there"
        hint = f"Choose another host, or open it again: vcloud host undrain {host.name}."
        raise RefusedError((Problem(file, 0, "", what, hint),))
