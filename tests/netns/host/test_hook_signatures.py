"""The hook on a host that trusts operators: whose terms count, and what has something of a vApp's VM
without being one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.netns.host.hooked import (
    ALONE,
    BANK,
    LEASES,
    OPERATORS,
    POLICY,
    SHOP,
    Host,
    domain,
    hooked,
    made,
    starts,
    trust,
    uuid_of,
    with_disk,
)
from vcloud.hosts.operator_key import Operator
from vcloud.hosts.signing import signed
from vcloud.tenancy import Terms

pytestmark = [pytest.mark.netns, pytest.mark.timeout(900)]

POOL = "/run/pool"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with hooked(tmp_path_factory.mktemp("hook")) as host:
        yield host


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Operator:
    return made(tmp_path_factory.mktemp("keys") / "alice")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Operator:
    return made(tmp_path_factory.mktemp("keys") / "mallory")


@pytest.fixture
def host(built: Host) -> Iterator[Host]:
    """Nobody is trusted yet, and so no signature is asked for."""
    built.run("mkdir", "-p", POOL)
    yield built
    built.clear()
    built.run("rm", "-rf", POOL)


# Signatures


def test_only_terms_that_a_trusted_operator_has_signed_count(
    host: Host, operator: Operator, stranger: Operator
) -> None:
    bare = domain("shop.web", SHOP)
    assert starts(host, bare, "shop.web") == ""
    trust(host, operator)
    assert "they are not signed, and this host asks for it" in starts(host, bare, "shop.web")
    assert starts(host, signed(operator, bare), "shop.web") == ""
    said = starts(host, signed(stranger, bare), "shop.web")
    assert f"a key that this host does not trust ({stranger.fingerprint})" in said
    assert "`vcloud up` signs them" in said
    trust(host, operator, stranger)
    assert starts(host, signed(stranger, bare), "shop.web") == ""
    trust(host)
    assert "does not trust" in starts(host, signed(operator, bare), "shop.web")
    assert starts(host, domain("laptop", None), "laptop") == "", "it has no terms"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"owner": "bank"', '"owner": "shop"'),
        ("dedicated", "anyone"),
        ("bank.core", "bank.copy"),
        (uuid_of("bank.core"), uuid_of("bank.copy")),
        ("/pool/core", "/pool/copy"),
    ],
)
def test_a_signature_is_for_one_vm_as_it_is(
    host: Host, operator: Operator, old: str, new: str
) -> None:
    trust(host, operator)
    good = signed(operator, with_disk(domain("bank.core", ALONE), "/pool/core"))
    assert old in good
    said = starts(host, good.replace(old, new), "bank.core")
    assert "their signature is not for this VM as it is now" in said
    assert starts(host, good, "bank.core") == ""


CHANNEL = '<channel type="unix"><source mode="{}"/><target type="virtio" name="org.qemu.guest_agent.0"/></channel>'


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (CHANNEL.format("bind"), CHANNEL.format("connect")),
        ('<serial type="pty"/>', '<serial type="file"><source path="/etc/x"/></serial>'),
        ('<console type="pty"/>', '<console type="file"><source path="/etc/x"/></console>'),
        (
            '<rng><backend model="random">/dev/urandom</backend></rng>',
            '<rng><backend model="egd"/></rng>',
        ),
        (
            '<input type="mouse" bus="ps2"/>',
            '<input type="evdev"><source dev="/dev/input/event0"/></input>',
        ),
    ],
)
def test_a_device_that_leads_out_of_the_vm_takes_the_signature_away(
    host: Host, operator: Operator, good: str, bad: str
) -> None:
    """The twin is a device of the same kind that leads to nobody but libvirt."""
    trust(host, operator)
    xml = signed(operator, with_disk(domain("bank.core", ALONE), "/pool/core"))
    with_good, with_bad = (xml.replace("</devices>", f"{one}</devices>") for one in (good, bad))
    assert starts(host, with_good, "bank.core") == ""
    said = starts(host, with_bad, "bank.core")
    assert "their signature is not for this VM as it is now" in said


@pytest.mark.parametrize("tag", ["commandline", "override", "capabilities"])
def test_what_is_given_to_qemu_past_libvirt_takes_the_signature_away(
    host: Host, operator: Operator, tag: str
) -> None:
    trust(host, operator)
    xml = signed(operator, with_disk(domain("bank.core", ALONE), "/pool/core"))
    assert starts(host, xml, "bank.core") == ""
    given = f'<q:{tag} xmlns:q="http://libvirt.org/schemas/domain/qemu/1.0"/>'
    said = starts(host, xml.replace("</domain>", f"{given}</domain>"), "bank.core")
    assert "their signature is not for this VM as it is now" in said


@pytest.mark.parametrize("text", ["x" * 2000, "-----", "AAAA", "AAAA BBBB", "ÄÄ"])
def test_what_is_no_signature_counts_for_nothing(host: Host, operator: Operator, text: str) -> None:
    trust(host, operator)
    xml = domain("shop.web", SHOP).replace("<t:terms", f'<t:terms signature="{text}"')
    assert "the terms of tenancy of 'shop.web' do not count" in starts(host, xml, "shop.web")


def test_a_list_of_operators_that_others_may_write_to_counts_for_nothing(
    host: Host, operator: Operator
) -> None:
    good = signed(operator, domain("shop.web", SHOP))
    for command in (
        f"chmod 666 {OPERATORS}",
        f"chown 65534 {OPERATORS}",
        f"rm {OPERATORS}; ln -s /nowhere {OPERATORS}",
    ):
        trust(host, operator)
        assert starts(host, good, "shop.web") == ""
        host.run("sh", "-c", command)
        assert OPERATORS in starts(host, good, "shop.web")
        assert starts(host, domain("laptop", None), "laptop") == ""
        host.run("rm", OPERATORS)


def test_terms_that_somebody_gives_a_running_vm_count_only_if_they_are_signed(
    host: Host, operator: Operator
) -> None:
    trust(host, operator)
    runs = signed(operator, domain("bank.core", ALONE))
    assert starts(host, runs, "bank.core") == ""
    host.run("sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $! >/run/libvirt/qemu/bank.core.pid")
    host.has_now("bank.core", runs)
    assert host.call(runs, "bank.core", "started", "begin") == (0, "")
    newcomer = signed(operator, domain("shop.web", SHOP))
    assert "'bank' shares its host" in starts(host, newcomer, "shop.web")

    host.has_now("bank.core", domain("bank.core", BANK))
    said = starts(host, newcomer, "shop.web")
    assert "it is not known who runs on this host" in said
    assert "the terms of tenancy of 'bank.core' do not count" in said
    host.has_now("bank.core", signed(operator, domain("bank.core", BANK)))
    assert starts(host, newcomer, "shop.web") == ""

    # With terms that it had when it started, other devices or no signature are no matter: these
    # terms were signed.
    host.run("sh", "-c", f"rm {LEASES}/{uuid_of('shop.web')}.json")
    host.has_now("bank.core", with_disk(domain("bank.core", ALONE), "/pool/plugged"))
    assert "'bank' shares its host" in starts(host, newcomer, "shop.web")


def test_a_question_tells_whether_the_asker_is_trusted(
    host: Host, operator: Operator, stranger: Operator
) -> None:
    trust(host, operator)
    question = '<q:question xmlns:q="https://vcloud.dev/ns/1/question"/></metadata>'
    xml = domain("question", SHOP).replace("</metadata>", question)
    assert ": yes: " in starts(host, signed(operator, xml), "question")
    assert ": unsigned: the terms of tenancy" in starts(host, signed(stranger, xml), "question")
    host.run("chmod", "666", OPERATORS)
    assert ": unknown: " in starts(host, signed(operator, xml), "question")


# Look-alikes


@pytest.fixture
def shop(host: Host) -> str:
    """A VM of a vApp that the host has run. Returns its XML. Its disk is an overlay."""
    host.run("qemu-img", "create", "-q", "-f", "qcow2", f"{POOL}/base", "1M")
    host.run(
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "qcow2",
        "-b",
        f"{POOL}/base",
        f"{POOL}/shop.web",
    )
    xml = with_disk(domain("shop.web", SHOP), f"{POOL}/shop.web")
    assert starts(host, xml, "shop.web") == ""
    assert host.call(xml, "shop.web", "release", "end") == (0, "")
    return xml


def unmanaged(name: str, path: str, uuid: str = "") -> str:
    xml = with_disk(domain(name, None), path)
    return xml.replace(uuid_of(name), uuid) if uuid else xml


def test_what_has_the_name_or_the_uuid_of_a_vapps_vm_is_that_vm_or_does_not_start(
    host: Host, shop: str
) -> None:
    said = starts(host, unmanaged("shop.web", f"{POOL}/x"), "shop.web")
    assert "'shop.web' has the name of 'shop.web', a VM of vApp 'shop', and is not that VM" in said
    said = starts(host, unmanaged("copy", f"{POOL}/x", uuid_of("shop.web")), "copy")
    assert "'copy' has the UUID of 'shop.web'" in said
    assert starts(host, unmanaged("copy", f"{POOL}/x"), "copy") == ""
    assert starts(host, shop, "shop.web") == ""


@pytest.mark.parametrize(
    "way",
    [
        "true",
        f"ln -s {POOL}/shop.web {POOL}/way",
        f"ln {POOL}/shop.web {POOL}/way",
        f"qemu-img create -q -f qcow2 -F qcow2 -b {POOL}/shop.web {POOL}/way",
        f"cd {POOL}; qemu-img create -q -f qcow2 -F qcow2 -b shop.web way",
        f'qemu-img create -q -f qcow2 -F qcow2 -b \'json:{{"driver":"qcow2","file":{{"driver":"file","filename":"{POOL}/shop.web"}}}}\' {POOL}/way',
        f'qemu-img create -q -f qcow2 -F qcow2 -b \'json:{{"driver":"qcow2","file.filename":"{POOL}/shop.web"}}\' {POOL}/way',
        f"cd {POOL}; mkdir a; qemu-img create -q -f qcow2 -u -F qcow2 -b disk a/img 1M; ln -s a/img way; ln shop.web disk",
        f"qemu-img create -q -f qed -F qcow2 -b {POOL}/shop.web {POOL}/way",
        f"cd {POOL}; mv shop.web s; qemu-img create -q -f qcow2 -o data_file=shop.web,data_file_raw=on way 1M; mv s shop.web",
        f"cd {POOL}; qemu-img create -q -f qcow2 -F qcow2 -b shop.web mid; qemu-img create -q -f qcow2 -F qcow2 -b mid way",
    ],
    ids=[
        "itself",
        "symlink",
        "hard link",
        "overlay",
        "relative",
        "json",
        "json, flat",
        "behind a link",
        "QED",
        "data file",
        "two layers",
    ],
)
@pytest.mark.usefixtures("shop")
def test_what_has_a_disk_of_a_vapps_vm_does_not_start(host: Host, way: str) -> None:
    host.run("sh", "-c", way)
    path = f"{POOL}/shop.web" if way == "true" else f"{POOL}/way"
    said = starts(host, unmanaged("thief", path), "thief")
    assert (
        f"'thief' has a disk of 'shop.web', a VM of vApp 'shop', and is not that VM: {POOL}/shop.web"
        in said
    )
    other = with_disk(domain("bank.core", BANK), path)
    assert "has a disk of 'shop.web'" in starts(host, other, "bank.core")
    own = with_disk(domain("shop.api", SHOP), path)
    assert starts(host, own, "shop.api") == "", "its vApp may do with it what it wants"


WAYS = {
    "volume": '<disk type="volume"><source pool="p" volume="shop.web"/></disk>',
    "backing store": f'<disk type="file"><source file="{POOL}/base"/><backingStore type="file"><source file="{POOL}/shop.web"/></backingStore></disk>',
    "memory": f'<memory model="nvdimm"><source><path>{POOL}/shop.web</path></source></memory>',
}


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize("way", WAYS)
def test_a_disk_of_a_vapps_vm_is_seen_wherever_the_xml_names_it(host: Host, way: str) -> None:
    pool = f"<pool><target><path>{POOL}</path></target></pool>"
    host.run(
        "sh", "-c", "mkdir -p /run/libvirt/storage; cat >/run/libvirt/storage/p.xml", stdin=pool
    )
    xml = domain("thief", None)
    thief = xml.replace("</domain>", f"<devices>{WAYS[way]}</devices></domain>")
    assert "has a disk of 'shop.web'" in starts(host, thief, "thief")
    line = f'<q:commandline xmlns:q="http://libvirt.org/schemas/domain/qemu/1.0"><q:arg value="file={POOL}/shop.web"/></q:commandline>'
    assert "has a disk of 'shop.web'" in starts(
        host, xml.replace("</domain>", f"{line}</domain>"), "thief"
    )


@pytest.mark.usefixtures("shop")
def test_nothing_waits_for_a_file_and_more_layers_than_anybody_needs_are_refused(
    host: Host,
) -> None:
    host.run("mkfifo", f"{POOL}/pipe")
    head = b"QFI\xfb\0\0\0\3" + (20).to_bytes(8, "big") + (4).to_bytes(4, "big") + b"pipe"
    octal = "".join(f"\\{byte:03o}" for byte in head)
    host.run("sh", "-c", f"printf '{octal}' >{POOL}/way")
    for path in (f"{POOL}/pipe", f"{POOL}/way", "/dev/null", POOL):
        assert starts(host, unmanaged("odd", path), "odd") == ""
    layers = (
        "for n in $(seq 60); do qemu-img create -q -f qcow2 -u -F qcow2 -b $((n - 1)) $n 1M; done"
    )
    host.run("sh", "-c", f"cd {POOL}; cp base 0; {layers}")
    assert "more than 50 files" in starts(host, unmanaged("odd", f"{POOL}/60"), "odd")


def test_disks_that_a_vm_got_while_it_ran_are_known_too(host: Host) -> None:
    """A woken VM has its data disks only then."""
    host.run("touch", f"{POOL}/root", f"{POOL}/data", f"{POOL}/cd")
    host.runs("shop.web", SHOP)
    more = with_disk(domain("shop.web", SHOP), f"{POOL}/data")
    cd = f'<disk device="cdrom"><source file="{POOL}/cd"/><readonly/></disk></devices>'
    host.has_now("shop.web", more.replace("</devices>", cd))
    assert "has a disk of 'shop.web'" in starts(host, unmanaged("thief", f"{POOL}/data"), "thief")
    assert starts(host, unmanaged("other", f"{POOL}/cd"), "other") == "", "a CD is everybody's"
    host.clear()
    host.runs("shop.web", SHOP)
    assert host.call(more, "shop.web", "release", "end") == (0, "")
    assert "has a disk of 'shop.web'" in starts(host, unmanaged("thief", f"{POOL}/data"), "thief")


@pytest.mark.usefixtures("shop")
def test_an_image_below_is_everybodys_and_a_copy_is_nobodys(host: Host) -> None:
    """A byte copy is a VM that vcloud does not manage, for which the host has its policy."""
    host.run(
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "qcow2",
        "-b",
        f"{POOL}/base",
        f"{POOL}/mine",
    )
    assert starts(host, unmanaged("mine", f"{POOL}/mine"), "mine") == ""
    host.run("cp", f"{POOL}/shop.web", f"{POOL}/copied")
    assert starts(host, unmanaged("copied", f"{POOL}/copied"), "copied") == ""
    host.run("sh", "-c", f"cat >{POLICY}", stdin='{"unmanaged": "deny"}')
    host.run("sh", "-c", f"rm {LEASES}/*.json")
    host.runs("bank.core", ALONE)
    assert "denies VMs that vcloud does not manage" in starts(
        host, unmanaged("copied", f"{POOL}/copied"), "copied"
    )


@pytest.mark.usefixtures("shop")
def test_a_vapp_that_has_gone_with_its_disks_keeps_nothing_from_anybody(host: Host) -> None:
    host.run("rm", f"{POOL}/shop.web")
    assert starts(host, unmanaged("shop.web", f"{POOL}/x"), "shop.web") == ""
    bank = with_disk(domain("bank.core", BANK), f"{POOL}/base")
    assert starts(host, bank, "bank.core") == ""
    known = json.loads(host.run("cat", f"{LEASES}/known"))
    assert [entry["name"] for entry in known.values()] == ["bank.core"]


@pytest.mark.parametrize(
    "head",
    [
        b"QFI\xfb",
        b"QFI\xfb" + b"\xff" * 16,
        b"QFI\xfb\0\0\0\3" + (20).to_bytes(8, "big") + (1023).to_bytes(4, "big") + b"json:{" * 100,
        b"QFI\xfb\0\0\0\3" + (20).to_bytes(8, "big") + (4).to_bytes(4, "big") + b"loop",
    ],
    ids=["short", "far", "broken json", "loop"],
)
@pytest.mark.usefixtures("shop")
def test_a_disk_of_any_form_is_read_without_harm(host: Host, head: bytes, tmp_path: Path) -> None:
    (tmp_path / "head").write_bytes(head)
    host.run("sh", "-c", f"cp {tmp_path}/head {POOL}/loop")
    assert starts(host, unmanaged("odd", f"{POOL}/loop"), "odd") == ""


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', '{"a": {"name": "x"}}'])
def test_a_list_of_vms_that_cannot_be_read_keeps_vapps_away_and_nobody_else(
    host: Host, text: str
) -> None:
    host.run("sh", "-c", f"mkdir -p {LEASES}; cat >{LEASES}/known", stdin=text)
    assert f"{LEASES}/known" in host.starts("shop.web", SHOP)
    assert host.starts("laptop", None) == ""


def test_terms_with_a_remembered_class_are_signed_as_others(host: Host, operator: Operator) -> None:
    trust(host, operator)
    terms: Terms = replace(SHOP, conflicts=("banks",), remembered=("banks",))
    assert starts(host, signed(operator, domain("shop.web", terms)), "shop.web") == ""
    changed = signed(operator, domain("shop.web", terms)).replace(
        '"remembered": ["banks"]', '"remembered": []'
    )
    assert "not for this VM" in starts(host, changed, "shop.web")
