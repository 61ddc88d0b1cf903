"""`vcloud host add` on a plain Debian guest that has neither libvirt nor a way out: its only source of
packages is a folder of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.nested.conftest import (
    BOOT_SECONDS,
    LOOPBACK,
    free_port,
    identity,
    settle,
    write_way_in,
)
from tests.vm.driver import Operator, environment
from tests.vm.qemu import MAC, Guest, booted
from vcloud.errors import Exit
from vcloud.guests.setup import new_host_key
from vcloud.hosts.inventory import load_inventory
from vcloud.hosts.patience import BOOT_VARIABLE
from vcloud.images.build import build
from vcloud.images.recipe import load_recipe
from vcloud.lab.host import ensure_key
from vcloud.plan.preparation import Release, packages_for

pytestmark = [pytest.mark.nested, pytest.mark.long, pytest.mark.timeout(7200)]

PACKAGES = packages_for(Release("debian", "13", "Debian 13"))
FOLDER = "/srv/packages"
RECIPE = {
    "base": "base",
    "memory": "1G",
    "packages": ["apt-utils"],
    "commands": [
        f"mkdir {FOLDER}",
        f"apt-get -q install -y --download-only --no-install-recommends {' '.join(PACKAGES)}",
        f"mv /var/cache/apt/archives/*.deb {FOLDER}",
        f"cd {FOLDER} && apt-ftparchive packages . >Packages",
    ],
    "check": f"test -s {FOLDER}/Packages",
}


@dataclass(frozen=True, slots=True)
class Plain:
    """The guest, and who prepares it."""

    guest: Guest
    operator: Operator
    inventory: Path
    add: tuple[str, ...]
    """`host add` with all that it needs."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plain]:
    folder = tmp_path_factory.mktemp("plain-host")
    (folder / "plain").mkdir()
    (folder / "plain" / "image.yaml").write_text(yaml.safe_dump(RECIPE))
    port, key = free_port(), new_host_key()
    network = f"user,id=way-in,restrict=on,ipv6=off,hostfwd=tcp:{LOOPBACK}:{port}-:22"
    card = ("-netdev", network, "-device", f"virtio-net-pci,netdev=way-in,mac={MAC}")
    with booted(build(load_recipe(folder / "plain")), folder, arguments=card) as guest:
        settings = folder / ".ssh"
        settings.mkdir()
        ensure_key(settings / "id_ed25519", "tests")
        settle(guest, identity(key, (settings / "id_ed25519.pub").read_bytes()))
        write_way_in(folder, port, key.public).unlink()
        guest.shell("rm -rf /etc/apt/sources.list.d/*")
        guest.shell(f"echo 'deb [trusted=yes] file:{FOLDER} ./' >/etc/apt/sources.list")
        inventory = folder / "hosts.yaml"
        operator = Operator(
            environment("none", tmp_path_factory.mktemp("home"))
            | {"VCLOUD_INVENTORY": str(inventory), BOOT_VARIABLE: str(BOOT_SECONDS)}
        )
        uri = f"qemu+ssh://root@{LOOPBACK}:{port}/system"
        words = ("--label", "site=eu", "--ssh-config", f"{settings}/config")
        yield Plain(guest, operator, inventory, ("host", "add", "plain", uri, *words))


def test_a_plain_host_is_prepared_also_after_a_kill_and_then_nothing_is_left(plain: Plain) -> None:
    """In one test, because each part needs what the one before left."""
    said = plain.operator.run(*plain.add, code=Exit.INVALID)
    assert "there is no terminal to ask at" in said.stderr
    assert "1. packages: packages are not installed: qemu-system-x86" in said.stdout
    assert f"write plain into {plain.inventory}" in said.stdout
    assert plain.guest.run("test", "-e", "/etc/libvirt").code != 0
    assert not plain.inventory.exists()

    killed = plain.operator.start(*plain.add, "--yes")
    assert killed.stderr is not None
    for line in killed.stderr:
        if " install -y " in line:
            break
    plain.guest.wait_until("grep -q 'status unpacked' /var/log/dpkg.log")
    killed.kill()
    killed.communicate(timeout=600)
    assert not plain.inventory.exists()

    plain.guest.wait_until("! pgrep -x apt-get")
    done = plain.operator.run(*plain.add, "--yes")
    assert f"plain is prepared, and stands in {plain.inventory}" in done.stdout
    (host,) = load_inventory(plain.inventory)
    assert (host.name, host.labels) == ("plain", (("site", "eu"),))

    before = plain.inventory.read_bytes()
    again = plain.operator.run(*plain.add, "-o", "json")
    assert json.loads(again.stdout)["done"] == []
    assert plain.inventory.read_bytes() == before

    findings = plain.operator.run("host", "check", "plain", "-o", "json").data["plain"]
    assert "fail" not in {one["result"] for one in findings}
    assert {"preparation", "tenancy"} <= {one["check"] for one in findings if one["result"] == "ok"}

    shown = plain.operator.run("host", "show", "plain", "-o", "json").data
    assert shown["hook"]["state"] == shown["reporter"]["state"] == "this release's"
    assert (shown["encrypted"], shown["labels"]) == (True, {"site": "eu"})
    assert shown["versions"]["system"].startswith("Debian GNU/Linux 13")

    gone = plain.operator.run("host", "remove", "plain")
    assert "it was the last host" in gone.stderr
    assert plain.guest.run("test", "-e", "/etc/libvirt/hooks/qemu.d/vcloud").code == 0
