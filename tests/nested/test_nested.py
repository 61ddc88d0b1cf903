"""The accelerator: used where it works, refused where it only seems to, and a vApp under real KVM."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.nested.conftest import KvmHost, accelerator_of
from tests.vm.driver import TINY, Operator, Probe, Vapp, must_open, stages, standing, write_vapp
from vcloud.hosts import accelerator
from vcloud.hosts.accelerator import Accelerator
from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.inventory import load_inventory
from vcloud.hosts.volumes import Base, VappVolumes
from vcloud.images.cache import Image
from vcloud.lab.layout import Lab

pytestmark = [pytest.mark.nested, pytest.mark.timeout(4800)]

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
    accelerator_before: str, nested: Host, base: Image, operator: Operator
) -> None:
    """Not before one has: that libvirt offers it is no proof. Then it is remembered."""
    assert accelerator_before.startswith("tcg: libvirt offers KVM, but the host has no kernel yet")
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
def solo(
    accelerator_before: str, operator: Operator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Vapp]:
    """A vApp of one VM, booted: nothing is saved there to wake from."""
    assert accelerator_before.startswith("tcg"), "the host had no image before"
    folder, document = tmp_path_factory.mktemp("solo"), TINY | {"name": "solo"}
    with raised(operator, folder, document, "booting", "--cold") as vapp:
        yield vapp


@contextmanager
def raised(
    operator: Operator, folder: Path, document: dict[str, Any], stage: str, *options: str
) -> Iterator[Vapp]:
    """`stage`: what each of its VMs goes through. `options` are those of `up`."""
    name = str(document["name"])
    file = write_vapp(folder / f"{name}.yaml", document)
    try:
        done = operator.up(file, *options)
        assert all(stage in stages(done, vm) for vm in ("firewall", *document["vms"]))
        yield standing(operator, name, file)
    finally:
        operator.run("down", "--yes", name, code=None)  # the last test may have done so


def kinds_of(nested: Host) -> dict[str, str | None]:
    return {
        domain.name(): ElementTree.fromstring(domain.XMLDesc()).get("type")  # noqa: S314 - libvirt's own XML
        for domain in nested.connection.listAllDomains()
    }


def test_every_vm_of_a_vapp_runs_under_kvm(solo: Vapp, nested: Host) -> None:
    assert solo.operator.status("solo")["accelerator"] == "kvm"
    assert kinds_of(nested) == {"solo.firewall": "kvm", "solo.solo": "kvm"}


def test_under_kvm_a_declared_flow_passes_and_no_other(solo: Vapp, machine: KvmHost) -> None:
    """From the host, as a customer: the VM's sshd answers at the published port, and only there."""
    address = solo.operator.status("solo")["uplink"][0]

    def answer(port: int, seconds: int) -> str:
        script = (
            f"timeout {seconds} bash -c 'head -c 4 </dev/tcp/{address}/{port}' 2>/dev/null || :"
        )
        return machine.guest.shell(script)

    assert answer(2222, 600) == "SSH-"
    assert answer(22, 5) == answer(2223, 5) == ""


# It takes minutes there.
@pytest.mark.long
def test_under_kvm_verify_proves_every_claim(solo: Vapp) -> None:
    found = solo.operator.run("verify", "solo", "-o", "json", code=None)
    assert [check for check in found.data["checks"] if check["outcome"] != "pass"] == []
    assert found.code == 0
    proves = {check["proves"] for check in found.data["checks"]}
    assert "flow:login" in proves


def test_down_leaves_nothing_on_the_host(solo: Vapp, nested: Host) -> None:
    solo.operator.run("down", "--yes", "solo")
    assert nested.connection.listAllDomains() == []
    assert [network.name() for network in nested.connection.listAllNetworks()] == ["default"], (
        "Debian's own"
    )
    assert VappVolumes(nested).volumes_of_vapp("solo") == ()


# Only in `make test-long`: QEMU's emulated virtualisation at times gives a guest that was restored a
# flags register full of other bits (`EFLAGS: 06279242` in a double fault of its kernel). Programs of
# the guest then end by themselves, or it panics. Waking from a memory image is a restore, too.


@pytest.fixture(scope="module")
def pair(operator: Operator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vapp]:
    """A vApp whose VMs have woken. What they woke from has booted under KVM before."""
    folder = tmp_path_factory.mktemp("pair")
    operator.run("image", "memory", "make", str(write_vapp(folder / "x.yaml", PAIR)))
    with raised(operator, folder, PAIR, "waking") as vapp:
        yield vapp


def is_protected(pair: Vapp) -> bool:
    """Whether of two ports that answer in the store, in both families, the web reaches the declared
    one and not the other.
    """
    ends = [pair.addresses4["store"], pair.addresses6["store"]]
    declared, other = ([must_open(end, port) for end in ends] for port in (5432, 5433))
    assert pair.probe("store", *declared, *other) == ["open"] * 4, "all of them are there"
    other = [Probe("tcp", end, 5433) for end in ends]
    return pair.probe("web", *declared, *other) == ["open", "open", "timeout", "timeout"]


def listen(pair: Vapp) -> None:
    ends = [pair.addresses4["store"], pair.addresses6["store"]]
    pair.operator.listen(
        pair.vm("store"),
        *(f"tcp {end} {port}" for end in ends for port in (5432, 5433)),
    )


@pytest.mark.long
def test_under_kvm_a_flow_between_zones_passes_and_no_other(pair: Vapp) -> None:
    listen(pair)
    assert is_protected(pair)


@pytest.mark.long
def test_under_kvm_vms_wake_from_a_template_and_are_no_twins(pair: Vapp) -> None:
    script = "cat /etc/machine-id; cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub; head -c 32 /dev/urandom | od -An -tx1 -w32"
    web, store = (pair.inside(vm, script).splitlines() for vm in ("web", "store"))
    assert len(web) == len(store) == 3
    assert all(one != other for one, other in zip(web, store, strict=True))
    assert pair.clock_error("web") < 60


@pytest.mark.long
def test_under_kvm_a_vapp_goes_on_from_its_saved_memory(pair: Vapp) -> None:
    listen(pair)
    before = [pair.boot_id(vm) for vm in ("web", "store")]
    pair.inside("web", "date --set='1 hour ago'")
    pair.operator.run("save", "pair")
    done = pair.operator.up(pair.file)
    assert all("restoring" in stages(done, vm) for vm in ("firewall", "web", "store"))
    assert [pair.boot_id(vm) for vm in ("web", "store")] == before
    assert pair.clock_error("web") < 60
    assert is_protected(pair)


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
