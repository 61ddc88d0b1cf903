"""A host of libvirt's test driver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.inventory import HostRef


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A host of its own, without the test driver's usual domain."""
    node = tmp_path / "node.xml"
    node.write_text("<node/>")
    with open_host(HostRef("t", f"test://{node}")) as opened:
        yield opened
