"""A VM's libvirt domain XML.

What a host decides (accelerator, paths of volumes, the uplink) is passed in as `HostFacts`,
`BootFiles` and `Uplink`. Everything else comes from the design. A workload's NICs are defined with
their link down. vcloud raises the links on the running domain only when the rules of the firewall
and the IPS are loaded and checked. So a VM that somebody starts by hand, or that starts with its
host, has no network at all until `vcloud up` has run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from vcloud import tenancy
from vcloud.compile.environment import render
from vcloud.compile.libvirt.devices import devices_of, nic_device, ports_of
from vcloud.compile.libvirt.host import BootFiles, HostFacts
from vcloud.compile.libvirt.limits import hard_limit
from vcloud.design.model import Nic, Uplink, Vm
from vcloud.marks import NAMESPACE
from vcloud.tenancy import Terms, document_of

NO_NOTICE: Final[Mapping[str, int]] = MappingProxyType({})
SSH_PORT_PREFIX = "org.vcloud.ssh."
"""The name of a virtio-serial port that carries a connection of `vcloud ssh` begins with it."""


def render_domain(
    vm: Vm,
    uplink: Uplink,
    host: HostFacts,
    boot: BootFiles,
    disk_paths: Mapping[str, str],
    marks: Mapping[str, str],
    terms: Terms | None = None,
    generation: int = 0,
) -> str:
    """The domain XML of one VM. `disk_paths` maps volume names to paths; `marks` are the attributes
    of vcloud's element in the metadata; `terms` are the vApp's terms of tenancy; None for a domain
    that is no VM of a vApp, and in XML that is compared. `generation` is that of the terms; 0 if nobody
    signs them.
    """
    devices = devices_of(vm, uplink, boot, disk_paths)
    return render(
        "libvirt/domain.xml.j2",
        namespace=NAMESPACE,
        vm=vm,
        host=host,
        boot=boot,
        marks=marks,
        tenancy=tenancy.NAMESPACE,
        hard_limit=hard_limit(vm),
        terms=None if terms is None else terms_text(terms),
        generation=generation,
        ports=host.spare_ports + ports_of(devices),
        devices=devices,
    )


def terms_text(terms: Terms) -> str:
    """Terms of tenancy as a domain's metadata hold them, and as libvirt gives them back."""
    return json.dumps(document_of(terms), sort_keys=True, ensure_ascii=False)


def render_terms(terms: Terms, generation: int = 0, signature: str = "") -> str:
    """The element that replaces the terms in a VM's metadata, with an operator's signature."""
    return render(
        "libvirt/terms.xml.j2",
        terms=terms_text(terms),
        generation=generation,
        signature=signature,
    )


def render_question(
    name: str, uuid: str, terms: Terms, notice: Mapping[str, int] = NO_NOTICE, boot: str = ""
) -> str:
    """A domain that asks the host's hook whether a VM with these terms could start. The domain can
    run nothing: if no hook answers, libvirt starts an empty machine, paused. The `notice` tells the
    hook the UUIDs of VMs of the vApp, and the generations of their newest terms. It also says that
    these VMs may start in this `boot` of the host.
    """
    return render(
        "libvirt/question.xml.j2",
        namespace=NAMESPACE,
        tenancy=tenancy.NAMESPACE,
        question=tenancy.QUESTION_NAMESPACE,
        name=name,
        uuid=uuid,
        vapp=terms.vapp,
        terms=terms_text(terms),
        notice=json.dumps({"boot": boot, "vms": dict(notice)}, sort_keys=True) if notice else "",
    )


def render_interface(
    vm: Vm, nic: Nic, uplink: Uplink, *, up: bool, isolated: bool | None = None
) -> str:
    """The XML of one NIC of a VM, to raise or cut its link in the running domain. `isolated`: as the
    NIC is at the bridge, where that is to be otherwise than the design says.
    """
    return nic_device(vm, nic, uplink, up=up, isolated=isolated).xml()


def render_test_boot(name: str, kernel: str, initrd: str, host: HostFacts) -> str:
    """The smallest domain in which a kernel boots to user space, with the CPU that vcloud's VMs
    have: it shows whether KVM works.
    """
    return render("libvirt/test-boot.xml.j2", name=name, kernel=kernel, initrd=initrd, host=host)


def render_guest_port(port: str) -> str:
    """A virtio-serial port, to plug it into a running domain for as long as one connection lasts."""
    return render("libvirt/guest-port.xml.j2", port=port)
