"""The seed disk of a VM with an image of the user's own. cloud-init's NoCloud data source reads it
and configures the VM.

The seed disk holds the same as `vcloud.compile.guest.identity` for an image that vcloud builds. At
later boots it holds no private host key. Its instance ID changes only when its content changes, so
cloud-init does not repeat what it has done.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterator, Mapping

import pycdlib
import yaml

from vcloud.compile.environment import render
from vcloud.compile.guest.identity import (
    FIRST_TABLE,
    WORKLOAD_SYSCTLS,
    addresses_of,
    hosts_file,
    length_of,
)
from vcloud.design.model import Design, Disk, Nic, Vm, Zone
from vcloud.design.names import domain_uuid

FOLDER = "/var/lib/vcloud"
FINISH = "/var/lib/cloud/scripts/per-boot/vcloud"
"""A script that cloud-init runs last, at every boot."""
VOLUME = "cidata"
"""The name of the file system by which NoCloud finds the seed disk."""


def seed_files(
    design: Design, vm: Vm, host_key: tuple[bytes, str] | None, salt: str = ""
) -> dict[str, bytes]:
    """The files of the seed disk. `host_key` is the private and the public half of a key for the
    first boot; with None the VM keeps its key. `salt` is that of the vApp's manifest.
    """
    # The host key is not part of the digest. It is on the seed disk at the first boot only, and
    # cloud-init takes another digest for a new machine.
    network, lasting = network_config(design, vm), user_data(design, vm, None)
    # Every user of the guest may read the digest, so nobody may be able to guess a secret by it.
    salted = salt if any(file.secret for file in vm.files) else ""
    content = hashlib.sha256((salted + lasting + network).encode()).hexdigest()
    texts = {
        "meta-data": meta_data(design, vm, content),
        "user-data": user_data(design, vm, host_key) if host_key else lasting,
        "network-config": network,
    }
    return {name: text.encode() for name, text in texts.items()}


def meta_data(design: Design, vm: Vm, content: str) -> str:
    """`content` is a digest of what cloud-init has to apply: cloud-init applies it again when the
    digest changes.

    The rest of the instance ID comes from the vApp's name, so that cloud-init does not take a copy
    of the VM's disk in another instance for a new machine.
    """
    return _yaml(
        {
            "instance-id": f"{domain_uuid(design.vapp, vm.name)}-{content[:12]}",
            "local-hostname": vm.name,
        }
    )


def user_data(design: Design, vm: Vm, host_key: tuple[bytes, str] | None) -> str:
    keys = list(design.authorized_keys)
    config = {
        "hostname": vm.name,
        "prefer_fqdn_over_hostname": False,
        "preserve_hostname": False,
        # vcloud writes /etc/hosts itself (`_files`).
        "manage_etc_hosts": False,
        "users": ["default"],
        # `vcloud ssh` logs in as root.
        "disable_root": False,
        "ssh_pwauth": False,
        **({"ssh_authorized_keys": keys} if keys else {}),
        **_host_key(host_key),
        # cloud-init runs these commands at every boot: values in /proc/sys are lost when the VM
        # ends.
        "bootcmd": [
            ["sh", "-c", f"echo {value} > /proc/sys/{key}"] for key, value in WORKLOAD_SYSCTLS
        ],
        # At every boot, so that a root disk that has become larger is filled.
        **(
            {"growpart": {"mode": "auto", "devices": ["/"]}, "resize_rootfs": True}
            if vm.root
            else {}
        ),
        **_disks([disk for disk in vm.disks if disk.mount]),
        "write_files": list(_files(design, vm)),
    }
    return "#cloud-config\n" + _yaml(config)


def network_config(design: Design, vm: Vm) -> str:
    """In version 2 of cloud-init's format, which is netplan's. NICs are found by their MAC address.

    Unless the zone is open, the firewall is the only neighbour of the VM.
    """
    nics = {
        nic.ifname: _nic(design.zone(nic.zone), nic, index, alone=len(vm.nics) == 1)
        for index, nic in enumerate(vm.nics)
    }
    return _yaml({"version": 2, "ethernets": nics})


def seed_iso(files: Mapping[str, bytes]) -> bytes:
    """The files as an ISO 9660 file system, which is read-only."""
    disc, image = pycdlib.PyCdlib(), io.BytesIO()
    disc.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=VOLUME)
    for number, (name, content) in enumerate(sorted(files.items())):
        disc.add_fp(
            io.BytesIO(content),
            len(content),
            # ISO 9660 itself allows only short names. Guests see the names of Rock Ridge or Joliet.
            f"/FILE{number}.;1",
            rr_name=name,
            joliet_path=f"/{name}",
        )
    disc.write_fp(image)
    disc.close()
    return image.getvalue()


def _host_key(host_key: tuple[bytes, str] | None) -> dict[str, object]:
    """Gives the VM no other host key than the one that vcloud made, because vcloud pins this key."""
    if host_key is None:
        return {"ssh_deletekeys": False, "ssh_genkeytypes": ["ed25519"]}
    private, public = host_key
    return {
        "ssh_deletekeys": True,
        "ssh_keys": {"ed25519_private": private.decode(), "ed25519_public": public},
    }


def _disks(disks: list[Disk]) -> dict[str, object]:
    """With `partition: any`, cloud-init makes a file system only on a disk that is completely
    empty.
    """
    if not disks:
        return {}
    return {
        "fs_setup": [
            {"device": _device(disk), "filesystem": "ext4", "partition": "any", "overwrite": False}
            for disk in disks
        ],
        "mounts": [
            [_device(disk), disk.mount, "ext4", "defaults,nofail", "0", "2"] for disk in disks
        ],
    }


def _device(disk: Disk) -> str:
    return f"/dev/disk/by-id/virtio-{disk.name}"


def _files(design: Design, vm: Vm) -> Iterator[dict[str, object]]:
    """vcloud's own files come first, because cloud-init stops at a file whose owner does not exist
    in the image.
    """
    yield _file("/etc/hosts", 0o644, hosts_file(design, vm))
    yield _file(FINISH, 0o700, render("cloudinit/finish.sh").encode())
    # The port in four hexadecimal digits, as the kernel prints it in /proc/net/tcp.
    yield _file(f"{FOLDER}/waits", 0o600, f"{vm.ready.tcp:04X} {vm.ready.timeout}\n".encode())
    yield _file(f"{FOLDER}/ready", 0o600, f"{vm.ready.command}\n".encode())
    yield _file(
        f"{FOLDER}/keys", 0o600, "".join(f"{key}\n" for key in design.authorized_keys).encode()
    )
    yield _file(f"{FOLDER}/files", 0o600, "".join(f"{file.path}\n" for file in vm.files).encode())
    yield from _follow_files(vm)
    for number, line in enumerate(vm.run):
        yield _file(f"{FOLDER}/run/{number}", 0o600, f"{line}\n".encode())
    yield from (_file(file.path, file.mode, file.content, file.owner) for file in vm.files)


def _follow_files(vm: Vm) -> Iterator[dict[str, object]]:
    """The `run` commands of files, and the list of units whose failure ends the wait for `ready`. A
    VM without them gets none of these files.
    """
    followed = [file for file in vm.files if file.run]
    if followed:
        keys = {file.path: hashlib.sha256(file.path.encode()).hexdigest()[:16] for file in followed}
        index = "".join(f"{keys[file.path]} {file.path}\n" for file in followed)
        yield _file(f"{FOLDER}/follows", 0o600, index.encode())
        for file in followed:
            yield _file(f"{FOLDER}/follow/{keys[file.path]}", 0o600, f"{file.run}\n".encode())
    units = dict.fromkeys(unit for file in vm.files for unit in (*file.reload, *file.restart))
    if units:
        yield _file(f"{FOLDER}/units", 0o600, "".join(f"{unit}\n" for unit in units).encode())


def _file(path: str, mode: int, content: bytes, owner: str = "root:root") -> dict[str, object]:
    encoded = base64.b64encode(content).decode()
    return {
        "path": path,
        "permissions": f"{mode:04o}",
        "owner": owner,
        "encoding": "b64",
        "content": encoded,
    }


def _nic(zone: Zone, nic: Nic, index: int, *, alone: bool) -> dict[str, object]:
    """The same routes as in `vcloud.compile.guest.identity`: the first NIC has the default route,
    and packets leave by the NIC of their source.
    """
    addresses, routes, rules = [], [], []
    table = FIRST_TABLE + index
    for address, gateway, prefix, anywhere in addresses_of(zone, nic):
        addresses.append(f"{address}/{length_of(zone, address)}")
        there: dict[str, object] = {"via": str(gateway), "on-link": True}
        if index == 0:
            routes.append({"to": anywhere, **there})
        elif not zone.open:
            routes.append({"to": prefix, **there, "from": str(address)})
        if alone:
            continue
        if zone.open:
            routes.append({"to": prefix, "scope": "link", "table": table})
        routes.append({"to": anywhere, **there, "table": table})
        rules.append({"from": f"{address}/{address.max_prefixlen}", "table": table})
    return {
        "match": {"macaddress": nic.mac},
        "set-name": nic.ifname,
        "dhcp4": False,
        "dhcp6": False,
        "accept-ra": False,
        "addresses": addresses,
        "routes": routes,
        **({"routing-policy": rules} if rules else {}),
    }


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1000)
