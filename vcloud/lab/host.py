"""One libvirt host: its holder process, its file system, its daemons and its uplink network."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

from vcloud.errors import HostError
from vcloud.lab import namespaces, segments, texts
from vcloud.lab.layout import PRIVATE_FOLDERS, Host
from vcloud.lab.namespaces import ENVIRONMENT, run, wait_for

CAPABILITIES = Path("/var/cache/libvirt/qemu/capabilities")
"""What libvirtd found out about the QEMU programs. It checks itself whether an entry is still true of this machine."""

DAEMONS = ("virtlogd", "libvirtd", "sshd")
SMALL_PAGES = (
    sys.executable,
    "-c",
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(41, 1, 0, 0, 0); os.execvp(sys.argv[1], sys.argv[1:])",
)
"""The words before a command that run it, and all that it starts, without huge pages (PR_SET_THP_DISABLE, prctl(2)).

QEMU asks for huge pages for its guests' memory. A VM that wakes fills its pages in no order, so that the kernel clears nearly all of its
memory in portions of 2 MiB, only to have a quarter of it written: without KVM a ninth of the time that waking five VMs takes.
"""


def ensure_host(host: Host) -> None:
    """Make the host run: start it, or whatever part of it is missing."""
    segments.ensure_host(host)
    if not is_whole(host):
        _start(host)
    _ensure_daemons(host)
    _ensure_uplink_network(host)


def holder(host: Host) -> int | None:
    """The number, on the machine, of the host's first process. The host runs as long as this one does.

    It is the `sleep` in the host's network that is number 1 in a process namespace directly below ours.
    """
    for pid in namespaces.processes(host.namespace):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            if status["Name"].strip() == "sleep" and status["NSpid"].split()[1:] == ["1"]:
                return pid
    return None


def check_owner(host: Host) -> None:
    """Raises HostError if the host runs, but belongs to a lab of the same name in another folder."""
    pid = holder(host)
    if pid is not None and _mark(host) not in Path(f"/proc/{pid}/environ").read_text().split("\0"):
        raise HostError(
            f"A lab called '{host.lab.name}' already runs from another folder than '{host.lab.folder}'.",
            "Choose another --name, or set VCLOUD_LAB_DIR as it was.",
        )


def _mark(host: Host) -> str:
    """Tells, in the holder's environment, which lab it belongs to."""
    return f"VCLOUD_LAB_FOLDER={host.lab.folder}"


def is_whole(host: Host) -> bool:
    """Whether the host has been started to the end: its last mount is in place."""
    pid = holder(host)
    source, target = texts.mounts(host)[-1]
    try:
        return pid is not None and Path(f"/proc/{pid}/root{target}").samefile(source)
    except FileNotFoundError:
        return False


def enter(host: Host) -> list[str]:
    """The words before a command that run it on the host.

    Raises:
        HostError: the host does not run.
    """
    pid = holder(host)
    if pid is None:
        raise HostError(f"Host '{host.name}' of lab '{host.lab.name}' does not run.", f"Run: vcloud lab up --name {host.lab.name}")
    return ["nsenter", f"--target={pid}", "--mount", "--uts", "--net", "--pid"]


def daemons(host: Host) -> dict[str, bool]:
    """Each of the host's daemons, and whether it listens."""
    heard = namespaces.listening(host.namespace)
    return {
        "virtlogd": any(address.endswith("/libvirt/virtlogd-sock") for address in heard),
        "libvirtd": any(address.endswith("/libvirt/libvirt-sock") for address in heard),
        "sshd": f"{host.management4}:22" in heard,
    }


def _start(host: Host) -> None:
    """Like power-on: nothing of an earlier life runs, and /run is empty."""
    namespaces.kill_all(host.namespace)
    _write_files(host)
    argv = [
        *namespaces.enter(host.namespace),
        *("unshare", "--mount", "--propagation=slave", "--uts", "--pid", "--fork", "--mount-proc"),
        # The kernel buries the children of a process that ignores SIGCHLD. So the host's first process need not do it.
        *("env", "--ignore-signal=CHLD", _mark(host), "sleep", "infinity"),
    ]
    with (host.folder / "holder.log").open("w") as log:
        subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=ENVIRONMENT, cwd="/", start_new_session=True)
    wait_for(f"The start of host '{host.name}'", lambda: holder(host) is not None, 10)
    run([*enter(host), "hostname", host.name])
    # A new sysfs, because the old one shows the interfaces of the machine. The machine's cgroups go with the old one.
    run([*enter(host), "umount", "--recursive", "--lazy", "/sys"])
    run([*enter(host), "mount", "--all", "--fstab", str(host.folder / "fstab")])


def _write_files(host: Host) -> None:
    shutil.rmtree(host.behind(Path("/run")), ignore_errors=True)
    for folder in PRIVATE_FOLDERS:
        folder.mkdir(parents=True, exist_ok=True)
        host.behind(folder).mkdir(parents=True, exist_ok=True)
    for path in ("/run/sshd", "/run/lock", "/var/log/libvirt", "/var/lib/libvirt/images"):
        host.behind(Path(path)).mkdir(exist_ok=True)
    host.behind(Path("/tmp")).chmod(0o1777)  # noqa: S108
    ensure_key(host.host_key, host.name)
    configs = {
        str(texts.HOSTS): texts.hosts_file(host.lab),
        "/etc/libvirt/libvirtd.conf": texts.libvirtd_conf(host),
        "/etc/libvirt/qemu.conf": texts.qemu_conf(),
        "/etc/ssh/sshd_config": texts.sshd_config(host),
        "/etc/ssh/authorized_keys": host.lab.key.with_suffix(".pub").read_text(),
        "/etc/libvirt/uplink.xml": texts.uplink_network(host),
    }
    for path, text in configs.items():
        host.behind(Path(path)).write_text(text)
    (host.folder / "fstab").write_text(texts.fstab(host))


def ensure_key(path: Path, comment: str) -> None:
    """An ed25519 key pair. The public half is written last: where it is, the pair is whole."""
    if not path.with_suffix(".pub").exists():
        path.unlink(missing_ok=True)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])


def _ensure_daemons(host: Host) -> None:
    alive = daemons(host)
    if not alive["virtlogd"]:
        run([*enter(host), "virtlogd", "--daemon"])
    if not alive["libvirtd"]:
        _warm_capabilities(host)
        run([*SMALL_PAGES, *enter(host), "libvirtd", "--daemon"])
    if not alive["sshd"]:
        run([*enter(host), str(namespaces.program("sshd")), "-E", "/var/log/sshd.log"])  # sshd insists on its full path
    wait_for(f"The start of the daemons of host '{host.name}'", lambda: all(daemons(host).values()), 30)


def _warm_capabilities(host: Host) -> None:
    """Without a cache libvirtd starts every QEMU program several times before it answers, which takes seconds."""
    mine = host.behind(CAPABILITIES)
    caches = [CAPABILITIES, *(other.behind(CAPABILITIES) for other in host.lab.hosts() if other != host)]
    warm = next((cache for cache in caches if cache.is_dir() and any(cache.iterdir())), None)
    if warm and not mine.exists():
        shutil.copytree(warm, mine)


def _ensure_uplink_network(host: Host) -> None:
    if "uplink" not in _virsh(host, "net-list", "--name").split():
        _virsh(host, "net-define", str(host.behind(Path("/etc/libvirt/uplink.xml"))))
        _virsh(host, "net-autostart", "uplink")
        _virsh(host, "net-start", "uplink")


def _virsh(host: Host, *command: str) -> str:
    return run(["virsh", "--quiet", "--connect", host.local_uri, *command])
