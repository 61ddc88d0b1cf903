"""One libvirt host of a lab: its holder process, its file system, its daemons and its uplink
network.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

from vcloud.enforce import hook_operators
from vcloud.enforce.install import OPERATOR_LINE, wanted_on
from vcloud.errors import HostError
from vcloud.lab import namespaces, segments, texts
from vcloud.lab.account import qemu_account
from vcloud.lab.layout import KVM, PRIVATE_FOLDERS, Host
from vcloud.lab.namespaces import ENVIRONMENT, run, wait_for

CAPABILITIES = Path("/var/cache/libvirt/qemu/capabilities")
"""libvirtd's cache of the capabilities of QEMU programs. libvirtd itself checks whether an entry
still agrees with the machine.
"""

DAEMONS = ("virtlogd", "libvirtd", "sshd")
WITHOUT_HUGE_PAGES = (
    sys.executable,
    "-c",
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(41, 1, 0, 0, 0); os.execvp(sys.argv[1], sys.argv[1:])",
)
"""Command words to put before a command. The command and all processes that it starts then run
without transparent huge pages (PR_SET_THP_DISABLE, number 41, see prctl(2)).

QEMU asks for huge pages for the memory of guests. A VM that wakes from a memory image fills its
memory in no order. So the kernel clears nearly all of this memory in portions of 2 MiB, although
QEMU writes only a quarter of it. Without KVM, this takes a ninth of the time in which five VMs
wake.
"""


def ensure_host(host: Host) -> None:
    """Starts the host, or those parts of it that are missing.

    A host that ended, or that never started completely, leaves its network namespace: with the
    bridges of its networks, and with nft tables. Its libvirtd, which remembers nothing of them,
    could then not start these networks. So the host gets a new namespace, as after power-on.
    """
    complete = is_complete(host)
    host.failed.unlink(missing_ok=True)
    if not complete:
        segments.remove_host(host)
    segments.ensure_host(host)
    if not complete:
        _start(host)
    _ensure_daemons(host)
    _ensure_uplink(host)


def holder(host: Host) -> int | None:
    """The process number, on the machine, of the host's holder: the host runs as long as this
    process does. None if there is none.

    The holder is the `sleep` in the host's network namespace that has number 1 in a PID namespace
    directly below the machine's.
    """
    for pid in namespaces.processes(host.namespace):
        # A process may end while this looks at it.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            status = dict(
                line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            )
            # NSpid has the number of the process in each PID namespace, the machine's first
            # (proc_pid_status(5)).
            if status["Name"].strip() == "sleep" and status["NSpid"].split()[1:] == ["1"]:
                return pid
    return None


def check_owner(host: Host) -> None:
    """Raises HostError if the host runs and belongs to a lab of the same name in another folder."""
    pid = holder(host)
    if pid is not None and _owner_variable(host) not in Path(
        f"/proc/{pid}/environ"
    ).read_text().split("\0"):
        raise HostError(
            f"A lab called '{host.lab.name}' already runs, but its folder is not '{host.lab.folder}'.",
            "Choose another --name, or set VCLOUD_LAB_DIR to the value with which that lab was started.",
        )


def _owner_variable(host: Host) -> str:
    """The environment variable of the holder that tells which lab it belongs to."""
    return f"VCLOUD_LAB_FOLDER={host.lab.folder}"


def is_complete(host: Host) -> bool:
    """Whether the host has started completely: its last mount exists."""
    pid = holder(host)
    source, target = texts.mounts(host)[-1]
    try:
        return pid is not None and Path(f"/proc/{pid}/root{target}").samefile(source)
    except FileNotFoundError:
        return False


def enter(host: Host) -> list[str]:
    """The command words to put before a command so that it runs on the host.

    Raises:
        HostError: the host does not run.
    """
    pid = holder(host)
    if pid is None:
        raise HostError(
            f"Host '{host.name}' of lab '{host.lab.name}' does not run.",
            f"Start it: vcloud lab up --name {host.lab.name}",
        )
    return ["nsenter", f"--target={pid}", "--mount", "--uts", "--net", "--pid"]


def daemons(host: Host) -> dict[str, bool]:
    """The daemons of the host -> whether each one listens."""
    listening = namespaces.listening(host.namespace)
    return {
        "virtlogd": any(address.endswith("/libvirt/virtlogd-sock") for address in listening),
        "libvirtd": any(address.endswith("/libvirt/libvirt-sock") for address in listening),
        "sshd": f"{host.management4}:22" in listening,
    }


def _start(host: Host) -> None:
    """Starts the holder and mounts the host's folders. As after power-on, /run is empty."""
    _write_files(host)
    argv = [
        *namespaces.enter(host.namespace),
        # slave: a new mount of the machine appears on the host, too. A mount of the host never
        # appears on the machine.
        *("unshare", "--mount", "--propagation=slave", "--uts", "--pid", "--fork", "--mount-proc"),
        # The holder is the init process of its PID namespace, so it inherits orphans, but `sleep`
        # never reaps a child. If a process ignores SIGCHLD, the kernel reaps its children.
        *("env", "--ignore-signal=CHLD", _owner_variable(host), "sleep", "infinity"),
    ]
    with (host.folder / "holder.log").open("w") as log:
        subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=ENVIRONMENT,
            cwd="/",
            # Ctrl-C in the terminal goes to a whole session. It must not end the host.
            start_new_session=True,
        )
    wait_for(f"The start of host '{host.name}'", lambda: holder(host) is not None, 10)
    # In the host's own UTS namespace: the machine keeps its name.
    run([*enter(host), "hostname", host.name])
    # sysfs shows the network interfaces of the namespace in which it was mounted. So the host needs
    # a new one. The machine's cgroups are mounted below the old one and disappear with it.
    run([*enter(host), "umount", "--recursive", "--lazy", "/sys"])
    run([*enter(host), "mount", "--all", "--fstab", str(host.folder / "fstab")])


def _write_files(host: Host) -> None:
    """Writes the configuration of the host's daemons into the host's folders, and empties its /run."""
    shutil.rmtree(host.machine_path(Path("/run")), ignore_errors=True)
    for folder in PRIVATE_FOLDERS:
        folder.mkdir(parents=True, exist_ok=True)
        host.machine_path(folder).mkdir(parents=True, exist_ok=True)
    for path in (
        str(texts.HOME),
        "/run/sshd",
        "/run/lock",
        "/var/log/libvirt",
        "/var/lib/libvirt/images",
    ):
        host.machine_path(Path(path)).mkdir(exist_ok=True)
    host.machine_path(Path("/tmp")).chmod(0o1777)  # noqa: S108
    ensure_key(host.host_key, host.name)
    configs = {
        str(texts.HOSTS): texts.hosts_file(host.lab),
        "/etc/libvirt/libvirtd.conf": texts.libvirtd_conf(host),
        "/etc/libvirt/qemu.conf": texts.qemu_conf(qemu_account()),
        "/etc/ssh/sshd_config": texts.sshd_config(host),
        "/etc/ssh/authorized_keys": host.lab.key.with_suffix(".pub").read_text(),
        "/etc/libvirt/uplink.xml": texts.uplink_network(host),
    }
    for path, text in configs.items():
        host.machine_path(Path(path)).write_text(text)
    operators = host.machine_path(hook_operators.OPERATORS)
    operators.parent.mkdir(mode=0o755, exist_ok=True)
    public = host.lab.key.with_suffix(".pub").read_text().strip()
    operators.write_text(OPERATOR_LINE.format(public))
    hook = wanted_on().hook
    place = host.machine_path(Path(hook.path))
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(hook.content)
    place.chmod(hook.mode)
    (host.folder / "fstab").write_text(texts.fstab(host, own_kvm=_make_kvm(host)))


def _make_kvm(host: Host) -> bool:
    """Makes the host's own /dev/kvm, which QEMU's user may open. The machine's may be root's alone,
    and stays as it is. False: the machine has none, or allows nobody to make devices.
    """
    host.kvm.unlink(missing_ok=True)
    user = qemu_account()
    try:
        found = KVM.stat()
        os.mknod(host.kvm, stat.S_IFCHR | 0o600, found.st_rdev)
    except (FileNotFoundError, PermissionError):
        return False
    os.chown(host.kvm, user.uid, user.gid)
    return True


def ensure_key(path: Path, comment: str) -> None:
    """Creates an ed25519 key pair if there is none. ssh-keygen writes the public key last, so if it
    exists, the pair is complete.
    """
    if not path.with_suffix(".pub").exists():
        path.unlink(missing_ok=True)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])


def _ensure_daemons(host: Host) -> None:
    alive = daemons(host)
    # virtlogd comes first: libvirtd has it write the console logs of VMs.
    if not alive["virtlogd"]:
        run([*enter(host), "virtlogd", "--daemon"])
    if not alive["libvirtd"]:
        _copy_capabilities(host)
        run([*WITHOUT_HUGE_PAGES, *enter(host), "libvirtd", "--daemon"])
    if not alive["sshd"]:
        # sshd refuses to start without its full path.
        run([*enter(host), str(namespaces.program("sshd")), "-E", "/var/log/sshd.log"])
    wait_for(
        f"The start of the daemons of host '{host.name}'", lambda: all(daemons(host).values()), 30
    )


def _copy_capabilities(host: Host) -> None:
    """Copies libvirtd's cache of capabilities from the machine or from another host, if the host
    has none.

    Without this cache, libvirtd starts every QEMU program several times before its first answer,
    which takes seconds.
    """
    mine = host.machine_path(CAPABILITIES)
    caches = [
        CAPABILITIES,
        *(other.machine_path(CAPABILITIES) for other in host.lab.hosts() if other != host),
    ]
    filled = next((cache for cache in caches if cache.is_dir() and any(cache.iterdir())), None)
    if filled and not mine.exists():
        shutil.copytree(filled, mine)


def _ensure_uplink(host: Host) -> None:
    if "uplink" not in _virsh(host, "net-list", "--name").split():
        _virsh(host, "net-define", str(host.machine_path(Path("/etc/libvirt/uplink.xml"))))
        _virsh(host, "net-autostart", "uplink")
        _virsh(host, "net-start", "uplink")


def _virsh(host: Host, *command: str) -> str:
    return run(["virsh", "--quiet", "--connect", host.local_uri, *command])
