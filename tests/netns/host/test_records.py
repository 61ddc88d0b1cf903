"""Records on a libvirtd of their own, which an ordinary user runs: what a started record does, and a
disk that fills. libvirt's test driver has neither.
"""

from __future__ import annotations

import dataclasses
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from tests.unit.hosts.test_hands import active, start_all
from tests.unit.hosts.test_records import MANIFEST, manifest, network_names
from vcloud.compile.libvirt.record import render_record
from vcloud.design.addressing import uuid_of
from vcloud.errors import HostError
from vcloud.hosts.connection import Host
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.lock import LockedError, vapp_lock
from vcloud.hosts.manifests import delete_manifest, read_manifest, vapp_names, write_manifest
from vcloud.hosts.metadata import Record, definition_of, write_record
from vcloud.plan.manifest import Manifest

pytestmark = pytest.mark.timeout(600)

NOBODY = "65534"
PLACES = ("XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME")


@pytest.fixture(scope="module")
def places() -> Iterator[Path]:
    """Folders of the user. The one that libvirtd keeps definitions in is a small file system."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o711)
        for name in PLACES:
            (folder / name).mkdir()
        config = str(folder / PLACES[0])
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", config], check=True)
        try:
            places = [str(folder / name) for name in PLACES]
            subprocess.run(["chown", f"{NOBODY}:{NOBODY}", *places], check=True)
            subprocess.run(["chmod", "0700", *places], check=True)
            yield folder
        finally:
            subprocess.run(["umount", config], check=True)


@pytest.fixture(scope="module")
def uri(places: Path) -> Iterator[str]:
    as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    environment = [f"{name}={places / name}" for name in PLACES]
    argv = [*as_nobody, "env", f"HOME={places}", *environment, "libvirtd"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as daemon:
        try:
            socket = places / "XDG_RUNTIME_DIR/libvirt/libvirt-sock"
            deadline = time.monotonic() + 120
            while not socket.exists():
                assert daemon.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield f"qemu+unix:///session?socket={socket}"
        finally:
            daemon.terminate()


@pytest.fixture
def host(uri: str, places: Path) -> Iterator[Host]:
    (places / PLACES[0] / "filler").unlink(missing_ok=True)
    connection = libvirt.open(uri)
    yield Host(HostRef("t", uri), connection)
    for network in connection.listAllNetworks():
        if network.isActive():
            network.destroy()
        network.undefine()
    connection.close()


def fill(places: Path) -> None:
    filler = places / PLACES[0] / "filler"
    subprocess.run(["sh", "-c", 'cat /dev/zero > "$0"', str(filler)], stderr=subprocess.DEVNULL)


def ruleset_of(host: Host) -> str:
    found = read_manifest(host, "shop")
    assert isinstance(found, Manifest)
    return found.firewall


def other(ruleset: str) -> Manifest:
    return dataclasses.replace(manifest("shop"), firewall=ruleset)


def test_an_active_record_shows_its_old_text_and_its_definition_counts(host: Host) -> None:
    name, number = f"{MANIFEST}shop", uuid_of("manifest", "shop")
    write_manifest(host, manifest("shop"))
    start_all(host)
    network = host.connection.networkLookupByName(name)
    host.connection.networkDefineXML(render_record(name, number, {"new": "yes"}, ""))
    assert 'new="yes"' not in network.XMLDesc(), "libvirt shows what runs"
    assert 'new="yes"' in definition_of(network)


def test_a_started_manifest_is_read_replaced_and_removed(host: Host) -> None:
    write_manifest(host, manifest("shop"))
    start_all(host)
    assert active(host) == {f"{MANIFEST}shop"}
    assert vapp_names(host) == ("shop",)
    write_manifest(host, other("second"))
    assert (ruleset_of(host), active(host)) == ("second", set())
    start_all(host)
    delete_manifest(host, "shop")
    assert network_names(host) == set()


def test_a_started_lock_is_held_and_released(host: Host) -> None:
    with vapp_lock(host, "shop", "up") as lock:
        start_all(host)
        lock.require()
        with pytest.raises(LockedError), vapp_lock(host, "shop", "down"):
            pytest.fail("two hold one lock")
    assert network_names(host) == set()


def test_a_manifest_that_has_no_room_leaves_the_old_one(host: Host, places: Path) -> None:
    write_manifest(host, other("first"))
    fill(places)
    with pytest.raises(HostError, match="No space left on device") as told:
        write_manifest(host, other("second"))
    assert "Free some space" in told.value.hint
    assert (ruleset_of(host), network_names(host)) == ("first", {f"{MANIFEST}shop"})
    (places / PLACES[0] / "filler").unlink()
    write_manifest(host, other("second"))
    assert ruleset_of(host) == "second"


def test_libvirt_forgets_a_record_that_it_cannot_write(host: Host, places: Path) -> None:
    """So whoever replaces a manifest asks for room first."""
    write_manifest(host, other("first"))
    fill(places)
    record = Record(f"{MANIFEST}shop", uuid_of("manifest", "shop"), text="x" * 4096)
    with pytest.raises(libvirt.libvirtError, match="No space left on device"):
        write_record(host, record)
    assert vapp_names(host) == ()
