"""A new password of the database, which is in files of two VMs."""

from __future__ import annotations

import json

import pytest

from tests.vm.conftest import SHOP
from tests.vm.driver import Vapp

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]

NEW = ("-P", "db_password=another-one")


def orders(shop: Vapp) -> bool:
    """Whether a customer can order: the API has to log in to the store for that."""
    order = json.dumps({"item": "teapot", "card": "4111111111111111"})
    return '"order":' in shop.curl("/orders", "-d", order).out


def test_it_reaches_the_store_and_who_logs_in_there_while_both_run_on(shop: Vapp) -> None:
    boots = [shop.boot_id(vm) for vm in ("api", "db")]
    steps = shop.operator.run("plan", str(SHOP), *NEW, "-o", "json").data["steps"]
    assert {step["subject"]: step["why"] for step in steps} == {
        "api": "files: /etc/shop-api.conf (restart shop-api)",
        "db": "files: /etc/shop/schema.sql (run its command)",
    }
    try:
        shop.operator.up(SHOP, *NEW)
        assert orders(shop)
    finally:
        shop.operator.up(SHOP)
    assert orders(shop)
    assert shop.operator.status("shop")["healthy"]
    assert [shop.boot_id(vm) for vm in ("api", "db")] == boots
