"""What `vcloud up` refuses before it plans a step: no step may touch an object that this release cannot
read, or that vcloud did not make. Pure.
"""

from __future__ import annotations

from vcloud.compile.libvirt.network import vapp_networks
from vcloud.design.model import Design
from vcloud.design.names import domain_name, filter_name
from vcloud.errors import SmallerDiskError, VcloudError
from vcloud.plan.disks import moves, unfinished_copies
from vcloud.plan.state import VappState


def refuse(design: Design, state: VappState, host: str) -> None:
    """Refuses what no plan may do. `host` is its name.

    Raises:
        HostError: a newer release of vcloud made the vApp on the host.
        VcloudError: a name that the vApp needs belongs to somebody else, or somebody has renamed a
            domain of the vApp.
        SmallerDiskError: the file makes a disk smaller.
    """
    state.refuse_newer(design.instance.name, host)
    state.refuse_locked(design.instance.name, host)
    refuse_renamed(design, state)
    refuse_foreign_names(design, state)
    refuse_smaller_disks(design, state)
    refuse_smaller_roots(design, state)
    refuse_taken_disks(design, state)


def refuse_renamed(design: Design, state: VappState) -> None:
    """Refuses a plan if somebody has renamed a domain of the vApp. Otherwise the plan would make
    the VM a second time, with the disks that the renamed domain uses. The same holds for the domain
    of an earlier VM whose disks a VM is to get.
    """
    vapp = design.instance.name
    for vm in design.vms:
        for known in (vm.name, *(vm.was if state.domain(vm.domain) is None else ())):
            if name := state.renamed(vapp, known):
                raise VcloudError(
                    f"the domain of '{known}' is called '{name}' now, and its disks are in use there",
                    f"Give it its name back (virsh domrename {name} {domain_name(vapp, known)}), or remove it (virsh undefine {name}).",
                )


def refuse_foreign_domains(design: Design, state: VappState) -> None:
    """Raises VcloudError if a domain that vcloud did not make has the name of a VM."""
    for vm in design.vms:
        found = state.domain(vm.domain)
        if found is not None and found.uuid != vm.uuid:
            raise VcloudError(
                f"the domain '{vm.domain}' exists already and is not vcloud's",
                f"Rename it (virsh domrename), or give the vApp '{design.instance.name}' another name.",
            )


def refuse_foreign_names(design: Design, state: VappState) -> None:
    """Refuses a plan that needs the name of a domain, network or filter that is not vcloud's.
    Nothing is touched.
    """
    refuse_foreign_domains(design, state)
    for _, network in vapp_networks(design):
        standing = state.network(network.name)
        if standing is not None and standing.uuid != network.uuid:
            raise VcloudError(
                f"the network '{network.name}' exists already and is not vcloud's",
                f"Remove it (virsh net-undefine), or give the vApp '{design.instance.name}' another name.",
            )
    if state.filter_foreign:
        raise VcloudError(
            f"the network filter '{filter_name(design.instance.name)}' exists already and is not vcloud's",
            f"Remove it (virsh nwfilter-undefine), or give the vApp '{design.instance.name}' another name.",
        )


def refuse_smaller_disks(design: Design, state: VappState) -> None:
    """Refuses a disk that the file makes smaller, because the data behind the new end would be
    lost. A disk that moves to a VM of another name keeps its size.

    Somebody may have made it larger than the last run (`virsh blockresize`), and a run that was killed
    may not have grown it yet. The larger size counts.
    """
    have, moved = state.manifest, moves(design, state)
    noted = {
        disk.volume: disk.size for vm in (have.design.vms if have else ()) for disk in vm.disks
    }
    for vm in design.vms:
        for disk in vm.disks:
            volume = moved.get(disk.volume, disk.volume)
            size = max(state.sizes.get(volume, 0), noted.get(volume, 0))
            if disk.size < size:
                raise SmallerDiskError(
                    f"the disk '{disk.name}' of '{vm.name}' has {size >> 20} MiB, and a disk cannot become smaller",
                    f"Write {-(-size >> 20)}M as its size, or give it a new name, which makes an empty one.",
                )


def refuse_smaller_roots(design: Design, state: VappState) -> None:
    """Refuses a root disk that the file makes smaller than the last run made it."""
    have = state.manifest
    for vm in design.vms:
        old = have.vm(vm.name) if have and state.domain(vm.domain) is not None else None
        if old is not None and vm.root < old.root:
            size = f"{old.root >> 20}M"
            raise SmallerDiskError(
                f"the root disk of '{vm.name}' has {size}, and a disk cannot become smaller",
                f"Write root: {size}, or give the VM another name, which makes it anew.",
            )


def refuse_taken_disks(design: Design, state: VappState) -> None:
    """Refuses to give a VM the data disks of an earlier VM if it already has disks of these names,
    because one of the two disks would be lost.
    """
    taken = (state.volumes or frozenset()) - unfinished_copies(state)
    for new, old in moves(design, state).items():
        if new in taken:
            raise VcloudError(
                f"the disk '{old}' is to become '{new}', which exists already; both may hold data, and vcloud cannot tell which one is right",
                f"Without `was` in the file, '{new}' is used, and `vcloud plan` says what becomes of the other. To use '{old}', first keep a copy of the other (`virsh vol-clone --pool vcloud {new} {new}.kept`), then make room (`virsh vol-delete --pool vcloud {new}`).",
            )
