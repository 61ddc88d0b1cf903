"""What a host adds to a domain's XML: how it runs guests, and where it keeps their files."""

from __future__ import annotations

from dataclasses import dataclass

SPARE_PORTS = 4
"""Free PCIe ports of a VM that is booted, for devices that are plugged in later.

Each port costs the guest about 30 ms of boot without KVM. libvirt itself would add no port beyond
those in use.
"""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What a domain needs to know of its host."""

    accelerator: str
    """`kvm` or `tcg`."""
    spare_ports: int = SPARE_PORTS
    credentials: tuple[str, ...] = ()
    """OEM strings of SMBIOS, by which a host passes credentials to systemd in the guest."""
    cores: tuple[int, ...] = ()
    """The processor of the host to which each virtual CPU of the VM is pinned; empty: to none."""

    @property
    def domain_type(self) -> str:
        return "kvm" if self.accelerator == "kvm" else "qemu"

    @property
    def cpu_mode(self) -> str:
        return "host-passthrough" if self.accelerator == "kvm" else "maximum"


@dataclass(frozen=True, slots=True)
class BootFiles:
    """The files of one VM, as absolute paths on the host, and the command line of its kernel."""

    disk: str
    console: str
    kernel: str = ""
    """Empty for an image that boots by its own loader."""
    initrd: str = ""
    cmdline: str = ""
    seed: str = ""
    """cloud-init's seed disk; empty for an image that does not use cloud-init."""


def placeholder_files(*, own_kernel: bool, cmdline: str = "") -> BootFiles:
    """Names in place of a host's paths, for XML that is compared or counted and never given to
    libvirt.

    An image of vcloud's boots a kernel of its own (`own_kernel`). Any other image has a loader, and
    is configured by a seed disk.
    """
    if own_kernel:
        return BootFiles("ROOT", "CONSOLE", "KERNEL", "INITRD", cmdline)
    return BootFiles("ROOT", "CONSOLE", cmdline=cmdline, seed="SEED")
