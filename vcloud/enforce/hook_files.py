"""The files of root on a host that libvirt's hook reads and writes. The text of this module is part of
the hook (`vcloud.enforce.install`).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

LEASES = Path("/var/lib/vcloud/leases")
SETTINGS = Path("/etc/libvirt/vcloud")
"""What the host's administrator says, beside libvirt's hooks."""
MOST_LEASE = 2 << 20
"""Bytes. More than the longest terms take as JSON."""


class RefusedError(Exception):
    """The VM may not start here. Its text tells why."""


class UnsignedError(RefusedError):
    """No operator whom the host trusts has signed the terms of the VM."""

    def __init__(self, why: str, tenant: Any) -> None:
        """`tenant` is who it would be if the terms counted."""
        super().__init__(why)
        self.tenant = tenant


class BrokenError(Exception):
    """What the host keeps cannot be read or written, so nothing is known."""


def read_json(path: Path) -> Any:
    """The document in a file; None where there is no such file. Raises BrokenError."""
    with broken_if(f"'{path}' cannot be read", ValueError, RecursionError):
        if not os.path.lexists(path):
            return None
        with path.open("rb") as file:
            return json.loads(file.read(MOST_LEASE))


def replace(name: str, document: Mapping[str, Any]) -> None:
    """Writes a file beside the leases in one step. Raises BrokenError."""
    text, new = json.dumps(document).encode(), LEASES / f"{name}.new"
    with broken_if("the host's leases cannot be written"):
        if len(text) > MOST_LEASE:
            raise OSError(f"'{name}' would have more than {MOST_LEASE >> 20} MiB")
        try:
            with new.open("wb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            new.replace(LEASES / name)
        finally:
            new.unlink(missing_ok=True)


@contextlib.contextmanager
def broken_if(what: str, *errors: type[Exception]) -> Iterator[None]:
    """An OSError, and these errors, become a BrokenError."""
    kinds: tuple[type[Exception], ...] = (OSError, *errors)
    try:
        yield
    except kinds as error:
        raise BrokenError(f"{what}: {error}") from None
