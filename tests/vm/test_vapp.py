"""The main job, as a user does it: the real command, real VMs on a private host, real packets from the outside world."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1500)]

LAB = "t-vapp"
CARD = "4111111111111111"
SHOP = Path(__file__).parents[2] / "templates/vapps/shop.yaml"


@dataclass(frozen=True)
class Shop:
    """A running shop and the command line that sees its host."""

    env: dict[str, str]
    address: str

    def vcloud(self, *argv: str, code: int = 0, timeout: float = 600) -> str:
        """Runs the command, asks for this exit code, and returns stdout."""
        done = subprocess.run(
            [sys.executable, "-m", "vcloud", *argv], env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
        )
        assert done.returncode == code, f"{argv} ended with {done.returncode}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def customer(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """What a customer in the outside world does."""
        command = [sys.executable, "-m", "vcloud", "lab", "exec", "customer", "--", *argv]
        return subprocess.run(command, env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)

    def url(self, path: str) -> str:
        return f"http://{self.address}:8080{path}"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The shipped shop, up in a lab of its own; everything is gone afterwards."""
    home = tmp_path_factory.mktemp("home")
    cache = os.environ.get("VCLOUD_CACHE_DIR") or str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vcloud")
    env = {key: value for key, value in os.environ.items() if not key.startswith(("VCLOUD_", "LIBVIRT_"))}
    env |= {"HOME": str(home), "VCLOUD_LAB": LAB, "VCLOUD_CACHE_DIR": cache, "VCLOUD_INVENTORY": f"/var/lib/vcloud/labs/{LAB}/hosts.yaml"}
    blank = Shop(env, "")
    blank.vcloud("lab", "up")
    try:
        blank.vcloud("up", "--yes", str(SHOP), timeout=1400)
        yield Shop(env, json.loads(blank.vcloud("status", "shop", "-o", "json"))["uplink"][0])
        blank.vcloud("down", "--yes", "shop")
        assert json.loads(blank.vcloud("list", "-o", "json")) == []
    finally:
        blank.vcloud("lab", "down")


def test_a_customer_orders_and_sees_no_card_number(shop: Shop) -> None:
    order = json.dumps({"item": "teapot", "card": CARD})
    placed = shop.customer("curl", "-sS", "--fail", "-m", "30", "-d", order, shop.url("/orders"))
    assert json.loads(placed.stdout)["card"].endswith("1111")
    listed = shop.customer("curl", "-sS", "--fail", "-m", "30", shop.url("/orders"))
    assert "teapot" in listed.stdout
    assert CARD not in listed.stdout


def test_a_card_number_does_not_leave(shop: Shop) -> None:
    """The near miss comes first: the same path of the API answers for an order that does not exist."""
    missing = shop.customer("curl", "-sS", "-m", "30", shop.url("/orders/999999/card"))
    assert "no such order" in missing.stdout
    leaked = shop.customer("curl", "-sS", "-m", "8", shop.url("/orders/1/card"))
    assert leaked.returncode != 0
    assert CARD not in leaked.stdout
    assert "leak of card-number" in shop.vcloud("logs", "shop/ips")


def test_a_second_up_changes_nothing_and_needs_no_local_file(shop: Shop, tmp_path: Path) -> None:
    elsewhere = Shop(shop.env | {"HOME": str(tmp_path)}, shop.address)
    before = elsewhere.vcloud("status", "shop", "-o", "json")
    assert "nothing to do" in elsewhere.vcloud("up", str(SHOP))
    assert elsewhere.vcloud("status", "shop", "-o", "json") == before


def test_ssh_and_exec_need_no_network_path(shop: Shop) -> None:
    assert shop.vcloud("ssh", "shop/web-1", "--", "hostname").strip() == "web-1"
    assert shop.vcloud("exec", "shop/db", "--", "hostname").strip() == "db"
    shop.vcloud("exec", "shop/db", "--", "false", code=1)


def test_without_the_firewall_nothing_passes_and_up_repairs_it(shop: Shop) -> None:
    assert shop.customer("curl", "-sS", "--fail", "-m", "30", shop.url("/orders")).returncode == 0
    shop.vcloud("lab", "exec", "h1", "--", "virsh", "destroy", "shop.firewall")
    assert shop.customer("curl", "-sS", "--fail", "-m", "5", shop.url("/orders")).returncode != 0
    assert "NOT as it should be" in shop.vcloud("status", "shop", "--exit-code", code=3)
    shop.vcloud("up", "--yes", str(SHOP))
    assert shop.customer("curl", "-sS", "--fail", "-m", "30", shop.url("/orders")).returncode == 0
