"""The way to a host, and the lock that one operator at a time holds on a vApp."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.design_builder import UPLINK, build_design
from tests.vm.hosts.running import (
    line,
    program,
    tell,
)
from vcloud.errors import HostError
from vcloud.hosts import machines
from vcloud.hosts.connection import Host
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.lock import vapp_lock
from vcloud.hosts.manifests import delete_manifest, write_manifest
from vcloud.marks import VmDigests
from vcloud.plan.manifest import Manifest, Phase

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]


def test_a_shell_on_the_host_by_ssh(host: Host) -> None:
    done = host.shell.run(
        ["sh", "-c", "cat; echo $0 >&2; exit 3", "a 'b' $c"], stdin=b"x" * 3_000_000
    )
    assert (done.code, len(done.stdout), done.stderr) == (3, 3_000_000, b"a 'b' $c\n")
    with pytest.raises(HostError, match="did not end within 1 s"):
        host.shell.run(["sleep", "60"], timeout=1)


LOCK = """
import sys
from pathlib import Path
from vcloud.hosts.connection import open_host
from vcloud.hosts.inventory import load_inventory
from vcloud.hosts.lock import LockedError, vapp_lock
with open_host(load_inventory(Path(sys.argv[1]))[0]) as host:
    print("open", flush=True)
    sys.stdin.readline()
    try:
        with vapp_lock(host, "race", "up"):
            print("won", flush=True)
            sys.stdin.readline()
    except LockedError:
        print("lost", flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""
"""Takes the lock `race` when it is told to, and holds it until it is told again."""

Locker = Callable[[], subprocess.Popen[str]]


@pytest.fixture
def locker(ref: HostRef) -> Iterator[Locker]:
    """Starts an operator whose connection to the host is open."""
    assert ref.ssh_config is not None
    inventory = ref.ssh_config.parent / "hosts.yaml"
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        started.append(program(LOCK, str(inventory)))
        return started[-1]

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def with_lock(locker: Locker) -> subprocess.Popen[str]:
    holder = locker()
    assert line(holder) == "open"
    tell(holder)
    assert line(holder) == "won"
    return holder


def test_of_operators_that_begin_at_one_instant_exactly_one_wins(locker: Locker) -> None:
    """The winner holds the lock until all others have had their answer."""
    racers = [locker() for _ in range(4)]
    assert [line(racer) for racer in racers] == ["open"] * 4
    for racer in racers:
        tell(racer)
    assert sorted(line(racer) for racer in racers) == ["lost", "lost", "lost", "won"]


def test_ctrl_c_releases_the_lock_though_ssh_hears_it_too(host: Host, locker: Locker) -> None:
    holder = with_lock(locker)
    os.killpg(holder.pid, signal.SIGINT)
    assert line(holder) == "interrupted"
    assert holder.wait(timeout=600) == 0
    assert "vcloud-lock-race" not in [
        network.name() for network in host.connection.listAllNetworks()
    ]


def test_the_lock_of_a_killed_operator_is_taken_over(host: Host, locker: Locker) -> None:
    holder = with_lock(locker)
    os.killpg(holder.pid, signal.SIGKILL)
    holder.wait()
    assert "vcloud-lock-race" in [network.name() for network in host.connection.listAllNetworks()]
    with vapp_lock(host, "race", "up"):
        pass


COUNT = """
import sys
from pathlib import Path
from vcloud.hosts.connection import open_host
from vcloud.hosts.inventory import load_inventory
from vcloud.hosts.observe import observe_vapp
log = Path(sys.argv[2])
calls = lambda: sum("RPC_CLIENT_MSG_TX_QUEUE" in line and "prog=536903814" in line for line in log.read_text().splitlines())
with open_host(load_inventory(Path(sys.argv[1]))[0]) as host:
    before = calls()
    state = observe_vapp(host, "many")
    print(calls() - before, state.manifest is not None, len(state.networks))
"""


def test_a_vapp_is_read_in_calls_linear_in_its_objects(
    host: Host, ref: HostRef, tmp_path: Path
) -> None:
    """Counted by libvirt's own log of what it sends: some for the host, three for each network."""
    design = build_design(zones="dmz app", vms={"web": "dmz x2", "api": "app"}, vapp="many")
    digests = tuple((vm.name, VmDigests("r", "h", "i")) for vm in design.vms)
    manifest = Manifest(
        Phase.READY,
        design,
        UPLINK,
        "tcg",
        (),
        digests,
        (),
        "",
        "f",
        "",
        "2030-01-01T00:00:00+00:00",
        "0",
    )
    networks = [zone.network for zone in design.zones]
    try:
        write_manifest(host, manifest)
        for network in networks:
            xml = f"<network><name>{network.name}</name><uuid>{network.uuid}</uuid><bridge name='{network.bridge}'/></network>"
            machines.make_network(host, network.name, xml)
        log = tmp_path / "log"
        debug = {"LIBVIRT_LOG_FILTERS": "1:rpc", "LIBVIRT_LOG_OUTPUTS": f"1:file:{log}"}
        assert ref.ssh_config is not None
        argv = [sys.executable, "-c", COUNT, str(ref.ssh_config.parent / "hosts.yaml"), str(log)]
        done = subprocess.run(
            argv, env=os.environ | debug, capture_output=True, text=True, check=True
        )
        count, found, standing = done.stdout.split()
        assert (found, standing) == ("True", "2")
        assert 1 <= int(count) <= 20 + 3 * len(networks)
    finally:
        for network in networks:
            machines.remove_network(host, network.name)
        delete_manifest(host, "many")
