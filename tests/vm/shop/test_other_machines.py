"""The same vApp from another machine and by another way: all state lives in libvirt."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.vm.conftest import SHOP
from tests.vm.driver import LABS, Vapp, domains

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]


def test_another_machine_sees_the_same_and_has_nothing_to_do(shop: Vapp, tmp_path: Path) -> None:
    """HOME and all of the XDG folders are empty."""
    folders = {
        f"XDG_{kind}_HOME": str(tmp_path / kind.lower()) for kind in ("CONFIG", "STATE", "DATA")
    }
    stranger = shop.operator.elsewhere(tmp_path / "home", **folders)
    before = domains(shop.operator, "shop")
    assert stranger.status("shop") == shop.operator.status("shop")
    assert "nothing to do" in stranger.up(SHOP).out
    assert domains(shop.operator, "shop") == before
    assert stranger.inside("shop/web-1", "hostname") == "web-1\n"
    assert stranger.run("ssh", "shop/web-1", "--", "hostname").out == "web-1\n"


def test_the_socket_on_the_host_and_ssh_to_it_show_the_same(shop: Vapp, tmp_path: Path) -> None:
    inventory = yaml.safe_load((LABS / shop.operator.env["VCLOUD_LAB"] / "hosts.yaml").read_text())
    entry = inventory["hosts"]["h1"]
    assert entry["uri"].startswith("qemu+ssh://")
    local = tmp_path / "hosts.yaml"
    local.write_text(
        yaml.safe_dump({"hosts": {"h1": {"uri": entry["local_uri"], "uplink": entry["uplink"]}}})
    )
    beside = shop.operator.elsewhere(tmp_path, VCLOUD_INVENTORY=str(local))
    seen, far = shop.operator.status("shop"), beside.status("shop")
    assert seen.pop("host_side")["looked_at"] is True
    side = far.pop("host_side")
    assert side["looked_at"] is False, "the socket leads into the host, vcloud's commands do not"
    assert "another machine" in side["reason"]
    assert side["differences"] == []
    assert far == seen
    assert beside.run("list", "-o", "json").data == shop.operator.run("list", "-o", "json").data
    near, there = (one.run("plan", str(SHOP), "-o", "json").data for one in (shop.operator, beside))
    assert near.pop("host_side")["looked_at"] is True
    assert there.pop("host_side")["looked_at"] is False
    assert there == near
    assert "nothing to do" in beside.up(SHOP).out
    named = shop.operator.run("status", "shop", "-o", "json", "--connect", entry["local_uri"]).data
    assert named["vms"] == shop.operator.status("shop")["vms"]
