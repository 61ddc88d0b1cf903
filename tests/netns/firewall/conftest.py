"""One vApp in network namespaces, with its ruleset loaded anew for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.design_builder import UPLINK
from tests.netns.fabric import Fabric
from tests.netns.firewall.traffic import (
    DATAGRAM,
    DESIGN,
    STREAM,
    UNDECLARED,
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, program: Path) -> Iterator[Fabric]:
    """The vApp with a server on every port that a test speaks of, declared or not."""
    with Fabric(DESIGN, UPLINK, tmp_path_factory.mktemp("fabric"), program) as fabric:
        for name in ("web-1", "web-2"):
            for port in (22, 80, *range(5000, 5004)):
                fabric.servers.add(fabric.vms[name], name, port)
            for port in range(7000, 7004):
                fabric.servers.add(fabric.vms[name], name, port, DATAGRAM)
        for port in (8000, UNDECLARED, 9100):
            fabric.servers.add(fabric.vms["api"], "api", port)
        for port in (53, 54):
            fabric.servers.add(fabric.vms["api"], "api", port, DATAGRAM)
        for port in (5432, 9000, 9005, 9010, 9011):
            fabric.servers.add(fabric.vms["db"], "db", port)
        fabric.servers.add(fabric.vms["tool-2"], "tool-2", 22)
        for port, kind in ((443, STREAM), (444, STREAM), (123, DATAGRAM)):
            fabric.servers.add(fabric.outside, "outside", port, kind)
        yield fabric


@pytest.fixture
def net(built: Fabric) -> Fabric:
    """The same with fresh rules and counters."""
    built.load(DESIGN)
    return built
