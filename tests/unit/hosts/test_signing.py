"""The operator's key and its signatures, beside OpenSSH itself."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from vcloud.compile.libvirt.domain import render_question
from vcloud.enforce.install import OPERATOR_LINE
from vcloud.errors import UsageError
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.operator_key import (
    VARIABLE,
    Operator,
    key_file,
    load_operator,
    signature_of,
)
from vcloud.hosts.signing import TERMS, generation_in, signed, signer_of
from vcloud.hosts.terms import with_terms
from vcloud.lab.namespaces import wait_for
from vcloud.signature import (
    PRINCIPAL,
    QUESTION,
    SIGNATURE,
    SSH_NAMESPACE,
    armored,
    generation_of,
    statement,
)
from vcloud.tenancy import Terms, terms_of

XML = """\
<domain type="qemu"><name>shop.db</name><uuid>7d0f5a0e-1f55-4a39-93b0-5f4d3f6a0a11</uuid>
<os><kernel>/pool/kernel</kernel><cmdline>quiet</cmdline></os><metadata><tenancy:terms xmlns:tenancy="https://vcloud.dev/ns/1/tenancy">{"vapp": "shop"}</tenancy:terms></metadata>
<devices>
  <disk type="file" device="disk"><driver name="qemu" type="qcow2"/><source file="/pool/shop.db.qcow2"/><target dev="vda"/></disk>
  <disk type="file" device="disk"><source file="/pool/shop.db.data"/><target dev="vdb"/></disk>
  <interface type="network"><mac address="52:54:00:00:00:01"/><source network="shop.cde"/><filterref filter="shop"/><port isolated="yes"/><link state="down"/></interface>
</devices></domain>
"""


def make_key(path: Path, *options: str) -> Path:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "someone", "-f", path, *options],
        check=True,
    )
    return path


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_key(tmp_path_factory.mktemp("keys") / "operator")


@pytest.fixture(scope="module")
def operator(key: Path) -> Operator:
    return load_operator(key)


def root_of(xml: str) -> ElementTree.Element:
    return ElementTree.fromstring(xml)  # noqa: S314 - this file's own


def plainly_signed(operator: Operator) -> str:
    """The signed domain, with empty elements as they are written above."""
    return signed(operator, XML).replace(" />", "/>")


def verified(public: Path, signature: str, message: bytes, namespace: str, folder: Path) -> bool:
    """Whether OpenSSH says that the signature is good."""
    trusted, file = folder / "trusted", folder / "signature"
    trusted.write_text(OPERATOR_LINE.format(public.read_text().strip()))
    file.write_text(armored(signature))
    done = subprocess.run(
        ["ssh-keygen", "-Y", "verify", "-f", trusted, "-I", PRINCIPAL, "-n", namespace, "-s", file],
        input=message,
        capture_output=True,
    )
    return done.returncode == 0


def test_openssh_verifies_what_an_operator_signs(
    key: Path, operator: Operator, tmp_path: Path
) -> None:
    message, public = b"a message", key.with_suffix(".pub")
    signature = signature_of(operator, message)
    assert verified(public, signature, message, SSH_NAMESPACE, tmp_path)
    assert not verified(public, signature, b"another message", SSH_NAMESPACE, tmp_path)
    assert not verified(public, signature, message, "file", tmp_path)
    other = make_key(tmp_path / "other").with_suffix(".pub")
    assert not verified(other, signature, message, SSH_NAMESPACE, tmp_path)
    assert signature_of(operator, message) == signature, "the same each time"


def test_the_fingerprint_is_the_one_of_openssh(key: Path, operator: Operator) -> None:
    said = subprocess.check_output(["ssh-keygen", "-l", "-f", key], text=True)
    assert said.split()[1] == operator.fingerprint
    assert key.with_suffix(".pub").read_text().startswith(operator.line)


def test_a_signed_domain_tells_its_signer_and_is_otherwise_unchanged(operator: Operator) -> None:
    found = root_of(signed(operator, XML))
    assert signer_of(found) == operator.fingerprint
    terms = found.find(f"metadata/{TERMS}")
    assert terms is not None
    del terms.attrib[SIGNATURE]
    assert ElementTree.canonicalize(ElementTree.tostring(found)) == ElementTree.canonicalize(XML)
    assert signer_of(found) == ""


def test_what_has_no_terms_and_what_nobody_signs_stays_as_it_is(operator: Operator) -> None:
    assert signed(None, XML) == XML
    bare = "<domain><name>x</name></domain>"
    assert signed(operator, bare) == bare


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<name>shop.db<", "<name>shop.dc<"),
        ("7d0f5a0e", "7d0f5a0f"),
        ('{"vapp": "shop"}', '{"vapp": "sho"}'),
        ("/pool/shop.db.data", "/pool/bank.db.data"),
        ('<target dev="vdb"/>', '<target dev="vdc"/>'),
        ("52:54:00:00:00:01", "52:54:00:00:00:02"),
        ('network="shop.cde"', 'network="uplink"'),
        ('<source network="shop.cde"/>', '<source bridge="br0"/>'),
        ("</devices>", '<disk type="block"><source dev="/dev/sda"/></disk></devices>'),
        ("</devices>", '<interface type="user"/></devices>'),
        ("</devices>", '<hostdev mode="subsystem" type="pci"/></devices>'),
        ("</devices>", '<filesystem type="mount"/></devices>'),
        ("</devices>", '<graphics type="vnc"/></devices>'),
        ("</devices>", '<memory model="nvdimm"/></devices>'),
        ("</devices>", '<serial type="tcp"/></devices>'),
        ('type="qcow2"', 'type="raw"'),
        ('<filterref filter="shop"/>', ""),
        ('isolated="yes"', 'isolated="no"'),
        ("/pool/kernel", "/pool/other"),
        ("quiet", "quiet init=/bin/sh"),
        (
            "</domain>",
            '<q:commandline xmlns:q="http://libvirt.org/schemas/domain/qemu/1.0"/></domain>',
        ),
        (
            "</metadata>",
            '<q:question xmlns:q="https://vcloud.dev/ns/1/question"/></metadata>',
        ),
        ("<tenancy:terms ", '<tenancy:terms generation="1" '),
    ],
)
def test_a_change_of_what_is_signed_is_seen(operator: Operator, old: str, new: str) -> None:
    xml = plainly_signed(operator)
    assert old in xml
    changed = xml.replace(old, new)
    assert signer_of(root_of(changed)) == ""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<devices>", "<memory>1</memory><devices>"),
        ('data"/>', 'data" index="1"/>'),
        ("<mac", "<alias name='net0'/><mac"),
        ("52:54:00:00:00:01", "52:54:00:00:00:01".upper()),
        ('network="shop.cde"', 'network="shop.cde" portid="1" bridge="br1"'),
        ("</disk>", "<backingStore/></disk>"),
        ('state="down"', 'state="up"'),
        ("</devices>", '<serial type="pty"/><controller type="usb"/></devices>'),
        (
            '<interface type="network"><mac address="52:54:00:00:00:01"/><source network="shop.cde"/>',
            '<interface type="bridge"><mac address="52:54:00:00:00:01"/><source network="shop.cde" bridge="br1"/>',
        ),
    ],
)
def test_what_libvirt_adds_to_a_running_vm_needs_no_other_signature(
    operator: Operator, old: str, new: str
) -> None:
    changed = plainly_signed(operator).replace(old, new)
    assert new in changed
    assert signer_of(root_of(changed)) == operator.fingerprint


@pytest.mark.parametrize("damage", ["", "x", "U1NIU0lH", "U1NIU0lHAAAAAQ==", "=" * 300])
def test_what_is_no_signature_has_no_signer(operator: Operator, damage: str) -> None:
    root = root_of(signed(operator, XML))
    terms = root.find(f"metadata/{TERMS}")
    assert terms is not None
    good = terms.get(SIGNATURE, "")
    for text in (damage, good[:-8], good[:40] + damage + good[40:] if damage else good[8:]):
        terms.set(SIGNATURE, text)
        assert signer_of(root) == ""


# Where the key lies


@pytest.fixture
def agent(
    key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], None]]:
    """ssh-agent without a key; the function adds it."""
    socket = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
    try:
        wait_for("ssh-agent", socket.exists, 30)
        yield lambda: subprocess.run(["ssh-add", "-q", key], check=True)
    finally:
        process.terminate()
        process.wait()


def test_the_key_may_lie_in_ssh_agent(
    key: Path, operator: Operator, agent: Callable[[], None]
) -> None:
    public = key.with_suffix(".pub")
    with pytest.raises(UsageError, match="ssh-agent does not have") as missing:
        load_operator(public)
    assert f"ssh-add {key}" in str(missing.value)
    agent()
    there = load_operator(public)
    assert there.fingerprint == operator.fingerprint
    assert signed(there, XML) == signed(operator, XML)


def test_a_key_that_cannot_be_used_is_named_with_the_way_out(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    make_key(secret, "-N", "a passphrase")
    with pytest.raises(UsageError, match="cannot be used") as locked:
        load_operator(secret)
    assert f"ssh-add {secret}" in str(locked.value)
    rsa = tmp_path / "rsa"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", rsa], check=True)
    for path in (rsa, tmp_path / "none", rsa.with_suffix(".pub")):
        with pytest.raises(UsageError, match=str(path)):
            load_operator(path)
    (tmp_path / "text").write_text("no key\n")
    with pytest.raises(UsageError, match="cannot be used"):
        load_operator(tmp_path / "text")


def test_the_inventory_comes_before_the_environment_and_the_usual_file(tmp_path: Path) -> None:
    environment = {"XDG_CONFIG_HOME": str(tmp_path)}
    host = HostRef("h1", "qemu:///system")
    assert key_file(host, environment) is None
    usual = tmp_path / "vcloud" / "operator"
    usual.parent.mkdir()
    usual.touch()
    assert key_file(host, environment) == usual
    assert key_file(host, environment | {VARIABLE: "/a/key"}) == Path("/a/key")
    named = HostRef("h1", "qemu:///system", operator_key=Path("/b/key"))
    assert key_file(named, environment | {VARIABLE: "/a/key"}) == Path("/b/key")


def test_the_environment_is_read_when_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, VARIABLE, "/a/key")
    assert key_file(HostRef("h1", "qemu:///system")) == Path("/a/key")


def test_a_statement_is_the_same_in_another_order_of_devices() -> None:
    root = root_of(XML)
    devices = root.find("devices")
    assert devices is not None
    before = statement(root, "terms")
    devices[:] = list(reversed(devices))
    assert statement(root, "terms") == before
    assert statement(root, "other terms") != before


def with_devices(*devices: str) -> str:
    return XML.replace("</devices>", f"{''.join(devices)}</devices>")


def of_domain(*elements: str) -> str:
    return XML.replace("</domain>", f"{''.join(elements)}</domain>")


QEMU = "xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'"
AGENT = '<target type="virtio" name="org.qemu.guest_agent.0"/>'
CHANNEL = "/var/lib/libvirt/qemu/channel/target/domain-3-shop.db/org.qemu.guest_agent.0"


@pytest.mark.parametrize(
    "xml",
    [
        with_devices(f'<channel type="unix"><source mode="connect" path="/run/x"/>{AGENT}</channel>'),
        with_devices(f'<channel type="unix"><source mode="connect" path="{CHANNEL}"/>{AGENT}</channel>'),
        with_devices(f'<channel type="unix"><source mode="bind" path="/tmp/x"/>{AGENT}</channel>'),
        with_devices(f'<channel type="unix"><source mode="bind" path="/run/libvirt/libvirt-sock"/>{AGENT}</channel>'),
        with_devices(f'<channel type="unix"><source mode="bind" path="/run/libvirt/../x/org.qemu.guest_agent.0"/>{AGENT}</channel>'),
        with_devices('<serial type="file"><source path="/etc/x"/></serial>'),
        with_devices('<console type="file"><source path="/etc/x"/></console>'),
        with_devices('<parallel type="dev"><source path="/dev/lp0"/></parallel>'),
        with_devices('<serial type="tcp"><source mode="connect" host="h" service="1"/></serial>'),
        with_devices('<serial type="pty"><log file="/etc/cron.d/x"/></serial>'),
        with_devices('<serial type="pty"><log file="/pool/console.shop.web.log"/></serial>'),
        with_devices('<rng model="virtio"><backend model="egd" type="udp"><source mode="connect" host="h" service="1"/></backend></rng>'),
        with_devices('<rng model="virtio"><backend model="random">/etc/shadow</backend></rng>'),
        with_devices('<input type="evdev"><source dev="/dev/input/event0"/></input>'),
        with_devices('<input type="passthrough" bus="virtio"><source evdev="/dev/input/event0"/></input>'),
        with_devices('<audio id="1" type="file" path="/etc/x"/>'),
        with_devices('<pstore backend="acpi-erst"><path>/etc/x</path></pstore>'),
        with_devices('<lease><lockspace>a</lockspace><target path="/etc/x"/></lease>'),
        with_devices('<emulator>/tmp/qemu</emulator>'),
        with_devices('<emulator>/usr/../tmp/qemu</emulator>'),
        with_devices('<video><driver name="vhostuser"/></video>'),
        XML.replace('<link state="down"/>', '<link state="down"/><script path="/tmp/x"/>'),
        XML.replace('<link state="down"/>', '<link state="down"/><backend tap="/dev/x"/>'),
        of_domain(f'<q:commandline {QEMU}><q:arg value="-x"/></q:commandline>'),
        of_domain(f'<q:override {QEMU}><q:device alias="net0"/></q:override>'),
        of_domain(f'<q:capabilities {QEMU}><q:del capability="x"/></q:capabilities>'),
        of_domain("<x:anything xmlns:x='https://example.org/'/>"),
        of_domain('<sysinfo type="fwcfg"><entry name="opt/x" file="/etc/shadow"/></sysinfo>'),
        of_domain('<memoryBacking><source type="file"/></memoryBacking>'),
        of_domain('<memoryBacking><access mode="shared"/></memoryBacking>'),
        XML.replace("<os>", '<os><acpi><table type="slic">/etc/shadow</table></acpi>'),
    ],
)  # fmt: skip
def test_what_leads_out_of_a_vm_or_to_files_of_the_host_is_not_signed(
    operator: Operator, xml: str
) -> None:
    """The twin below has what vcloud renders, and what libvirt adds."""
    terms = root_of(signed(operator, XML)).find(f"metadata/{TERMS}")
    assert terms is not None
    changed = root_of(xml)
    own = changed.find(f"metadata/{TERMS}")
    assert own is not None
    own.set(SIGNATURE, terms.get(SIGNATURE, ""))
    assert signer_of(changed) == ""


@pytest.mark.parametrize(
    "xml",
    [
        with_devices(f'<channel type="unix">{AGENT}</channel>'),
        with_devices(f'<channel type="unix"><source mode="bind"/>{AGENT}</channel>'),
        with_devices(f'<channel type="unix"><source mode="bind" path="{CHANNEL}"/>{AGENT}</channel>'),
        with_devices(
            '<serial type="pty"><source path="/dev/pts/3"/><log file="/pool/console.shop.db.log" append="off"/><target port="0"/></serial>',
            '<console type="pty" tty="/dev/pts/3"><source path="/dev/pts/3"/><log file="/pool/console.shop.db.log" append="on"/></console>',
        ),
        with_devices('<rng model="virtio"><backend model="random">/dev/urandom</backend></rng>'),
        with_devices(
            '<emulator>/usr/bin/qemu-system-x86_64</emulator>',
            '<input type="mouse" bus="ps2"/><input type="keyboard" bus="ps2"/>',
            '<audio id="1" type="none"/><memballoon model="none"/>',
            '<video><model type="none"/><alias name="video0"/></video>',
        ),
        of_domain('<sysinfo type="smbios"><oemStrings><entry>x</entry></oemStrings></sysinfo>'),
        of_domain('<memoryBacking><nosharepages/><locked/></memoryBacking>'),
    ],
)  # fmt: skip
def test_what_vcloud_renders_and_libvirt_adds_leaves_a_signature_good(
    operator: Operator, xml: str
) -> None:
    terms = root_of(signed(operator, XML)).find(f"metadata/{TERMS}")
    assert terms is not None
    changed = root_of(xml)
    own = changed.find(f"metadata/{TERMS}")
    assert own is not None
    own.set(SIGNATURE, terms.get(SIGNATURE, ""))
    assert signer_of(changed) == operator.fingerprint


# Generations


def with_generation(text: str) -> str:
    return XML.replace("<tenancy:terms ", f'<tenancy:terms generation="{text}" ')


def test_the_generation_of_terms_is_signed_with_them(operator: Operator) -> None:
    xml = signed(operator, with_generation("7"))
    assert signer_of(root_of(xml)) == operator.fingerprint
    assert generation_in(root_of(xml).find(f"metadata/{TERMS}")) == 7
    assert generation_in(root_of(XML).find(f"metadata/{TERMS}")) == 0
    for changed in ('generation="8"', 'generation="6"', ""):
        assert signer_of(root_of(xml.replace('generation="7"', changed))) == ""


@pytest.mark.parametrize("text", ["", "0", "-1", "07", "7.0", "x", str(2**53), "9" * 5000])
def test_what_is_no_generation_has_no_signer(operator: Operator, text: str) -> None:
    xml = signed(operator, with_generation("7")).replace('"7"', f'"{text}"')
    assert generation_in(root_of(xml).find(f"metadata/{TERMS}")) is None
    assert signer_of(root_of(xml)) == ""
    with pytest.raises(ValueError, match="no whole number from 1 on"):
        generation_of(root_of(xml).find(f"metadata/{TERMS}"))


def test_what_an_earlier_release_signed_still_counts() -> None:
    """Without a generation and without a notice, the statement is that of its format."""
    found = json.loads(statement(root_of(XML), "terms"))
    assert found["format"] == 1
    assert not {"generation", "notice"} & found.keys()
    newer = json.loads(statement(root_of(XML), "terms", 7))
    assert newer == found | {"format": 2, "generation": 7, "notice": ""}


def test_the_notice_in_a_question_is_signed(operator: Operator) -> None:
    notice = {"7d0f5a0e-1f55-4a39-93b0-5f4d3f6a0a11": 5}
    xml = signed(operator, render_question("question", "a", Terms("shop"), notice, "b"))
    assert json.loads(root_of(xml).findtext(f"metadata/{QUESTION}") or "") == {
        "boot": "b",
        "vms": notice,
    }
    assert signer_of(root_of(xml)) == operator.fingerprint
    assert signer_of(root_of(xml.replace(": 5}", ": 6}"))) == ""
    without = render_question("question", "a", Terms("shop"))
    assert not root_of(without).findtext(f"metadata/{QUESTION}")
    assert json.loads(statement(root_of(without), "terms"))["format"] == 1


def test_terms_that_a_domain_gets_anew_have_the_generation_that_is_given() -> None:
    found = root_of(with_terms(with_generation("7"), Terms("shop"), 9))
    (terms,) = found.findall(f"metadata/{TERMS}")
    assert (generation_in(terms), terms_of(json.loads(terms.text or ""))) == (9, Terms("shop"))
    (bare,) = root_of(with_terms(XML, Terms("shop"), 0)).findall(f"metadata/{TERMS}")
    assert bare.attrib == {}
