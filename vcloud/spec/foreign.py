"""Recognises files of other tools, and says how their parts are called in a vApp file.

The text is only searched and never parsed, because such a file may be valid for its own tool and for
no other reader.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vcloud.errors import Problem, SpecError

_SEARCHED: Final = 256 << 10
"""Bytes of a file that are searched."""
_TOP: Final = re.compile(r"^([A-Za-z0-9_.-]{1,80})[ \t]{0,8}:(?=[ \t\r\n]|$)", re.MULTILINE)
"""A key of the top level."""
_KCLI: Final = re.compile(
    r"^[ \t]{1,8}(?:type:[ \t]{1,8}(?:vm|network|profile|image|kube|pool|disk|dns)\b|numcpus:|nets:|cmds:)",
    re.MULTILINE,
)
_VAGRANT: Final = re.compile(r"^[ \t]{0,8}Vagrant\.configure\b", re.MULTILINE)
_FLOWS: Final = (
    "nothing: all reach each other",
    "flows: {from: web, to: db, service: tcp/5432} for each connection; nothing else passes",
)


@dataclass(frozen=True, slots=True)
class Foreign:
    """A kind of file of another tool."""

    tool: str
    marks: Callable[[str], re.Match[str] | None]
    """What shows that a text is such a file: the match is in its telling line."""
    words: tuple[tuple[str, str], ...]
    """Pairs of a part as the tool calls it, and as a vApp file does."""
    more: str = ""

    @property
    def table(self) -> str:
        width = max(len(theirs) for theirs, _ in self.words)
        rows = [f"{theirs:<{width}}  {ours}" for theirs, ours in self.words]
        return "\n  ".join([f"{self.tool:<{width}}  a vApp file", *rows])


def _top(key: str) -> Callable[[str], re.Match[str] | None]:
    def found(text: str) -> re.Match[str] | None:
        return next((one for one in _TOP.finditer(text) if one[1] == key), None)

    return found


KNOWN: Final = (
    Foreign("Vagrant", _VAGRANT.search, (
        ("config.vm.define 'web'", "vms: {web: ...}"),
        ("vm.box", "image: nginx, a folder of your own, or a qcow2"),
        ("vm.network 'private_network'", "zone: app, declared under zones:"),
        ("vm.network 'forwarded_port'", "flows: {from: internet, to: web, service: tcp/80, publish: 8080}"),
        ("vm.provision 'shell'", "run: [...], and packages: [...]"),
        ("vm.synced_folder", "files: {/etc/app.conf: {source: app.conf}}"),
        ("v.memory, v.cpus", "memory: 1G, cpus: 2"),
        _FLOWS,
    )),
    Foreign("docker compose", _top("services"), (
        ("services:", "vms:"),
        ("image:, build:", "image: nginx, a folder of your own, or a qcow2"),
        ("networks:", "zones:, and zone: of a VM"),
        ("ports: '8080:80'", "flows: {from: internet, to: web, service: tcp/80, publish: 8080}"),
        ("volumes:", "disks: {data: 10G}, and files: {/etc/app.conf: {source: app.conf}}"),
        ("depends_on:", "after: db"),
        ("environment:, secrets:", "files:, with ${env:NAME}, ${file:PATH} or a secret parameter"),
        ("deploy.replicas", "count: 2"),
        ("healthcheck:", "ready: {tcp: 80}, or ready: {command: ...}"),
        _FLOWS,
    ), "To take over what can be taken over: vcloud import FILE."),
    Foreign("containerlab", _top("topology"), (
        ("topology.nodes:", "vms:"),
        ("kind:, image:", "image: base, a folder of your own, or a qcow2"),
        ("links:", "zones: VMs of one zone are neighbours, with open: true also directly"),
        ("ports:", "flows: {from: internet, to: web, service: tcp/80, publish: 8080}"),
        ("binds:", "files: {/etc/app.conf: {source: app.conf}}"),
        ("exec:", "run: [...]"),
        _FLOWS,
    )),
    Foreign("Ludus", _top("ludus"), (
        ("ludus: [{vm_name: web}]", "vms: {web: ...}"),
        ("template:", "image: nginx, a folder of your own, or a qcow2"),
        ("vlan:", "zone: app, declared under zones:"),
        ("ram_gb:, cpus:", "memory: 4G, cpus: 2"),
        ("network.rules:", "flows: {from: web, to: db, service: tcp/5432}"),
        ("roles:", "packages: [...] and run: [...], or a recipe of your own"),
    )),
    Foreign("kcli", _KCLI.search, (
        ("web: {type: vm}", "vms: {web: ...}"),
        ("image:", "image: nginx, a folder of your own, or a qcow2"),
        ("nets:", "zone: app, declared under zones:"),
        ("numcpus:, memory: 2048", "cpus: 2, memory: 2G"),
        ("disks: [20, 10]", "root: 20G, and disks: {data: 10G}"),
        ("files:, cmds:", "files: {...}, run: [...]"),
        ("parameters:", "parameters:, used as ${name} and set by -P"),
        _FLOWS,
    )),
)  # fmt: skip


def refuse_foreign(data: bytes, file: str) -> None:
    """Raises SpecError if the bytes are a file of another tool."""
    text = data[:_SEARCHED].decode(errors="replace")
    if any(found[1] == "vcloud" for found in _TOP.finditer(text)):
        return
    for kind in KNOWN:
        if found := kind.marks(text):
            line = text.count("\n", 0, found.start()) + 1
            what = f"this is a file of {kind.tool}, and no vApp file"
            hint = f"{kind.table}\n  {kind.more or 'To start from a vApp file: vcloud init.'}"
            raise SpecError((Problem(file, line, "", what, hint),))
