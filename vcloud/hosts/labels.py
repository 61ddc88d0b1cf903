"""The labels of a host: those of the inventory, and the facts that its libvirt and its kernel tell."""

from __future__ import annotations

from vcloud.design.model import Design
from vcloud.hosts.accelerator import offers_kvm, read_capabilities
from vcloud.hosts.connection import Host
from vcloud.hosts.kernel import ksm_of
from vcloud.placement.labels import HostLabels, broken_rules
from vcloud.values import ACCELERATOR, ARCH, HOST_FACTS, KSM, NONE, OFF, ON, SMT, SVIRT


def labels_of(host: Host, accelerator: str = "") -> HostLabels:
    """The labels of the host. `accelerator` is the one that VMs of the vApp have, or will have, there;
    empty where only a test boot can find out whether KVM works. Raises HostError.
    """
    capabilities = read_capabilities(host)
    found = capabilities.find("host")
    facts: dict[str, str] = {}
    if found is not None:
        siblings = [cpu.get("siblings", "") for cpu in found.iterfind("topology/cells//cpu")]
        if any(siblings):
            # A list of processors as Linux writes it: `0` alone, `0,4` or `0-1` where they are two.
            facts[SMT] = ON if any(set(one) & set(",-") for one in siblings) else OFF
        facts[ARCH] = found.findtext("cpu/arch") or ""
        models = {model.text for model in found.iterfind("secmodel/model")}
        facts[SVIRT] = next((name for name in HOST_FACTS[SVIRT] if name in models), NONE)
    if ksm := ksm_of(host):
        facts[KSM] = ksm
    if not offers_kvm(capabilities):
        facts[ACCELERATOR] = "tcg"  # Whatever the user asks for.
    elif accelerator:
        facts[ACCELERATOR] = accelerator
    unknown = frozenset() if ACCELERATOR in facts else frozenset({ACCELERATOR})
    return HostLabels(host.name, dict(host.ref.labels) | facts, unknown)


def misplaced(host: Host, design: Design, accelerator: str) -> tuple[str, ...]:
    """What is wrong with the host of a vApp that stands there, by the vApp's rules of placement."""
    if not design.placement.rules:
        return ()
    broken = broken_rules(design.placement, labels_of(host, accelerator))
    return tuple(
        f"{what} ({rule.origin}); `vcloud plan` tells the way out" for rule, what in broken
    )
