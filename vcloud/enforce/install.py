"""The programs and files that vcloud installs on a host: the reporter, for users of group libvirt who
are not root, and libvirt's qemu hook, which keeps VMs apart that may not share the host.

Two files make the reporter: the program, in folders that only root can change, and a sudoers rule that allows
exactly this program without arguments. `vcloud.hosts.preparing` writes them.
"""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

from vcloud import printable, signature, tenancy
from vcloud.enforce import (
    hook_admitted,
    hook_carried,
    hook_files,
    hook_known,
    hook_operators,
    hook_processes,
    hook_terms,
    host_isolation,
    host_processes,
    host_report,
    qemu_hook,
)
from vcloud.plan.preparation import GROUP, OwnFile, Wanted
from vcloud.signature import PRINCIPAL, SSH_NAMESPACE

PROGRAM = Path(host_report.INSTALLED)
SUDOERS = Path("/etc/sudoers.d/vcloud-host-report")
HOOK = Path("/etc/libvirt/hooks/qemu.d/vcloud")
"""Beside a hook of somebody else's: libvirt runs all files of the folder (since 6.5.0)."""
PYTHON = Path("/usr/bin/python3")
RULE = f"""\
# vcloud has written this file. The program only reads, and takes no input.
Defaults!{PROGRAM} env_reset, !requiretty
%{GROUP} ALL=(root) NOPASSWD: {PROGRAM} ""
"""
OPERATOR_LINE = f'{PRINCIPAL} namespaces="{SSH_NAMESPACE}" {{}}\n'
"""How a public key stands in a host's list of operators (ssh-keygen(1), ALLOWED SIGNERS)."""
HOOK_HEAD = f"""\
#!/bin/sh
''':'
# vcloud has written this file. A shell runs it first: libvirt ends running VMs if a hook fails in any operation but
# `prepare`, and Python may fail, for example in the middle of an upgrade.
case "$2/$3" in
prepare/begin) exec {PYTHON} -IS "$0" "$@" ;;
scrub/*) exec {PYTHON} -IS "$0" "$@" ;;
started/begin | reconnect/begin | release/end) {PYTHON} -IS "$0" "$@" ;;
esac
exit 0
'''
from __future__ import annotations
"""
HOOK_MODULES = (
    printable,
    tenancy,
    signature,
    hook_files,
    hook_operators,
    hook_processes,
    hook_known,
    hook_terms,
    hook_admitted,
    hook_carried,
    qemu_hook,
)
"""The modules whose texts make the hook. Each stands after those that it uses."""
REPORTER_MODULES = (host_processes, host_isolation, host_report)
"""The modules whose texts make the reporter. Each stands after those that it uses."""
LEFT_OUT = ("vcloud", "__future__")


def reporter_text() -> bytes:
    """The reporter as one program, without a module of vcloud."""
    texts = (without_imports(Path(str(module.__file__))) for module in REPORTER_MODULES)
    return b"\n\n".join((b"from __future__ import annotations\n", *texts))


def installed_text() -> bytes:
    """The program as it is installed. `-I`: nothing around it changes what Python runs."""
    return f"#!{PYTHON} -I\n".encode() + reporter_text()


def hook_text() -> bytes:
    """libvirt's qemu hook as it stands on a host: one file, without a module of vcloud. Python's `-S`:
    it needs no packages, and starts faster without looking for them.
    """
    texts = (without_imports(Path(str(module.__file__))) for module in HOOK_MODULES)
    return b"\n\n".join((HOOK_HEAD.encode(), *texts))


def without_imports(path: Path) -> bytes:
    """The text of a module without what it imports from vcloud, and without `__future__`, which a
    file may import only at its beginning.
    """
    lines = path.read_text().splitlines(keepends=True)
    for node in ast.parse("".join(lines)).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in LEFT_OUT:
            first, last = node.lineno - 1, node.end_lineno or node.lineno
            lines[first:last] = [""] * (last - first)
    return "".join(lines).encode()


def hook_digest() -> str:
    """SHA-256 of this release's hook, which the hook itself tells."""
    return hashlib.sha256(hook_text()).hexdigest()


def installed_digest() -> str:
    """SHA-256 of this release's installed program, which the program itself reports."""
    return hashlib.sha256(installed_text()).hexdigest()


def wanted_on(operator: str = "", fingerprint: str = "") -> Wanted:
    """What this release installs on a host. `operator` is the public key, as a line of OpenSSH's, of
    which the host shall trust the terms; empty: none is asked for.
    """
    beside = f"{PROGRAM}.new"
    return Wanted(
        # libvirt runs whatever lies in the hook's own folder.
        hook=OwnFile(str(HOOK), hook_text(), 0o755, str(HOOK.parents[1] / "vcloud.new")),
        # It must run before the rule allows it.
        reporter=OwnFile(str(PROGRAM), installed_text(), 0o755, beside, ("env",)),
        # sudo reads no file whose name has a dot. A broken rule would lock everybody out of sudo.
        rule=OwnFile(
            str(SUDOERS), RULE.encode(), 0o440, f"{SUDOERS}.new", ("visudo", "--check", "--file")
        ),
        operator=OPERATOR_LINE.format(operator) if operator else "",
        fingerprint=fingerprint,
    )
