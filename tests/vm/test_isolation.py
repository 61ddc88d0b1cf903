"""What VMs share with nobody, on a host of the lab: its two processors run under TCG, and it has neither
cgroups nor security labels. tests/nested has a host with more.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.vm.conftest import Raise
from tests.vm.driver import Vapp, parse, write_vapp, xml_of
from vcloud.plan.facts import domain_facts

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3000)]

NAME = "vault"
DOCUMENT: dict[str, Any] = {
    "vcloud": 1,
    "name": NAME,
    "zones": {"one": {}},
    "vms": {
        "keys": {"image": "base", "zone": "one", "memory": "256M", "isolation": {"cpus": "own"}}
    },
    "isolation": {"page_sharing": "forbidden", "ksm": "forbidden"},
}
OWN = "1"
"""The host keeps processor 0."""


@pytest.fixture(scope="module")
def vapp(raised: Raise, tmp_path_factory: pytest.TempPathFactory) -> Vapp:
    return raised(NAME, write_vapp(tmp_path_factory.mktemp(NAME) / "vault.yaml", DOCUMENT))


def differences(vapp: Vapp) -> list[tuple[str, str]]:
    found = vapp.operator.status(NAME)["host_side"]
    assert found["looked_at"], found["reason"]
    return sorted({(item["kind"], item["vm"]) for item in found["differences"]})


def pid_of(vapp: Vapp, domain: str) -> str:
    return vapp.operator.at("h1", "cat", f"/run/libvirt/qemu/{domain}.pid").out.strip()


def allowed(vapp: Vapp, domain: str) -> dict[str, str]:
    """Thread of a VM's QEMU -> the processors that it may use, by the kernel."""
    script = 'for task in /proc/"$1"/task/*; do grep -hE "^(Name|Cpus_allowed_list):" "$task/status"; done'
    said = vapp.operator.at("h1", "sh", "-c", script, "sh", pid_of(vapp, domain)).out
    return dict(re.findall(r"Name:\s*(.*)\nCpus_allowed_list:\s*(\S*)", said))


def merges(vapp: Vapp, domain: str) -> bool:
    done = vapp.operator.at(
        "h1", "grep", "-c", "^VmFlags:.* mg", f"/proc/{pid_of(vapp, domain)}/smaps"
    )
    return done.out.strip() != "0"


def steps(vapp: Vapp) -> list[tuple[str, str]]:
    plan = vapp.operator.run("plan", str(vapp.file), "-o", "json").data
    return [(step["verb"], step["subject"]) for step in plan["steps"]]


def test_the_processes_share_what_the_file_says(vapp: Vapp) -> None:
    """No page of any VM may be merged. Only the VM that demands it has a core, and is on no other."""
    assert differences(vapp) == []
    assert not merges(vapp, vapp.domain("keys"))
    assert not merges(vapp, vapp.domain("firewall"))
    assert set(allowed(vapp, vapp.domain("keys")).values()) == {OWN}
    assert set(allowed(vapp, vapp.domain("firewall")).values()) != {OWN}
    assert steps(vapp) == []


def test_verify_has_a_check_for_each_demand_and_for_no_other(vapp: Vapp) -> None:
    checks = vapp.operator.run("verify", NAME, "-o", "json", code=None).data["checks"]
    found = {check["id"]: check["outcome"] for check in checks}
    for name in ("cores", "foreign-vm-on-cores", "page-sharing", "ksm"):
        assert found[f"config/host/{name}"] == "pass"
    assert not {"config/host/locked-memory", "config/host/security-label", "config/host/smt"} & {
        *found
    }


@pytest.mark.parametrize("by_libvirt", [True, False], ids=["virsh", "taskset"])
def test_a_pin_that_was_changed_by_hand_is_named_and_mended_live(
    vapp: Vapp, by_libvirt: bool
) -> None:
    domain = vapp.domain("keys")
    before = pid_of(vapp, domain)
    if by_libvirt:
        vapp.operator.virsh("vcpupin", domain, "0", "0-1", "--live")
    else:
        done = vapp.operator.at("h1", "taskset", "-a", "-p", "-c", "0-1", before)
        assert done.code == 0, done.err
    assert differences(vapp) == [("cores", "keys")]
    assert not vapp.operator.status(NAME)["healthy"]
    assert steps(vapp) == [("mend VM", "keys")]
    vapp.operator.up(vapp.file)
    assert differences(vapp) == []
    assert set(allowed(vapp, domain).values()) == {OWN}
    assert pid_of(vapp, domain) == before, "it was not restarted"


def test_a_foreign_vm_is_kept_off_the_core(vapp: Vapp, tmp_path: Path) -> None:
    """libvirt lets it start there: nothing of the vApp is asked."""
    xml = tmp_path / "guest.xml"
    xml.write_text(
        "<domain type='qemu'><name>somebody</name><memory unit='MiB'>64</memory>"
        "<os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"
    )
    vapp.operator.virsh("create", str(xml))
    try:
        assert differences(vapp) == [("foreign vm on cores", "keys")]
        vapp.operator.up(vapp.file)
        assert differences(vapp) == []
        assert set(allowed(vapp, "somebody").values()) == {"0"}
    finally:
        vapp.operator.virsh("destroy", "somebody")


def test_a_second_vapp_finds_no_core_and_its_vms_run_beside_them(
    vapp: Vapp, raised: Raise, tmp_path: Path
) -> None:
    """The refusal names the host, the line, whose the cores are, and the way out."""
    other = DOCUMENT | {"name": "second"}
    refused = vapp.operator.up(write_vapp(tmp_path / "second.yaml", other), code=6)
    assert "second.yaml:" in refused.err
    assert "get none on h1" in refused.err
    assert "1 are others'" in refused.err
    plain = {key: value for key, value in other.items() if key != "isolation"}
    plain["vms"] = {"keys": {"image": "base", "zone": "one", "memory": "256M"}}
    second = raised("second", write_vapp(tmp_path / "plain.yaml", plain))
    for vm in ("keys", "firewall"):
        assert set(allowed(second, second.domain(vm)).values()) == {"0"}
    assert differences(vapp) == []


@pytest.mark.parametrize(
    ("demand", "said"),
    [
        ({"memory": "locked"}, "the host has no memory controller of cgroups"),
        ({"svirt": "required"}, "has svirt=none"),
    ],
)
def test_what_the_host_cannot_do_is_refused_before_anything_is_made(
    vapp: Vapp, tmp_path: Path, demand: dict[str, str], said: str
) -> None:
    document = DOCUMENT | {"name": "third", "isolation": demand}
    document["vms"] = {"keys": {"image": "base", "zone": "one", "memory": "256M"}}
    refused = vapp.operator.up(write_vapp(tmp_path / "third.yaml", document), code=6)
    assert said in refused.err
    assert "third." not in vapp.operator.virsh("list", "--all", "--name")


def test_cores_survive_a_save_and_are_free_after_the_demand_is_gone(vapp: Vapp) -> None:
    domain = vapp.domain("keys")
    vapp.operator.run("save", NAME)
    vapp.operator.up(vapp.file)
    assert set(allowed(vapp, domain).values()) == {OWN}
    without = {**DOCUMENT, "vms": {"keys": {"image": "base", "zone": "one", "memory": "256M"}}}
    before = pid_of(vapp, domain)
    vapp.operator.up(write_vapp(vapp.file, without))
    assert pid_of(vapp, domain) == before
    assert set(allowed(vapp, domain).values()) == {"0-1"}
    assert domain_facts(parse(vapp.operator.virsh("dumpxml", "--inactive", domain))).pins == {}
    assert parse(xml_of(vapp.operator, domain)).find("memoryBacking/nosharepages") is not None
