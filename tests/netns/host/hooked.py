"""A host on which the hook runs as a program: with folders and processes of its own, in namespaces."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from tests.netns.namespaces import held
from vcloud.enforce.install import OPERATOR_LINE, hook_text
from vcloud.hosts.operator_key import Operator, load_operator
from vcloud.tenancy import DEDICATED, Terms, document_of

LEASES, SETTINGS = Path("/var/lib/vcloud/leases"), "/etc/libvirt/vcloud"
POLICY, OPERATORS = f"{SETTINGS}/policy.json", f"{SETTINGS}/operators"
START = f"""\
mount -t tmpfs -o mode=755 state /var/lib/vcloud
mount -t tmpfs -o mode=755 settings /etc/libvirt
mkdir {SETTINGS}
mount -t tmpfs run /run
mkdir -p /run/libvirt/qemu {LEASES}
"""
SHOP, BANK = Terms("shop", (("owner", "retail"),)), Terms("bank", (("owner", "bank"),))
ALONE = replace(BANK, share=DEDICATED)


@dataclass(frozen=True, slots=True)
class Host:
    """`pid` holds its namespaces."""

    pid: int
    hook: Path

    def enter(self, *argv: str) -> list[str]:
        return ["nsenter", f"--target={self.pid}", "--mount", "--pid", *argv]

    def run(self, *argv: str, stdin: str = "") -> str:
        done = subprocess.run(
            self.enter(*argv), input=stdin, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def call(self, xml: str, name: str, operation: str, stage: str) -> tuple[int, str]:
        """The hook's exit code, and what it says."""
        done = subprocess.run(
            self.enter(str(self.hook), name, operation, stage, "-"),
            input=xml.encode(errors="surrogateescape"),
            capture_output=True,
            timeout=600,
        )
        assert done.stdout == b""
        said = done.stderr.decode()
        assert "Traceback" not in said
        return done.returncode, said

    def starts(self, name: str, terms: Terms | None) -> str:
        """Empty if the VM may start; otherwise what the hook says."""
        code, said = self.call(domain(name, terms), name, "prepare", "begin")
        assert code == bool(said)
        return said

    def runs(self, name: str, terms: Terms | None) -> None:
        """libvirt has started it: a process, and the files that libvirt keeps of it."""
        assert self.starts(name, terms) == ""
        folder = "/run/libvirt/qemu"
        self.run("sh", "-c", f"sleep 600 >/dev/null 2>&1 & echo $! >{folder}/{name}.pid")
        self.has_now(name, domain(name, terms))
        assert self.call(domain(name, terms), name, "started", "begin") == (0, "")

    def has_now(self, name: str, xml: str) -> None:
        """What libvirt keeps of a domain that runs."""
        path = f"/run/libvirt/qemu/{name}.xml"
        self.run("sh", "-c", f"cat >{path}", stdin=f"<domstatus>{xml}</domstatus>")

    def ends(self, name: str, terms: Terms | None) -> None:
        self.run("sh", "-c", f"cd /run/libvirt/qemu; kill $(cat {name}.pid); rm {name}.*")
        assert self.call(domain(name, terms), name, "release", "end") == (0, "")

    def start_by_one_daemon(self, *vms: tuple[str, Terms], between: str) -> list[int]:
        """The hook's exit codes for VMs that one process starts, which lives until all are decided:
        one after the other (`;`) or all at once (`&`).
        """
        calls = []
        for name, terms in vms:
            self.run("sh", "-c", f"cat >/run/{name}.xml", stdin=domain(name, terms))
            call = f"{self.hook} {name} prepare begin - </run/{name}.xml 2>/dev/null"
            calls.append(
                f"{call} & wait $!; echo $?" if between == ";" else f"{call} & p{len(calls)}=$!"
            )
        ends = [f"wait $p{number}; echo $?" for number in range(len(vms)) if between == "&"]
        return [int(code) for code in self.run("sh", "-c", "\n".join((*calls, *ends))).split()]

    def leases(self) -> dict[str, Any]:
        """Name -> lease."""
        texts = self.run(
            "sh",
            "-c",
            f"cd {LEASES} 2>/dev/null || exit 0; for f in *.json; do [ ! -e $f ] || {{ cat $f; echo; }}; done",
        )
        return {lease["name"]: lease for lease in map(json.loads, texts.splitlines())}

    def clear(self) -> None:
        self.run("sh", "-c", f"rm -rf {LEASES} {SETTINGS}/* /run/libvirt/qemu/*")


def uuid_of(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def domain(name: str, terms: Terms | None, text: str | None = None) -> str:
    """As libvirt gives it to the hook."""
    metadata = ""
    if terms is not None:
        content = escape(json.dumps(document_of(terms)) if text is None else text)
        metadata = (
            f'<metadata><v:vm xmlns:v="https://vcloud.dev/ns/1" vapp="{terms.vapp}" name="x"/>'
            f'<t:terms xmlns:t="https://vcloud.dev/ns/1/tenancy">{content}</t:terms></metadata>'
        )
    return f"<domain type='qemu'><name>{name}</name><uuid>{uuid_of(name)}</uuid>{metadata}</domain>"


@contextmanager
def hooked(folder: Path) -> Iterator[Host]:
    """A host whose hook lies in the folder."""
    hook = folder / "qemu"
    hook.write_bytes(hook_text())
    hook.chmod(0o755)
    with held(script=START) as pid:
        yield Host(pid, hook)


def made(path: Path) -> Operator:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return load_operator(path)


def trust(host: Host, *operators: Operator) -> None:
    text = "".join(OPERATOR_LINE.format(one.line) for one in operators)
    host.run("sh", "-c", f"cat >{OPERATORS}", stdin=text)


def with_disk(xml: str, path: str) -> str:
    disk = f'<disk type="file" device="disk"><source file="{path}"/><target dev="vda"/></disk>'
    return xml.replace("</domain>", f"<devices>{disk}</devices></domain>")


def starts(host: Host, xml: str, name: str) -> str:
    code, said = host.call(xml, name, "prepare", "begin")
    assert code == bool(said)
    return said
