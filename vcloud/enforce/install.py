"""Installs the host reporter on this machine, for users of group libvirt who are not root, and
libvirt's qemu hook, which keeps VMs apart that may not share the host.

Two files make the reporter: the program, in folders that only root can change, and a sudoers rule that allows
exactly this program without arguments. Each appears in one rename. The rule is checked by visudo
before it is in force, because a broken one would lock everybody out of sudo.
"""

from __future__ import annotations

import ast
import grp
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from vcloud import printable, signature, tenancy
from vcloud.enforce import (
    hook_carried,
    hook_files,
    hook_known,
    hook_operators,
    host_isolation,
    host_processes,
    host_report,
    qemu_hook,
)
from vcloud.enforce.host_processes import FOLDERS
from vcloud.errors import HostError
from vcloud.signature import PRINCIPAL, SSH_NAMESPACE

GROUP = "libvirt"
"""Its members may use libvirt's system daemon (polkit), which is as much as to be root."""
PROGRAM = Path(host_report.INSTALLED)
SUDOERS = Path("/etc/sudoers.d/vcloud-host-report")
HOOK = Path("/etc/libvirt/hooks/qemu.d/vcloud")
"""Beside a hook of somebody else's: libvirt runs all files of the folder (since 6.5.0)."""
PYTHON = Path("/usr/bin/python3")
RULE = f"""\
# `vcloud doctor --fix` has written this file. The program only reads, and takes no input.
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
    hook_known,
    hook_carried,
    qemu_hook,
)
"""The modules whose texts make the hook. Each stands after those that it uses."""
REPORTER_MODULES = (host_processes, host_isolation, host_report)
"""The modules whose texts make the reporter. Each stands after those that it uses."""
LEFT_OUT = ("vcloud", "__future__")
SECONDS = 30
OTHERS_WRITE = 0o022


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


def install_reporter() -> tuple[Path, Path]:
    """Installs the program and its sudoers rule, or replaces those of another release. Returns both
    paths.

    Raises:
        HostError: it is not run by root, something is missing, or somebody else could change the
            program.
    """
    if os.geteuid() != 0:
        raise HostError(
            "the reporter of the host's side can be installed by root only",
            "As root: vcloud doctor --fix.",
        )
    visudo = _needed("visudo", "apt-get install sudo")
    if not PYTHON.exists():
        raise HostError(f"'{PYTHON}' is missing", "apt-get install python3")
    try:
        grp.getgrnam(GROUP)
    except KeyError:
        raise HostError(
            f"this machine has no group '{GROUP}'", "apt-get install libvirt-daemon-system"
        ) from None
    PROGRAM.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    _check_folders(PROGRAM.parent)
    _check_folders(SUDOERS.parent)
    _replace(PROGRAM, installed_text(), 0o755)
    _run([str(PROGRAM)], "the reporter does not run")
    _write_rule(visudo)
    return PROGRAM, SUDOERS


def install_hook() -> Path:
    """Installs libvirt's qemu hook, or replaces that of another release. Returns its path. libvirt
    looks for hooks when it starts, so one that had none must be restarted.

    Raises:
        HostError: it is not run by root, libvirt is not installed, or somebody else could change the
            hook.
    """
    if os.geteuid() != 0:
        raise HostError("the hook can be installed by root only", "As root: vcloud doctor --fix.")
    libvirt = HOOK.parents[2]
    if not libvirt.is_dir():
        raise HostError(f"'{libvirt}' is missing", "apt-get install libvirt-daemon-system")
    HOOK.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    _check_folders(HOOK.parent)
    _replace(HOOK, hook_text(), 0o755)
    return HOOK


def _write_rule(visudo: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rule = Path(folder, SUDOERS.name)
        rule.write_text(RULE)
        rule.chmod(0o440)
        _run([visudo, "--check", f"--file={rule}"], "visudo refuses the sudoers rule")
    _replace(SUDOERS, RULE.encode(), 0o440)


def _check_folders(folder: Path) -> None:
    """Raises HostError where somebody but root could put another file in the place of one here."""
    for place in (folder, *folder.parents):
        state = place.stat()
        if state.st_uid != 0 or state.st_mode & OTHERS_WRITE:
            raise HostError(
                f"others than root may write to '{place}', so nothing that runs as root is installed below it",
                f"chown root {place}; chmod go-w {place}",
            )


def _replace(path: Path, content: bytes, mode: int) -> None:
    # sudo reads no file whose name has a dot.
    number, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(name).replace(path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise HostError(f"'{path}' cannot be written: {error.strerror}") from None


def _needed(program: str, hint: str) -> str:
    found = shutil.which(program, path=":".join(FOLDERS))
    if found is None:
        raise HostError(f"'{program}' is not installed", hint)
    return found


def _run(argv: list[str], what: str) -> None:
    try:
        done = subprocess.run(argv, capture_output=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"{what}: {error}") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise HostError(f"{what}: {said}")
