"""The accelerator: used where it works, refused where it only seems to, and a vApp under real KVM."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest

from tests.vm.driver import Operator, Probe, Vapp, stages, standing, write_vapp
from vcloud.hosts import accelerator
from vcloud.hosts.accelerator import Accelerator
from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.inventory import load_inventory
from vcloud.hosts.volumes import Base, VappVolumes
from vcloud.images.cache import Image
from vcloud.lab.layout import Lab

pytestmark = [pytest.mark.nested, pytest.mark.timeout(1800)]

PAIR = {
    "vcloud": 1,
    "name": "pair",
    "zones": {"front": {}, "back": {}},
    "vms": {
        "web": {"image": "base", "zone": "front", "memory": "192M"},
        "store": {"image": "base", "zone": "back", "memory": "192M"},
    },
    "flows": [{"id": "reads", "from": "web", "to": "store", "service": "tcp/5432"}],
}


# Where KVM works


def test_kvm_is_used_where_a_kernel_boots_under_it(
    nested: Host, base: Image, operator: Operator
) -> None:
    """Not before one has: that libvirt offers it is no proof. Then it is remembered."""
    assert accelerator_of(operator).startswith(
        "tcg: libvirt offers KVM, but the host has no kernel yet"
    )
    kernel = uploaded(nested, base)
    assert accelerator.find_accelerator(nested, kernel.kernel, kernel.initrd) == Accelerator(
        "kvm", "a kernel boots under KVM"
    )
    assert accelerator.find_accelerator(nested, "/none", "/none").name == "kvm", (
        "it is not tried again"
    )
    assert accelerator_of(operator) == "kvm: a kernel boots under KVM"
    assert nested.connection.listAllDomains() == [], "nothing of the test boot stays"


@pytest.fixture(scope="module")
def pair(operator: Operator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vapp]:
    file = write_vapp(tmp_path_factory.mktemp("pair") / "pair.yaml", PAIR)
    try:
        operator.up(file)
        yield standing(operator, "pair", file)
    finally:
        operator.run("down", "--yes", "pair", code=None, timeout=900)  # the last test has done so


def test_every_vm_of_a_vapp_runs_under_kvm(pair: Vapp, nested: Host) -> None:
    assert pair.operator.status("pair")["accelerator"] == "kvm"
    kinds = {
        domain.name(): ElementTree.fromstring(domain.XMLDesc()).get("type")  # noqa: S314 - libvirt's own XML
        for domain in nested.connection.listAllDomains()
    }
    assert kinds == {"pair.firewall": "kvm", "pair.web": "kvm", "pair.store": "kvm"}


def is_protected(pair: Vapp) -> bool:
    """Whether of two ports that answer in the store, in both families, the web reaches the declared
    one and not the other.
    """
    ends = [pair.addresses4["store"], pair.addresses6["store"]]
    declared, other = ([Probe("tcp", end, port) for end in ends] for port in (5432, 5433))
    assert pair.probe("store", *declared, *other) == ["open"] * 4, "all of them are there"
    return pair.probe("web", *declared, *other) == ["open", "open", "timeout", "timeout"]


def listen(pair: Vapp) -> None:
    ends = [pair.addresses4["store"], pair.addresses6["store"]]
    pair.operator.listen(
        pair.vm("store"),
        *(f"tcp {end} {port}" for end in ends for port in (5432, 5433)),
        seconds=3600,
    )


def test_under_kvm_a_declared_flow_passes_and_no_other(pair: Vapp) -> None:
    listen(pair)
    assert is_protected(pair)


def test_under_kvm_verify_proves_every_claim(pair: Vapp) -> None:
    found = pair.operator.run("verify", "pair", "-o", "json", code=None, timeout=900)
    assert [check for check in found.data["checks"] if check["outcome"] != "pass"] == []
    assert found.code == 0
    assert found.data["summary"]["pass"] > 60


def test_under_kvm_vms_wake_from_a_template_and_are_no_twins(pair: Vapp) -> None:
    pair.operator.run("down", "--yes", "pair", timeout=900)
    pair.operator.run("image", "memory", "make", str(pair.file), timeout=900)
    done = pair.operator.up(pair.file)
    assert "booted cold" not in done.err
    for vm in ("firewall", "web", "store"):
        assert "waking" in stages(done, vm)
    script = "cat /etc/machine-id; cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub; head -c 32 /dev/urandom | od -An -tx1 -w32"
    web, store = (pair.inside(vm, script).splitlines() for vm in ("web", "store"))
    assert len(web) == len(store) == 3
    assert all(one != other for one, other in zip(web, store, strict=True))
    assert pair.clock_error("web") < 10
    listen(pair)
    assert is_protected(pair)


def test_under_kvm_a_vapp_goes_on_from_its_saved_memory(pair: Vapp) -> None:
    before = [pair.boot_id(vm) for vm in ("web", "store")]
    pair.operator.run("save", "pair")
    done = pair.operator.up(pair.file)
    assert all("restoring" in stages(done, vm) for vm in ("firewall", "web", "store"))
    assert [pair.boot_id(vm) for vm in ("web", "store")] == before
    assert pair.clock_error("web") < 10
    assert is_protected(pair)


def test_down_leaves_nothing_on_the_host(pair: Vapp, nested: Host) -> None:
    pair.operator.run("down", "--yes", "pair", timeout=900)
    assert nested.connection.listAllDomains() == []
    assert [network.name() for network in nested.connection.listAllNetworks()] == ["default"], (
        "Debian's own"
    )
    assert VappVolumes(nested).volumes_of_vapp("pair") == ()


# Where it may not


def test_the_probe_believes_a_kernel_and_not_a_device(lab: Lab, base: Image) -> None:
    """What it says of this machine is what a kernel shows that QEMU boots here without libvirt."""
    with open_host(load_inventory(lab.inventory)[0]) as host:
        kernel = uploaded(host, base)
        found = accelerator.find_accelerator(host, kernel.kernel, kernel.initrd)
        assert found.name == ("kvm" if boots_under_kvm(base) else "tcg")
        assert "kvm" in found.reason.lower()
        assert accelerator.stored_accelerator(host) == found
        assert host.connection.listAllDomains() == [], "nothing of the test boot stays"


def test_a_host_without_kvm_is_not_tried(lab: Lab) -> None:
    with open_host(load_inventory(lab.inventory)[1]) as host:
        assert accelerator.find_accelerator(host, "/none", "/none") == Accelerator(
            "tcg", "libvirt does not offer KVM on this host"
        )


def uploaded(host: Host, image: Image) -> Base:
    return VappVolumes(host).upload_image(image)


def accelerator_of(operator: Operator) -> str:
    """What `vcloud doctor` says of it."""
    findings = operator.run("doctor", "-o", "json").data
    return str(next(finding["detail"] for finding in findings if finding["check"] == "accelerator"))


def boots_under_kvm(image: Image) -> bool:
    """Whether QEMU itself gets a kernel to user space here, with the CPU that vcloud would give it."""
    argv = [
        *(
            "timeout",
            "--signal=KILL",
            "90",
            "qemu-system-x86_64",
            "-accel",
            "kvm",
            "-machine",
            "q35",
            "-cpu",
            "host",
            "-m",
            "256",
        ),
        *("-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"),
        *(
            "-kernel",
            str(image.kernel),
            "-initrd",
            str(image.initrd),
            "-append",
            "console=ttyS0 quiet panic=-1 vcloud.probe",
        ),
    ]
    said = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False
    ).stdout
    return accelerator.BOOTED_MESSAGE in said
