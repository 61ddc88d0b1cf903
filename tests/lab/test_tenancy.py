"""A real libvirt whose hook refuses VMs that may not be beside each other, whoever starts them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from tests.lab.places import MACHINE, at, command, not_running, pid_in, vcloud, virsh
from vcloud.design.names import domain_uuid
from vcloud.enforce.install import HOOK
from vcloud.errors import Exit
from vcloud.hosts.connection import open_host
from vcloud.hosts.inventory import HostRef
from vcloud.hosts.operator_key import load_operator
from vcloud.hosts.signing import signed
from vcloud.hosts.tenancy import ask_hook
from vcloud.lab import lab as labs
from vcloud.lab import namespaces
from vcloud.lab.layout import Host, Lab
from vcloud.tenancy import ANYONE, DEDICATED, Terms, document_of

pytestmark = [pytest.mark.netns, pytest.mark.timeout(900)]

DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <metadata>
    <v:vm xmlns:v="https://vcloud.dev/ns/1" vapp="{vapp}" name="x"/>
    <t:terms xmlns:t="https://vcloud.dev/ns/1/tenancy">{terms}</t:terms>
  </metadata>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
</domain>
"""
VAPP = """\
vcloud: 1
name: bank
zones: {{core: {{}}}}
vms: {{ledger: {{image: base, zone: core}}}}
tenancy: {{share: {share}}}
"""
BANK = Terms("bank", (("owner", "bank"),), DEDICATED)
SHOP = Terms("shop", (("owner", "retail"),))
REASON = "'bank' shares its host with no other vApp, and 'shop' is one"


@pytest.fixture(scope="module")
def guarded(pair: Lab) -> Host:
    """h1, with the hook that each host of a lab has."""
    labs.up(pair, 2)
    return pair.host(1)


@pytest.fixture
def host(guarded: Host) -> Iterator[Host]:
    """Without VMs."""
    yield guarded
    for name in virsh(guarded.uri, "list", "--all", "--name").split():
        command(["virsh", "--connect", guarded.uri, "destroy", name])
        command(["virsh", "--connect", guarded.uri, "undefine", name])


def restart_libvirt(lab: Lab) -> None:
    at(lab, "h1", "kill", pid_in(lab, "h1", "libvirtd"))
    namespaces.wait_for("Its end", lambda: ("h1", "libvirtd") in not_running(lab), 60)
    labs.up(lab)


def written(
    host: Host,
    folder: Path,
    name: str,
    terms: Terms,
    vapp: str = "",
    key: Path | None = None,
    generation: int = 0,
) -> str:
    """A file with the definition of a VM, whose mark names a vApp: that of its terms or another. It
    has the UUID that vcloud gives the VM. The lab's operator has signed it, or who has the key.
    """
    path = folder / f"{name}.xml"
    text = escape(json.dumps(document_of(terms)))
    uuid = domain_uuid(terms.vapp, name.partition(".")[2])
    xml = DOMAIN.format(name=name, uuid=uuid, vapp=vapp or terms.vapp, terms=text)
    if generation:
        xml = xml.replace("<t:terms", f'<t:terms generation="{generation}"')
    path.write_text(signed(load_operator(key or host.lab.key), xml))
    return str(path)


def define(host: Host, folder: Path, name: str, terms: Terms, key: Path | None = None) -> None:
    virsh(host.uri, "define", written(host, folder, name, terms, key=key))


def refused(host: Host, *argv: str) -> str:
    done = command(["virsh", "--quiet", "--connect", host.uri, *argv])
    assert done.returncode != 0
    return done.stderr


def test_virsh_meets_the_hook(host: Host, pair: Lab, tmp_path: Path) -> None:
    """Start, create and restore are refused with the reason word for word. A restart of libvirt ends
    nobody, and the host's memory of who runs there survives it.
    """
    define(host, tmp_path, "bank.core", BANK)
    define(host, tmp_path, "shop.web", SHOP)
    virsh(host.uri, "start", "shop.web")
    virsh(host.uri, "save", "shop.web", "/tmp/shop.save")  # noqa: S108 - of the host
    virsh(host.uri, "start", "bank.core")
    assert REASON in refused(host, "start", "shop.web")
    assert REASON in refused(host, "restore", "/tmp/shop.save")  # noqa: S108
    assert REASON in refused(host, "create", written(host, tmp_path, "shop.api", SHOP))
    restart_libvirt(pair)
    assert virsh(host.uri, "domstate", "bank.core") == "running"
    assert REASON in refused(host, "start", "shop.web")
    virsh(host.uri, "destroy", "bank.core")
    virsh(host.uri, "start", "shop.web")
    assert REASON in refused(host, "start", "bank.core")


def test_a_vm_whose_process_was_killed_beside_libvirt_keeps_nobody_away(
    host: Host, pair: Lab, tmp_path: Path
) -> None:
    define(host, tmp_path, "bank.core", BANK)
    define(host, tmp_path, "shop.web", SHOP)
    virsh(host.uri, "start", "bank.core")
    victims = [pid_in(pair, "h1", name) for name in ("libvirtd", "qemu-system-x86")]
    at(pair, "h1", "kill", "-9", *victims)
    # The next libvirtd does not know that it ran, and tells no hook of its end.
    at(pair, "h1", "rm", "/run/libvirt/qemu/bank.core.xml")
    labs.up(pair)
    leases = at(pair, "h1", "sh", "-c", "cat /var/lib/vcloud/leases/*.json")
    assert json.loads(leases)["name"] == "bank.core"
    virsh(host.uri, "start", "shop.web")


def test_the_terms_of_another_vapp_are_refused(host: Host, tmp_path: Path) -> None:
    define(host, tmp_path, "bank.core", BANK)
    stolen = replace(BANK, share=ANYONE)
    virsh(host.uri, "define", written(host, tmp_path, "shop.web", stolen, vapp="shop"))
    assert "is none of its VMs" in refused(host, "start", "shop.web")
    virsh(host.uri, "start", "bank.core")


def test_who_edits_the_terms_with_virsh_starts_nothing(host: Host, tmp_path: Path) -> None:
    """Also not with a signature that another VM has, or that nobody trusts."""
    define(host, tmp_path, "bank.core", BANK)
    define(host, tmp_path, "shop.web", SHOP)
    good = virsh(host.uri, "dumpxml", "bank.core")
    assert virsh(host.uri, "start", "bank.core") == ""
    virsh(host.uri, "destroy", "bank.core")

    uri = "https://vcloud.dev/ns/1/tenancy"
    text = json.dumps(document_of(replace(BANK, share=ANYONE)))
    for element in (
        f"<terms>{escape(text)}</terms>",
        f"<terms signature='x'>{escape(text)}</terms>",
    ):
        virsh(host.uri, "metadata", "bank.core", uri, "--key", "t", "--set", element, "--config")
        assert "the terms of tenancy of 'bank.core' do not count" in refused(
            host, "start", "bank.core"
        )
    path = tmp_path / "edited.xml"
    path.write_text(good.replace("dedicated", "anyone"))
    virsh(host.uri, "define", str(path))
    assert "not for this VM as it is now" in refused(host, "start", "bank.core")
    virsh(host.uri, "metadata", "bank.core", uri, "--remove", "--config")
    assert "has the mark of a vApp and 0 terms" in refused(host, "start", "bank.core")
    path.write_text(good)
    virsh(host.uri, "define", str(path))
    virsh(host.uri, "start", "bank.core")


def test_who_puts_older_terms_back_starts_nothing(host: Host, tmp_path: Path) -> None:
    """With an old definition, with `virsh metadata`, and with memory that was saved before; also where
    the host has only been told of newer ones.
    """
    now = int(time.time())
    old = written(host, tmp_path, "bank.vault", replace(BANK, share=ANYONE), generation=now)
    virsh(host.uri, "define", old)
    virsh(host.uri, "start", "bank.vault")
    virsh(host.uri, "save", "bank.vault", "/tmp/bank.save")  # noqa: S108 - of the host
    new = written(host, tmp_path, "bank.vault", BANK, generation=now + 1)
    virsh(host.uri, "define", new)
    virsh(host.uri, "start", "bank.vault")
    virsh(host.uri, "destroy", "bank.vault")
    good = virsh(host.uri, "dumpxml", "bank.vault")
    older = "are older than the newest that this host knows"

    virsh(
        host.uri,
        "define",
        written(host, tmp_path, "bank.vault", replace(BANK, share=ANYONE), generation=now),
    )
    assert older in refused(host, "start", "bank.vault")
    assert older in refused(host, "restore", "/tmp/bank.save")  # noqa: S108
    path = tmp_path / "good.xml"
    path.write_text(good)
    virsh(host.uri, "define", str(path))
    virsh(host.uri, "start", "bank.vault")
    virsh(host.uri, "destroy", "bank.vault")

    with open_host(HostRef(host.name, host.local_uri, operator_key=host.lab.key)) as opened:
        notice = {domain_uuid("bank", "vault"): now + 2}
        assert ask_hook(opened, BANK, notice).newest == now + 2
        assert ask_hook(opened, BANK).newest == now + 2
        assert ask_hook(opened, SHOP).newest == 0
    assert older in refused(host, "start", "bank.vault")
    virsh(host.uri, "define", written(host, tmp_path, "bank.vault", BANK, generation=now + 2))
    virsh(host.uri, "start", "bank.vault")


def test_hosts_trust_an_operator_until_they_are_told_otherwise(
    host: Host, pair: Lab, tmp_path: Path
) -> None:
    key = tmp_path / "alice"
    command(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "alice@box", "-f", str(key)])
    define(host, tmp_path, "shop.web", SHOP, key=key)
    assert "a key that this host does not trust" in refused(host, "start", "shop.web")

    trusted = vcloud(pair, "host", "trust", str(key.with_suffix(".pub")), "-o", "json")
    assert trusted.returncode == Exit.DONE, trusted.stderr
    mine = load_operator(key).fingerprint
    for row in json.loads(trusted.stdout):
        assert row["signatures"]
        assert {"fingerprint": mine, "comment": "alice@box"} in row["trusted"]
        assert len(row["trusted"]) == 2, "the lab's own operator stays"
    virsh(host.uri, "start", "shop.web")
    again = vcloud(pair, "host", "trust", str(key.with_suffix(".pub")), "-o", "json")
    assert json.loads(again.stdout) == json.loads(trusted.stdout)

    assert vcloud(pair, "host", "revoke", mine).returncode == Exit.DONE
    assert virsh(host.uri, "domstate", "shop.web") == "running"
    virsh(host.uri, "destroy", "shop.web")
    assert "a key that this host does not trust" in refused(host, "start", "shop.web")
    assert mine not in vcloud(pair, "host", "trust", "--list").stdout
    unknown = vcloud(pair, "host", "revoke", mine)
    assert unknown.returncode == Exit.INVALID
    assert "no host trusts the key" in unknown.stderr


def test_a_list_of_hosts_tells_who_runs_there_and_whom_they_keep_away(
    host: Host, pair: Lab, tmp_path: Path
) -> None:
    define(host, tmp_path, "bank.core", BANK)
    virsh(host.uri, "start", "bank.core")
    path = tmp_path / "laptop.xml"
    path.write_text(MACHINE.format(name="laptop"))
    virsh(host.uri, "create", str(path))
    first, second = json.loads(vcloud(pair, "host", "list", "-o", "json").stdout)
    assert (first["name"], second["name"]) == ("h1", "h2")
    assert first["vapps"] == ["bank", "(laptop)"]
    assert first["closed_to"] == ["every other vApp, because 'bank' is dedicated"]
    assert first["cpus"] == 2
    assert first["labels"]["arch"] == os.uname().machine
    assert (second["vapps"], second["closed_to"]) == ([], [])
    assert 0 < second["free_memory"] < second["memory"]
    shown = vcloud(pair, "host", "list").stdout
    assert "nobody" in shown


def test_a_host_without_the_hook_gets_no_vapp_with_demands(
    host: Host, pair: Lab, tmp_path: Path
) -> None:
    """And says how to get one. A vApp that demands nothing runs there."""
    files = {share: tmp_path / f"{share}.yaml" for share in (DEDICATED, ANYONE)}
    for share, file in files.items():
        file.write_text(VAPP.format(share=share))
    hook = host.machine_path(HOOK)
    text = hook.read_bytes()
    hook.unlink()
    restart_libvirt(pair)
    try:
        done = planned(pair, files[DEDICATED])
        assert done.returncode == Exit.REFUSED
        assert "nothing on h1 keeps other VMs away from those of this vApp" in done.stderr
        assert "vcloud doctor --fix" in done.stderr
        assert planned(pair, files[ANYONE]).returncode == Exit.DONE
        assert virsh(host.uri, "list", "--all", "--name") == ""
    finally:
        hook.write_bytes(text)
        hook.chmod(0o755)
        restart_libvirt(pair)
    assert planned(pair, files[DEDICATED]).returncode == Exit.DONE


def planned(lab: Lab, file: Path) -> subprocess.CompletedProcess[str]:
    return vcloud(lab, "plan", "--connect", "h1", str(file))
