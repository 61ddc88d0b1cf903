"""Every name and UUID that a vApp has on a host, as a function of its instance.

An instance is the vApp itself or a copy of it, such as a drill or a clone. A copy needs other names
on the host: those of domains, networks, bridges, taps, filters and volumes, and other UUIDs.
Inside, it must be the same: addresses, MAC addresses, host names and machine IDs come from the
vApp's name alone (`vcloud.design.addressing`), because the software, the licences and the data on
copied disks expect them.

Two instances may have equal MAC addresses, because their zones have bridges of their own and so
never meet. The firewall's NIC on the uplink is the exception: two instances may share that network,
so the MAC address of this NIC comes from the instance.

The functions below take the name of an instance on its host (`Instance.name`), which for the vApp
itself is the vApp's name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vcloud.design.addressing import device_name, uuid_of

NAT_NETWORK = "vcloud-uplink"
"""libvirt's name of the NAT network that vcloud makes on a host whose inventory names no uplink."""
_VOLUME = re.compile(
    r"(?:root\.{vm}\.qcow2|vm\.{vm}\.[^.]+\.qcow2(?:(?:\.[^.]+)?\.copying)?|console\.{vm}\.log(?:\.\d+)?|seed\.{vm}\.iso|wake\.{vm}\.save)".replace(
        "{vm}", r"[^.]+\.[^.]+"
    )
)
"""`unfinished_copy` adds `.VM.copying`; earlier releases added `.copying` only. virtlogd moves a
long console log to `.log.0`, an older one to `.log.1`, and so on.
"""
_DATA_VOLUME = re.compile(r"vm\.(?P<instance>[^.]+)\.(?P<vm>[^.]+)\.(?P<disk>[^.]+)\.qcow2")
_COPYING = re.compile(rf"(?P<copy>{_DATA_VOLUME.pattern})\.(?P<before>[^.]+)\.copying")
_LABEL = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,14}[a-z0-9])?)?")


@dataclass(frozen=True, slots=True)
class Instance:
    """A vApp (empty label), or the copy of it with that label."""

    vapp: str
    label: str = ""

    def __post_init__(self) -> None:
        if not _LABEL.fullmatch(self.label):
            raise ValueError(f"{self.label!r} cannot be the label of an instance")

    @property
    def name(self) -> str:
        """Its name on a host. No name of a vApp has an underscore, so no copy is called like
        another vApp.
        """
        return f"{self.vapp}_{self.label}" if self.label else self.vapp


def domain_name(instance: str, vm: str) -> str:
    """libvirt's name of a VM: `shop.web-1`."""
    return f"{instance}.{vm}"


def path_of(domain: str) -> str:
    """The VM of a domain as the command line names it: `shop/web-1`."""
    return domain.replace(".", "/", 1)


def domain_uuid(instance: str, vm: str) -> str:
    return uuid_of("vm", instance, vm)


def network_name(instance: str, *path: str) -> str:
    """libvirt's name of a network: `shop.dmz`, or `shop.dmz.inner` for the firewall's side of an
    inspected zone.
    """
    return ".".join((instance, *path))


def network_uuid(network: str) -> str:
    return uuid_of("network", network)


def bridge_name(network: str) -> str:
    """At most 15 characters (IFNAMSIZ)."""
    return device_name("vb", network)


def tap_name(instance: str, vm: str, nic: str) -> str:
    """The host's end of a NIC. At most 15 characters (IFNAMSIZ)."""
    return device_name("vc", instance, vm, nic)


def filter_name(instance: str, *, open_zones: bool = False) -> str:
    """The network filter of NICs in zones that are not open, or that of NICs in open zones."""
    return f"vcloud-{instance}.open" if open_zones else f"vcloud-{instance}"


def filter_uuid(instance: str, *, open_zones: bool = False) -> str:
    """By this UUID vcloud recognises its own filter: somebody else's filter of the same name has
    another one.
    """
    return uuid_of("filter", instance, "open") if open_zones else uuid_of("filter", instance)


def data_volume(instance: str, vm: str, disk: str) -> str:
    return f"vm.{instance}.{vm}.{disk}.qcow2"


def data_disk_of(volume: str) -> tuple[str, str] | None:
    """The domain and the disk that the name of a data volume contains: `shop.db` and `data`. None
    if the name is not that of a data volume.
    """
    found = _DATA_VOLUME.fullmatch(volume)
    return (domain_name(found["instance"], found["vm"]), found["disk"]) if found else None


def unfinished_copy(volume: str, original: str) -> str:
    """The name of an empty volume that marks an unfinished copy. vcloud creates it before it copies
    the data volume `original` to `volume`, and deletes it after it has deleted `original`. While
    this volume and `original` both exist, `volume` may be incomplete.
    """
    return f"{volume}.{original.split('.')[2]}.copying"


def copy_and_original(marker: str) -> tuple[str, str] | None:
    """The two volumes of an `unfinished_copy`. None where the name is not of that form."""
    found = _COPYING.fullmatch(marker)
    if found is None:
        return None
    return found["copy"], data_volume(found["instance"], found["before"], found["disk"])


def root_volume(domain: str) -> str:
    """The volume that holds what a VM has changed on its root disk; the image lies below it."""
    return f"root.{domain}.qcow2"


def console_volume(domain: str) -> str:
    """The volume that libvirt logs a VM's serial console to."""
    return f"console.{domain}.log"


def seed_volume(domain: str) -> str:
    """The seed disk of a VM that cloud-init configures."""
    return f"seed.{domain}.iso"


def is_vm_volume(name: str) -> bool:
    """Whether a volume has a name that vcloud gives to the volumes of VMs. A volume that somebody
    else made, such as a copy or an external snapshot of a disk, has no such name.
    """
    return _VOLUME.fullmatch(name) is not None
