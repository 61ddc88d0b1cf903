"""Turns the vApp that the user described into the design that will be built. All defaults of the
design are decided here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from vcloud.design.addressing import address_in, mac_of, uuid_of, vm_numbers, zone_prefixes
from vcloud.design.controls import controls_of
from vcloud.design.inspection import inspection_of
from vcloud.design.model import (
    Change,
    Design,
    Disk,
    Flow,
    FlowPath,
    GuestFile,
    ImageRef,
    Network,
    Nic,
    Reader,
    Ready,
    Role,
    Vm,
    Zone,
)
from vcloud.design.names import (
    Instance,
    bridge_name,
    data_volume,
    domain_name,
    domain_uuid,
    network_name,
    network_uuid,
    tap_name,
)
from vcloud.design.origin import Origin, Product, file_line, printable_name
from vcloud.design.readers import naming_lines, readers_of
from vcloud.design.where import isolation_of, placement_of, tenancy_of
from vcloud.documents.document import dotted
from vcloud.profiles.model import NOTHING, Hardening
from vcloud.spec import isolation as demands
from vcloud.spec import model as spec
from vcloud.spec import vm as written_vm
from vcloud.values import (
    guest_name,
    is_outside,
    meeting_zones,
    tiers_at,
    zone_named,
)

PRODUCT = Product()
MIB = 1 << 20
MEMORY = 384 * MIB
"""Bytes of memory of a VM if neither the file nor the image says how much."""
FIREWALL_MEMORY = 256 * MIB
IPS_MEMORY = 512 * MIB


@dataclass(frozen=True, slots=True)
class RecipeFacts:
    """The facts of an image recipe that a design needs."""

    mounts: Mapping[str, str]
    """Data disk name -> mount point."""
    memory: int
    """Bytes of memory of a VM where the file does not say how much."""
    reload: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """systemd unit -> files and folders that it reads; it is reloaded when a file changes there."""
    restart: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The same for units that are restarted."""

    def readers(self) -> tuple[Reader, ...]:
        return tuple(
            Reader(path, change, unit)
            for change, units in ((Change.RELOAD, self.reload), (Change.RESTART, self.restart))
            for unit, paths in sorted(units.items())
            for path in paths
        )


NO_RECIPE = RecipeFacts({}, MEMORY)
"""For a VM that starts from a qcow2 file, which has no recipe."""


def resolve(
    vapp: spec.Vapp,
    recipes: Mapping[str, RecipeFacts],
    appliances: Mapping[Role, str],
    *,
    instance: Instance | None = None,
    hardening: Hardening = NOTHING,
) -> Design:
    """The design of a valid vApp.

    Args:
        vapp: the vApp as its file describes it.
        recipes: absolute folder of an image recipe -> its facts, for every recipe that a VM names.
        appliances: role of an appliance -> absolute folder of its image recipe.
        instance: the copy of the vApp that this design is for; None: the vApp itself.
        hardening: what its profiles add.
    """
    instance = instance or Instance(vapp.name)
    return _Resolver(vapp, recipes, appliances, instance, hardening).design()


class _Resolver:
    """Builds one design. It holds the values that all parts of the design are made from."""

    def __init__(
        self,
        vapp: spec.Vapp,
        recipes: Mapping[str, RecipeFacts],
        appliances: Mapping[Role, str],
        instance: Instance,
        hardening: Hardening,
    ) -> None:
        self.vapp = vapp
        self.hardening = hardening
        self.instance = instance
        self.on_host = instance.name
        self.recipes = recipes
        self.appliances = appliances
        self.inspection = inspection_of(vapp, hardening)
        self.prefixes = zone_prefixes(vapp.name, vapp.zones)
        self.members = {tier: written.names(tier) for tier, written in vapp.vms.items()}
        self.claimed = frozenset(written.was for written in vapp.vms.values() if written.was)
        self.numbers = {
            zone: vm_numbers(vapp.name, zone, self._names_in(zone)) for zone in vapp.zones
        }

    def design(self) -> Design:
        vapp = self.vapp
        zones = tuple(self._zone(name) for name in vapp.zones)
        workloads = tuple(
            self._workload(tier, name) for tier, names in self.members.items() for name in names
        )
        return Design(
            vapp=vapp.name,
            owner=vapp.owner,
            labels=tuple(sorted(vapp.labels.items())),
            file=printable_name(vapp.file),
            authorized_keys=tuple(vapp.authorized_keys),
            zones=zones,
            workloads=workloads,
            firewall=self._firewall(zones),
            ips=self._ips(zones) if self.inspection.zones else None,
            flows=tuple(_Flows(vapp, workloads).flows()),
            inspection=self.inspection,
            label=self.instance.label,
            tenancy=tenancy_of(vapp),
            placement=placement_of(vapp, self.hardening),
            controls=controls_of(self.hardening),
            parameters=vapp.parameter_values,
        )

    def _names_in(self, zone: str) -> list[str]:
        return [
            name
            for tier, names in self.members.items()
            for name in names
            if zone in self.vapp.vms[tier].zones
        ]

    def _zone(self, name: str) -> Zone:
        vapp, written = self.vapp.name, self.vapp.zones[name]
        prefix4, prefix6 = self.prefixes[name]
        inspected = name in self.inspection.zones
        network = self._network(name)
        # Without inspection there is no IPS between the two sides, so both sides are one network.
        inner = self._network(name, "inner") if inspected else network
        address4, address6 = address_in(prefix4, prefix6, 1)
        gateway = Nic(
            zone=name,
            network=inner.name,
            mac=mac_of(vapp, Role.FIREWALL, name),
            ifname=guest_name("z-", name),
            tap=tap_name(self.on_host, Role.FIREWALL, name),
            address4=address4,
            address6=address6,
            isolated=False,
            plain_offloads=inspected,
        )
        return Zone(
            name,
            written.open,
            inspected,
            tuple(written.holds),
            prefix4,
            prefix6,
            network,
            inner,
            gateway,
            written.denied,
        )

    def _network(self, *path: str) -> Network:
        name = network_name(self.on_host, *path)
        return Network(name, network_uuid(name), bridge_name(name))

    def _workload(self, tier: str, name: str) -> Vm:
        written = self.vapp.vms[tier]
        facts = self.recipes[written.image_folder] if written.image_folder else NO_RECIPE
        nics = tuple(self._nic(name, zone, index) for index, zone in enumerate(written.zones))
        return self._vm(
            name,
            tier,
            Role.WORKLOAD,
            _image(written),
            written.memory or facts.memory,
            written.cpus,
            nics,
            disks=_parents_first(tuple(self._disks(name, written, facts.mounts))),
            files=tuple(self._files(tier, facts.readers())),
            run=tuple(written.run),
            after=tuple(peer for other in written.after for peer in self.members[other]),
            ready=_ready(written),
            origin=_line_of(self.vapp, written.line),
            was=written.earlier_names(tier, name, self.claimed),
            readers=facts.readers(),
            isolation=written.isolation,
            root=written.root or 0,
        )

    def _nic(self, vm: str, zone: str, index: int) -> Nic:
        address4, address6 = address_in(*self.prefixes[zone], self.numbers[zone][vm])
        return Nic(
            zone=zone,
            network=network_name(self.on_host, zone),
            mac=mac_of(self.vapp.name, vm, zone),
            ifname=f"eth{index}",
            tap=tap_name(self.on_host, vm, zone),
            address4=address4,
            address6=address6,
            isolated=not self.vapp.zones[zone].open,
            plain_offloads=zone in self.inspection.zones,
        )

    def _disks(self, vm: str, written: written_vm.Vm, mounts: Mapping[str, str]) -> Iterator[Disk]:
        for index, (name, disk) in enumerate(written.disks.items()):
            yield Disk(
                name=name,
                size=disk.size,
                target=f"vd{chr(ord('b') + index)}",
                volume=data_volume(self.on_host, vm, name),
                mount=disk.mount or mounts.get(name, ""),
            )

    def _files(self, tier: str, readers: Sequence[Reader]) -> Iterator[GuestFile]:
        written = self.vapp.vms[tier]
        for path, file in written.files.items():
            by_default = (
                readers_of(readers, path) if file.reload is None and file.restart is None else ()
            )
            reload, restart = (
                tuple(reader.unit for reader in by_default if reader.change is change)
                for change in (Change.RELOAD, Change.RESTART)
            )
            yield GuestFile(
                path,
                file.content_bytes,
                file.mode,
                file.owner,
                reload=file.reload or reload,
                restart=file.restart or restart,
                run=file.run or "",
                named_by=naming_lines(path, written.run),
                secret=self.vapp.holds_secret(dotted(f"vms.{tier}.files", path)),
            )

    def _firewall(self, zones: Sequence[Zone]) -> Vm:
        # Two instances may share an uplink, so on this NIC even the MAC addresses must differ.
        uplink = self._appliance_nic(
            Role.FIREWALL, "uplink", "", "uplink", mac_owner=self.on_host, plain=False
        )
        return self._appliance(
            Role.FIREWALL, FIREWALL_MEMORY, (*(zone.gateway for zone in zones), uplink)
        )

    def _ips(self, zones: Sequence[Zone]) -> Vm:
        nics = []
        for zone in zones:
            if zone.inspected:
                for network, ifname in (
                    (zone.network, guest_name("v-", zone.name)),
                    (zone.inner, guest_name("f-", zone.name)),
                ):
                    nics.append(
                        self._appliance_nic(
                            Role.IPS,
                            zone.name,
                            network.name,
                            ifname,
                            mac_owner=self.vapp.name,
                            plain=True,
                        )
                    )
        return self._appliance(Role.IPS, IPS_MEMORY, tuple(nics))

    def _appliance_nic(
        self, role: Role, zone: str, network: str, ifname: str, *, mac_owner: str, plain: bool
    ) -> Nic:
        """A NIC without an address. Its MAC address is a hash of `mac_owner`, the name of the vApp
        or of the instance.
        """
        return Nic(
            zone=zone,
            network=network,
            mac=mac_of(mac_owner, role, ifname),
            ifname=ifname,
            tap=tap_name(self.on_host, role, ifname),
            address4=None,
            address6=None,
            isolated=False,
            plain_offloads=plain,
        )

    def _appliance(self, role: Role, memory: int, nics: tuple[Nic, ...]) -> Vm:
        image = ImageRef(role.value, self.appliances[role], "", "", ())
        return self._vm(role.value, role.value, role, image, memory, 1, nics)

    def _vm(
        self,
        name: str,
        tier: str,
        role: Role,
        image: ImageRef,
        memory: int,
        cpus: int,
        nics: tuple[Nic, ...],
        disks: tuple[Disk, ...] = (),
        files: tuple[GuestFile, ...] = (),
        run: tuple[str, ...] = (),
        after: tuple[str, ...] = (),
        ready: Ready | None = None,
        origin: Origin = PRODUCT,
        was: tuple[str, ...] = (),
        readers: tuple[Reader, ...] = (),
        isolation: demands.VmIsolation | None = None,
        root: int = 0,
    ) -> Vm:
        return Vm(
            name=name,
            tier=tier,
            role=role,
            uuid=domain_uuid(self.on_host, name),
            domain=domain_name(self.on_host, name),
            # The machine ID comes from the vApp and not from the instance, because a copy must be
            # the same machine inside (`names`).
            machine_id=uuid_of("machine", self.vapp.name, name).replace("-", ""),
            image=image,
            memory=memory,
            cpus=cpus,
            nics=nics,
            disks=disks,
            files=files,
            run=run,
            after=after,
            ready=ready or Ready(0, "", 120),
            origin=origin,
            was=was,
            readers=readers,
            isolation=isolation_of(self.vapp, isolation or demands.VmIsolation(), tier),
            root=root,
        )


def _line_of(vapp: spec.Vapp, line: int) -> Origin:
    return file_line(vapp.file, line)


def _parents_first(disks: tuple[Disk, ...]) -> tuple[Disk, ...]:
    """The disks in the order of the file, but a disk that is mounted inside another one comes after
    it.
    """

    def around(disk: Disk) -> int:
        # The number of disks whose mount points contain this one. `sorted` keeps the order of the
        # file among equals.
        return sum(
            bool(other.mount) and disk.mount.startswith(f"{other.mount}/") for other in disks
        )

    return tuple(sorted(disks, key=around))


def _image(written: written_vm.Vm) -> ImageRef:
    return ImageRef(
        written.image_name,
        written.image_folder,
        written.image_source,
        written.image_sha256,
        tuple(written.packages),
    )


def _ready(written: written_vm.Vm) -> Ready:
    return Ready(written.ready.tcp or 0, written.ready.command, written.ready.timeout)


class _Flows:
    """Resolves the ends of flows to NICs."""

    def __init__(self, vapp: spec.Vapp, workloads: Sequence[Vm]) -> None:
        self.vapp = vapp
        self.workloads = workloads
        self.zones = {tier: written.zones for tier, written in vapp.vms.items()}

    def flows(self) -> Iterator[Flow]:
        for written in self.vapp.flows:
            yield Flow(
                id=written.id,
                source=written.source,
                target=written.target,
                services=tuple(written.services),
                publish=written.published,
                apps=written.apps,
                paths=tuple(self._paths(written.source, written.target)),
                carries=tuple(written.carries),
                why=written.why,
                origin=_line_of(self.vapp, written.line),
            )

    def _paths(self, source: str, target: str) -> Iterator[FlowPath]:
        if is_outside(source):
            yield from (FlowPath(None, self._nic_of(vm, target)) for vm in self._end(target))
        elif is_outside(target):
            yield from (FlowPath(vm.nics[0], None) for vm in self._end(source))
        else:
            targets = self._end(target)
            yield from (
                self._path(one, other, target)
                for one in self._end(source)
                for other in targets
                if one is not other
            )

    def _end(self, name: str) -> tuple[Vm, ...]:
        """The VMs that the end of a flow stands for."""
        tiers = tiers_at(name, self.zones)
        return tuple(vm for vm in self.workloads if vm.tier in tiers)

    def _path(self, one: Vm, other: Vm, target: str) -> FlowPath:
        """The two NICs over which `one` reaches `other`."""
        here, there = meeting_zones(
            _zones_of(one), _zones_of(other), zone_named(target, self.vapp.vms)
        )
        return FlowPath(_nic_in(one, here), _nic_in(other, there))

    def _nic_of(self, vm: Vm, target: str) -> Nic:
        return _nic_in(vm, meeting_zones((), _zones_of(vm), zone_named(target, self.vapp.vms))[1])


def _zones_of(vm: Vm) -> list[str]:
    return [nic.zone for nic in vm.nics]


def _nic_in(vm: Vm, zone: str) -> Nic:
    return next(nic for nic in vm.nics if nic.zone == zone)
