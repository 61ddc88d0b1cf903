"""`vcloud save` of the whole shop, and the `up` after it."""

from __future__ import annotations

import pytest

from tests.vm.conftest import SHOP
from tests.vm.driver import Vapp, domains, stages

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]

WORKLOADS = ("web-1", "api", "db")


def boots(vapp: Vapp, *vms: str) -> list[str]:
    return [vapp.boot_id(vm) for vm in vms]


def test_the_shop_goes_on_where_it_was(shop: Vapp) -> None:
    operator = shop.operator
    for vm in WORKLOADS:
        shop.inside(vm, "echo here > /run/only-in-memory")
    before, keys = (
        boots(shop, *WORKLOADS),
        shop.inside("web-1", "cat /etc/ssh/ssh_host_*_key.pub /etc/machine-id"),
    )
    shop.inside("db", "date --set='1 hour ago'")
    assert operator.run("save", "shop", "-o", "json").data["saved"] == [
        "firewall",
        "ips",
        *WORKLOADS,
    ]
    assert set(domains(operator, "shop").values()) == {"-"}
    assert shop.curl("/", patience=3).code != 0
    found = operator.status("shop")
    assert (found["phase"], found["healthy"], {vm["state"] for vm in found["vms"]}) == (
        "saved",
        True,
        {"saved"},
    )
    assert (
        next(
            row["state"] for row in operator.run("list", "-o", "json").data if row["vapp"] == "shop"
        )
        == "saved"
    )
    assert "saved already" in operator.run("save", "shop").out
    assert "vcloud up" in operator.run("exec", "shop/db", "--", "true", code=None).err
    assert "`vcloud up` restores it" in operator.run("verify", "shop", code=1).err
    steps = operator.run("plan", str(SHOP), "-o", "json").data["steps"]
    assert [step["subject"] for step in steps if step["verb"] == "restore VM"] == [
        "firewall",
        "ips",
        *WORKLOADS,
    ]
    done = operator.up(SHOP)
    assert all("restoring" in stages(done, vm) for vm in ("firewall", "ips", *WORKLOADS))
    assert boots(shop, *WORKLOADS) == before
    assert shop.inside("web-1", "cat /etc/ssh/ssh_host_*_key.pub /etc/machine-id") == keys
    for vm in WORKLOADS:
        assert shop.inside(vm, "cat /run/only-in-memory; rm /run/only-in-memory") == "here\n"
    assert shop.clock_error("db") < 60, "the clock was wrong when it was saved"
    assert shop.curl("/").code == 0
    assert operator.run("ssh", "shop/web-1", "hostname").out == "web-1\n"
    assert "nothing to do" in operator.up(SHOP).out
    verdict = operator.run("verify", "shop", "-o", "json").data["summary"]
    assert verdict["pass"] > 300
