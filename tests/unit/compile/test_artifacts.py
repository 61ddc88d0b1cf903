"""Same input, same bytes: on every machine, in every process."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.rendered import render_file
from tests.vapps import SHOP, TWO_HOMES, design_of_text, shop
from vcloud.compile.artifacts import (
    comparable_domain,
    comparable_filters,
    comparable_networks,
    compile_vapp,
    rendered_files,
)
from vcloud.compile.guest.cloudinit import seed_files
from vcloud.compile.libvirt.host import BootFiles, HostFacts, placeholder_files
from vcloud.design.model import Vm
from vcloud.files import Folder
from vcloud.pipeline import design_of
from vcloud.spec.load import parse_vapp
from vcloud.views.render import LIST, UPLINK

PROGRAM = "import sys; from pathlib import Path; from tests.rendered import render_file; render_file(Path(sys.argv[1]), Path(sys.argv[2]))"


def tree(folder: Path) -> dict[str, str]:
    """Relative path -> digest of every file."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_two_processes_with_different_hash_seeds_write_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "relay.yaml").write_text(TWO_HOMES)
    for file in (SHOP, tmp_path / "relay.yaml"):
        seen = []
        for seed in ("1", "2"):
            out = tmp_path / f"{file.stem}-{seed}"
            environment = {**os.environ, "PYTHONHASHSEED": seed, "TZ": f"UTC+{seed}", "LC_ALL": "C"}
            subprocess.run(
                [sys.executable, "-c", PROGRAM, file, out], env=environment, check=True, timeout=120
            )
            seen.append(tree(out))
        assert seen[0] == seen[1]
        assert len(seen[0]) > 15


def test_where_the_file_lies_does_not_show(tmp_path: Path) -> None:
    for folder in ("one", "two/three"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "vapp.yaml").write_text(TWO_HOMES)
        render_file(tmp_path / folder / "vapp.yaml", tmp_path / folder / "out")
    assert tree(tmp_path / "one" / "out") == tree(tmp_path / "two" / "three" / "out")


def test_rendered_files_are_for_their_owner_only(tmp_path: Path) -> None:
    """Identities hold the contents of files, and so perhaps passwords."""
    render_file(SHOP, tmp_path)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()} == {
        0o600
    }


def test_what_a_reviewer_reads_is_complete(tmp_path: Path) -> None:
    """One file per domain, identity and network, the ruleset, and the IPS's tree; and as many as
    are told.
    """
    count = render_file(SHOP, tmp_path)
    names, design = set(tree(tmp_path)) - {LIST}, shop()
    assert count == len(names)
    assert {f"domains/{vm.domain}.xml" for vm in design.vms} | {
        f"identities/{vm.name}" for vm in design.vms
    } <= names
    assert {
        "networks/shop.dmz.xml",
        "networks/shop.dmz.inner.xml",
        "firewall/firewall.nft",
    } <= names
    assert any(name.startswith("ips/") and name.endswith("suricata.yaml") for name in names)


def test_digests_follow_the_rules_and_nothing_else() -> None:
    one, other = compile_vapp(shop(), UPLINK), compile_vapp(shop(db_password="other"), UPLINK)
    assert (one.firewall_digest, one.ips_digest) == (other.firewall_digest, other.ips_digest)
    assert one.identities["db"] != other.identities["db"]
    moved = compile_vapp(shop(), replace(UPLINK, address4=type(UPLINK.address4)("198.18.0.9/16")))
    assert moved.firewall_digest != one.firewall_digest


def test_without_an_ips_there_are_no_files_for_it() -> None:
    plain = compile_vapp(design_of_text(TWO_HOMES.partition("protection:")[0]), UPLINK)
    assert (plain.ips, plain.ips_digest) == ({}, "")


FACTS = HostFacts("tcg")
DATABASE = next(vm for vm in shop().workloads if vm.disks)
OWN = replace(DATABASE, image=replace(DATABASE.image, recipe="", source="/srv/own.qcow2"))


@pytest.mark.parametrize(
    "other",
    [
        comparable_domain(replace(DATABASE, memory=DATABASE.memory + (1 << 20)), UPLINK, FACTS),
        comparable_domain(replace(DATABASE, disks=()), UPLINK, FACTS),
        comparable_domain(
            replace(DATABASE, nics=(replace(DATABASE.nics[0], mac="52:54:00:00:00:09"),)),
            UPLINK,
            FACTS,
        ),
        comparable_domain(DATABASE, UPLINK, HostFacts("kvm")),
        comparable_domain(DATABASE, UPLINK, FACTS, "loud"),
        comparable_domain(OWN, UPLINK, FACTS),
    ],
    ids=[
        "memory",
        "disks",
        "NICs",
        "accelerator",
        "kernel command line",
        "an image that boots by its own loader",
    ],
)
def test_what_changes_a_machine_shows_in_its_comparable_text(other: str) -> None:
    assert other != comparable_domain(DATABASE, UPLINK, FACTS)


@pytest.mark.parametrize("vm", [DATABASE, OWN], ids=["recipe", "own image"])
def test_comparable_text_is_the_domain_without_marks_and_paths(vm: Vm) -> None:
    """Files, run commands and the digest of the image are compared by other means."""
    text = comparable_domain(vm, UPLINK, FACTS)
    assert comparable_domain(replace(vm, files=(), run=("other",)), UPLINK, FACTS) == text
    assert "/" not in "".join(re.findall(r'file="([^"]*)"', text))
    assert ("<kernel>KERNEL</kernel>" in text, "SEED" in text) == (
        (True, False) if vm.image.recipe else (False, True)
    )


def test_comparable_networks_and_filter_are_what_is_defined() -> None:
    design = shop()
    boots = {vm.name: BootFiles("root", "console", "kernel", "initrd") for vm in design.vms}
    disks = {disk.volume: "disk" for vm in design.vms for disk in vm.disks}
    files = dict(rendered_files(compile_vapp(design, UPLINK), FACTS, boots, disks))
    for name, text in comparable_filters(design).items():
        assert files[f"filters/{name}.xml"].decode() == text
    networks = {
        name.removeprefix("networks/").removesuffix(".xml"): text.decode()
        for name, text in files.items()
        if "networks/" in name
    }
    assert {
        name: re.sub(r"(<vcloud:network xmlns:vcloud=\"[^\"]*\")[^/]*/>", r"\1/>", text)
        for name, text in networks.items()
    } == comparable_networks(design)


def everything(text: str, file: str = "vapp.yaml") -> dict[str, bytes]:
    """Every text that would be loaded or defined for a vApp file of that name, cloud-init's seed
    disks included.
    """
    design = design_of(parse_vapp(text.encode(), Folder(Path()), file))
    boots = {vm.name: placeholder_files(own_kernel=bool(vm.image.recipe)) for vm in design.vms}
    disks = {disk.volume: disk.volume for vm in design.vms for disk in vm.disks}
    seeds = {
        f"seed/{vm.name}/{name}": content
        for vm in design.workloads
        for name, content in seed_files(design, vm, None).items()
    }
    return dict(rendered_files(compile_vapp(design, UPLINK), FACTS, boots, disks)) | seeds


def with_lines_reversed(text: str, start: str) -> str:
    """The text with the order of those lines reversed that begin so."""
    lines = text.splitlines(keepends=True)
    places = [index for index, line in enumerate(lines) if line.startswith(start)]
    assert len(places) > 1
    swapped = dict(zip(places, (lines[index] for index in reversed(places)), strict=True))
    return "".join(swapped.get(index, line) for index, line in enumerate(lines))


RELAY = TWO_HOMES.replace(
    "detect: card-number, leaving: back}]",
    "detect: card-number, leaving: back, except: [fetches, reads]}]",
)


@pytest.mark.parametrize("text", [SHOP.read_text(), RELAY], ids=["shop", "relay"])
def test_no_loaded_text_names_a_line_a_file_or_a_reason(text: str) -> None:
    """A comment line more, another name of the file and another reason reload nothing: each rule
    says only the id of its flow.
    """
    explained = re.sub(r"why: [^}]*", "", text).replace(
        "service:", "why: some other reason, service:"
    )
    assert everything("# one more line\n" + explained, "renamed.yaml") == everything(text)
    assert not [
        name
        for name, content in everything(text, "strange-name.yaml").items()
        if b"strange-name" in content
    ]


@pytest.mark.parametrize(
    ("text", "start"),
    [(SHOP.read_text(), "  - {id:"), (RELAY, "  - {id:"), (SHOP.read_text(), "    - {detect:")],
    ids=["flows of the shop", "flows of the relay", "detectors of the shop"],
)
def test_the_order_of_flows_and_detectors_in_the_file_changes_no_byte(
    text: str, start: str
) -> None:
    assert everything(with_lines_reversed(text, start)) == everything(text)


def test_the_order_of_vms_in_the_file_changes_no_byte() -> None:
    lines = RELAY.splitlines(keepends=True)
    first = next(index for index, line in enumerate(lines) if line.startswith("  gate:"))
    moved = "".join([*lines[:first], *reversed(lines[first : first + 3]), *lines[first + 3 :]])
    assert moved != RELAY
    assert everything(moved) == everything(RELAY)


def test_a_flows_id_and_ports_do_change_the_loaded_text() -> None:
    """The twin of the tests above: the comparison sees a change."""
    for other in (RELAY.replace("id: trials", "id: attempts"), RELAY.replace("udp/53", "udp/54")):
        assert everything(other) != everything(RELAY)
