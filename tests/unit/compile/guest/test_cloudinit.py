"""The seed of a user's own image: what vcloud tells its own images, in cloud-init's words."""

from __future__ import annotations

import base64
import io
import subprocess
from dataclasses import replace
from typing import Any

import pycdlib
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.design_builder import build_design, vm_named
from vcloud.compile.guest.cloudinit import FINISH, network_config, seed_files, seed_iso, user_data
from vcloud.compile.guest.identity import hosts_file
from vcloud.design.model import Design, Disk, GuestFile, Ready, Vm

DESIGN = replace(
    build_design("dmz app lab:open", {"web": "dmz", "own": "app lab"}),
    authorized_keys=("ssh-ed25519 AAAA me",),
)
OWN = vm_named(DESIGN, "own")
KEY = (b"-----BEGIN OPENSSH PRIVATE KEY-----\nsecret\n", "ssh-ed25519 BBBB")


def cloud_config(vm: Vm, key: tuple[bytes, str] | None = None, design: Design = DESIGN) -> Any:
    text = user_data(design, vm, key)
    assert text.startswith("#cloud-config\n")
    return yaml.safe_load(text)


def files_of(vm: Vm) -> dict[str, tuple[str, str, bytes]]:
    written = cloud_config(vm)["write_files"]
    assert all(file["encoding"] == "b64" for file in written)
    return {
        file["path"]: (file["permissions"], file["owner"], base64.b64decode(file["content"]))
        for file in written
    }


def instance(design: Design, vm: Vm, key: tuple[bytes, str] | None = None) -> str:
    return str(yaml.safe_load(seed_files(design, vm, key)["meta-data"])["instance-id"])


def test_the_vm_has_its_name_and_lets_in_whom_the_file_names() -> None:
    config = cloud_config(OWN)
    assert (config["hostname"], config["ssh_authorized_keys"]) == ("own", ["ssh-ed25519 AAAA me"])
    assert not {"fqdn", "runcmd", "packages"} & set(config)
    assert "ssh_authorized_keys" not in cloud_config(
        OWN, design=replace(DESIGN, authorized_keys=())
    )


def test_only_the_first_boot_brings_the_host_key() -> None:
    first, later = cloud_config(OWN, KEY), cloud_config(OWN)
    assert first["ssh_deletekeys"]
    assert first["ssh_keys"] == {"ed25519_private": KEY[0].decode(), "ed25519_public": KEY[1]}
    assert not later["ssh_deletekeys"]
    assert "ssh_keys" not in later
    assert b"secret" not in b"".join(seed_files(DESIGN, OWN, None).values())


def test_cloud_init_applies_again_what_has_changed_and_nothing_else() -> None:
    """By the instance id, which the key has no part in: a first boot's content is not new to the
    second.
    """
    assert instance(DESIGN, OWN, KEY) == instance(DESIGN, OWN)
    grown = build_design("dmz app lab:open", {"web": "dmz x2", "own": "app lab"})
    assert instance(grown, vm_named(grown, "own")) != instance(DESIGN, OWN)
    assert instance(
        DESIGN, replace(OWN, files=(GuestFile("/etc/motd", b"x", 0o644, "root:root"),))
    ) != instance(DESIGN, OWN)


def test_files_arrive_byte_for_byte() -> None:
    content = bytes(range(256))
    files = files_of(replace(OWN, files=(GuestFile("/srv/a b", content, 0o640, "root:adm"),)))
    assert files["/srv/a b"] == ("0640", "root:adm", content)
    assert files["/etc/hosts"] == ("0644", "root:root", hosts_file(DESIGN, OWN))


def test_run_lines_and_readiness_are_files_that_the_last_script_finds() -> None:
    files = files_of(
        replace(OWN, run=("echo 'a: b'", "false"), ready=Ready(8080, "test -e /x", 90))
    )
    assert files["/var/lib/vcloud/run/0"][2] == b"echo 'a: b'\n"
    assert files["/var/lib/vcloud/run/1"][2] == b"false\n"
    assert files["/var/lib/vcloud/waits"][2] == b"1F90 90\n"
    assert files["/var/lib/vcloud/ready"][2] == b"test -e /x\n"
    assert files[FINISH][0] == "0700"
    subprocess.run(["sh", "-n"], input=files[FINISH][2], check=True)


def test_data_disks_are_known_by_their_serial_and_never_made_anew() -> None:
    disks = (
        Disk("data", 1 << 30, "vdb", "vm.shop.own.data.qcow2", "/srv"),
        Disk("raw", 1 << 30, "vdc", "vm.shop.own.raw.qcow2", ""),
    )
    config = cloud_config(replace(OWN, disks=disks))
    assert config["fs_setup"] == [
        {
            "device": "/dev/disk/by-id/virtio-data",
            "filesystem": "ext4",
            "partition": "any",
            "overwrite": False,
        }
    ]
    assert [mount[:2] for mount in config["mounts"]] == [["/dev/disk/by-id/virtio-data", "/srv"]]
    assert "mounts" not in cloud_config(OWN)


def test_in_a_zone_the_firewall_is_the_only_neighbour_and_in_an_open_one_the_prefix_is() -> None:
    network = yaml.safe_load(network_config(DESIGN, OWN))
    assert network["version"] == 2
    closed, plain = (network["ethernets"][nic.ifname] for nic in OWN.nics)
    app, lab = (DESIGN.zone(nic.zone) for nic in OWN.nics)
    assert closed["match"] == {"macaddress": OWN.nics[0].mac}
    assert closed["addresses"] == [f"{OWN.nics[0].address4}/32", f"{OWN.nics[0].address6}/128"]
    assert closed["routes"] == [
        {"to": anywhere, "via": str(gateway), "on-link": True, **table}
        for anywhere, gateway in (
            ("0.0.0.0/0", app.gateway.address4),
            ("::/0", app.gateway.address6),
        )
        for table in ({}, {"table": 100})
    ]
    assert plain["addresses"] == [
        f"{OWN.nics[1].address4}/{lab.prefix4.prefixlen}",
        f"{OWN.nics[1].address6}/{lab.prefix6.prefixlen}",
    ]
    assert plain["routing-policy"] == [
        {"from": f"{OWN.nics[1].address4}/32", "table": 101},
        {"from": f"{OWN.nics[1].address6}/128", "table": 101},
    ]
    assert all(route["table"] == 101 for route in plain["routes"])
    assert {"to": str(lab.prefix4), "scope": "link", "table": 101} in plain["routes"]
    assert [closed[key] for key in ("dhcp4", "dhcp6", "accept-ra")] == [False] * 3


def test_a_second_nic_in_a_closed_zone_reaches_its_prefix_by_itself() -> None:
    design = build_design("app lab", {"own": "app lab"})
    second = yaml.safe_load(network_config(design, vm_named(design, "own")))["ethernets"]["eth1"]
    nic, zone = vm_named(design, "own").nics[1], design.zone("lab")
    assert {
        "to": str(zone.prefix4),
        "via": str(zone.gateway.address4),
        "on-link": True,
        "from": str(nic.address4),
    } in second["routes"]


@given(st.text(st.characters(codec="utf-8")), st.binary())
def test_whatever_a_value_holds_it_stays_a_value(line: str, content: bytes) -> None:
    vm = replace(OWN, run=(line,), files=(GuestFile("/x", content, 0o600, "root:root"),))
    files = files_of(vm)
    assert (files["/var/lib/vcloud/run/0"][2], files["/x"][2]) == (f"{line}\n".encode(), content)


def test_nocloud_finds_the_files_by_their_names_in_the_seed() -> None:
    files = seed_files(DESIGN, OWN, KEY)
    disc = pycdlib.PyCdlib()
    disc.open_fp(io.BytesIO(seed_iso(files)))
    assert disc.pvd.volume_identifier.decode().strip() == "cidata"
    for paths in ("rr_path", "joliet_path"):
        for name, content in files.items():
            found = io.BytesIO()
            disc.get_file_from_iso_fp(found, **{paths: f"/{name}"})
            assert found.getvalue() == content
