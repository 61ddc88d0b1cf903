"""A VM's libvirt domain XML.

What a host decides (accelerator, paths of volumes, where the uplink is) comes in as `HostFacts`,
`BootFiles` and `Uplink`. The rest is the design's. A workload's NICs are defined with their link
down. vcloud raises the links on the running domain only when the rules of the firewall and the IPS
are loaded and checked. So a VM that somebody starts by hand, or that starts with its host, has no
network at all until `vcloud up` has run.
"""

from __future__ import annotations

from collections.abc import Mapping

from vcloud.compile.environment import render
from vcloud.compile.libvirt.devices import devices_of, nic_device, ports_of
from vcloud.compile.libvirt.host import BootFiles, HostFacts
from vcloud.design.model import Nic, Uplink, Vm
from vcloud.marks import NAMESPACE


def render_domain(
    vm: Vm,
    uplink: Uplink,
    host: HostFacts,
    boot: BootFiles,
    disk_paths: Mapping[str, str],
    marks: Mapping[str, str],
) -> str:
    """The domain XML of one VM. `disk_paths` maps volume names to paths; `marks` are the attributes
    of vcloud's element in the metadata.
    """
    devices = devices_of(vm, uplink, boot, disk_paths)
    return render(
        "libvirt/domain.xml.j2",
        namespace=NAMESPACE,
        vm=vm,
        host=host,
        boot=boot,
        marks=marks,
        ports=host.spare_ports + ports_of(devices),
        devices=devices,
    )


def render_interface(vm: Vm, nic: Nic, uplink: Uplink, *, up: bool) -> str:
    """The XML of one NIC of a VM, to raise or cut its link in the running domain."""
    return nic_device(vm, nic, uplink, up=up).xml()


def render_test_boot(name: str, kernel: str, initrd: str, host: HostFacts) -> str:
    """The smallest domain in which a kernel boots to user space, with the CPU that vcloud's VMs
    have: it shows whether KVM works.
    """
    return render("libvirt/test-boot.xml.j2", name=name, kernel=kernel, initrd=initrd, host=host)


def render_guest_port(port: str) -> str:
    """A virtio-serial port, to plug it into a running domain for as long as one connection lasts."""
    return render("libvirt/guest-port.xml.j2", port=port)
