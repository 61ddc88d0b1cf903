"""What a prepared host has: the steps that prepare it, judged from what was seen of it. Pure.

`vcloud host add` runs these steps, and `host check` and `doctor` tell which of them are missing.
`vcloud.hosts.preparing` looks at a host and runs the commands.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

POOL_FOLDER: Final = "/var/lib/libvirt/images/vcloud"
OPERATORS: Final = "/etc/libvirt/vcloud/operators"
QEMU_CONF: Final = "/etc/libvirt/qemu.conf"
SSHD_LIMITS: Final = "/etc/ssh/sshd_config.d/00-vcloud.conf"
"""sshd takes the first value that it reads, in the order of the names of these files."""
SSHD: Final = "/usr/sbin/sshd"
SOCKETS: Final = {
    "libvirtd": "/run/libvirt/libvirt-sock",
    "virtqemud": "/run/libvirt/virtqemud-sock",
}
"""Daemon of libvirt -> the socket at which it answers, or systemd for it."""
GROUP: Final = "libvirt"
"""Its members may use libvirt's system daemon (polkit), which is as much as to be root."""
DEBIAN: Final = ("12", "13")
"""The releases of Debian that vcloud prepares."""
ARCHITECTURE: Final = "amd64"
PACKAGES: Final = (
    *("qemu-system-x86", "qemu-utils", "libvirt-daemon-system", "libvirt-clients"),
    *("iproute2", "nftables", "openssh-client", "python3", "sudo"),
)
"""The reporter needs ip, tc and nft. The hook needs python3 and ssh-keygen."""
DRIVERS_13: Final = tuple(
    f"libvirt-daemon-{name}"
    for name in ("driver-network", "driver-nwfilter", "driver-qemu", "driver-storage", "log")
)
"""Parts of libvirt that are packages of their own since Debian 13."""
LOCKD_13: Final = ("libvirt-daemon-lock", "libvirt-daemon-plugin-lockd")
SHARED_FILESYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "ceph", "cifs", "smb2", "smbfs", "gfs", "gfs2", "gfs/gfs2", "ocfs2", "lustre"}
    | {"fuseblk", "fuse", "afs", "9p", "v9fs", "virtiofs"}
)
"""Names of stat(1), `%T`, of file systems that several hosts may have at once."""
LOGINS: Final = 100
"""SSH logins that may be in progress, and sessions of one connection. sshd's own limits are 10
(MaxStartups, MaxSessions), and two operators with 20 vApps reach them.
"""
INSTALL_SECONDS: Final = 1800
SECONDS: Final = 120
_APT: Final = ("apt-get", "-o", "DPkg::Lock::Timeout=120", "-o", "DPkg::Options::=--force-confold")
"""Waits while somebody else installs, and keeps the settings of the host's administrator."""
_BROKEN_PACKAGE: Final = frozenset("UFHWt")
"""The second letters of dpkg's states of a package that is half installed."""


@dataclass(frozen=True, slots=True)
class OwnFile:
    """A file of root that vcloud writes on a host."""

    path: str
    content: bytes
    mode: int
    beside: str
    """Where it is written first, on the same file system. Nothing reads it by that name."""
    judge: tuple[str, ...] = ()
    """A command that must accept the written file, before it takes its place; its path is appended."""

    @property
    def digest(self) -> str:
        """SHA-256 in hex."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What this release installs on a host."""

    hook: OwnFile
    reporter: OwnFile
    rule: OwnFile
    """Lets users of group libvirt run the reporter by sudo."""
    operator: str = ""
    """The line of OPERATORS for a key that the host shall trust; empty: none is asked for."""
    fingerprint: str = ""
    """Of that key."""

    @property
    def files(self) -> tuple[OwnFile, ...]:
        return self.hook, self.reporter, self.rule


@dataclass(frozen=True, slots=True)
class Release:
    """A distribution, by /etc/os-release (os-release(5))."""

    id: str
    version: str
    name: str
    """For people."""

    @property
    def is_prepared(self) -> bool:
        """Whether vcloud knows how to prepare it."""
        return self.id == "debian" and self.version in DEBIAN


@dataclass(frozen=True, slots=True)
class SeenFile:
    """A file or folder of a host."""

    kind: str
    """stat(1)'s word, such as `regular file`, `directory` or `socket`."""
    uid: int
    mode: int
    digest: str = ""
    """SHA-256 in hex of a regular file; empty where it could not be read."""

    @property
    def is_open(self) -> bool:
        """Whether others than root may write to it."""
        return self.uid != 0 or bool(self.mode & 0o022)


@dataclass(frozen=True, slots=True)
class SeenHost:
    """What was seen of a host. It changes nothing there to look."""

    user: str
    """Who logs in."""
    uid: int
    sudo: bool = False
    """Whether this user may run anything as root without a password."""
    groups: frozenset[str] = frozenset()
    release: Release | None = None
    architecture: str = ""
    """dpkg's word; empty where there is no dpkg."""
    packages: Mapping[str, str] | None = None
    """Package -> dpkg's state of it, such as `ii`; None: there is no dpkg."""
    files: Mapping[str, SeenFile] | None = None
    """By path, what is there of all that was looked for."""
    hidden: frozenset[str] = frozenset()
    """Paths of which this user cannot see whether they exist."""
    operators: str | None = None
    """The host's list of operators; None: it has none."""
    trusted: frozenset[str] = frozenset()
    """The fingerprints of the keys in it."""
    logins: tuple[int, int] | None = None
    """sshd's MaxStartups and MaxSessions; None: this user cannot ask, or it is not asked over ssh."""
    filesystem: str = ""
    """Of the folder of the storage pool, by stat(1)'s name."""
    has_lock_manager: bool | None = None
    """Whether qemu.conf names one; None: this user cannot read it."""
    hook_answers: bool | None = None
    """Whether libvirt asks vcloud's hook; None: libvirt was not asked."""

    @property
    def may_be_root(self) -> bool:
        return self.uid == 0 or self.sudo

    @property
    def daemon(self) -> str:
        """The daemon of libvirt that has the VMs."""
        return "virtqemud" if SOCKETS["virtqemud"] in self.found else "libvirtd"

    @property
    def found(self) -> Mapping[str, SeenFile]:
        return self.files or {}

    @property
    def is_shared(self) -> bool:
        """Whether other hosts may have the same storage pool."""
        return self.filesystem in SHARED_FILESYSTEMS


@dataclass(frozen=True, slots=True)
class Command:
    """One command on a host, without a shell."""

    argv: tuple[str, ...]
    stdin: bytes = b""
    seconds: float = SECONDS

    def __str__(self) -> str:
        """As a person may type it; of what it reads only the size is told."""
        reads = f"  (reads {len(self.stdin)} bytes from vcloud)" if self.stdin else ""
        return shlex.join(self.argv) + reads


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a prepared host has."""

    name: str
    why: str
    """What it is for, as a sentence."""
    done: bool | None
    """None: the user who logs in cannot see it."""
    missing: str = ""
    """What is missing, as a sentence without an end; empty where it is done."""
    commands: tuple[Command, ...] = ()
    """What root runs to do it, in this order."""


def steps_of(seen: SeenHost, wanted: Wanted) -> tuple[Step, ...]:
    """All that a prepared host has, in the order in which it is done."""
    steps = (
        _packages(seen),
        _daemon(seen),
        *_access(seen),
        _storage(seen),
        *_locks(seen),
        _hook(seen, wanted.hook),
        _reporter(seen, wanted),
        *_operator(seen, wanted),
        *_logins(seen),
    )
    steps = (*steps, *_restart(seen, steps))
    return steps if seen.uid == 0 or not seen.sudo else tuple(map(_by_sudo, steps))


def left_of(steps: Iterable[Step]) -> tuple[Step, ...]:
    """The steps that are to be done."""
    return tuple(step for step in steps if step.done is False)


def why_not(seen: SeenHost, steps: Iterable[Step]) -> Iterator[tuple[str, str]]:
    """Why the host cannot be prepared: sentences without an end, each with a way out. Nothing where
    no step is left.
    """
    if not left_of(steps):
        return
    if not seen.may_be_root:
        yield (
            f"'{seen.user}' is not root there, and may not become root by sudo without a password",
            "Name root in the URI: qemu+ssh://root@HOST/system.",
        )
    if seen.release is None or not seen.release.is_prepared:
        name = seen.release.name if seen.release else "an unknown system"
        yield (
            f"it runs {name}, and vcloud prepares Debian {' and '.join(DEBIAN)} only",
            "Prepare it by hand: libvirt and QEMU from its packages, then `vcloud doctor --fix` there as root. Then write it into the inventory.",
        )
    elif seen.architecture != ARCHITECTURE:
        yield (
            f"its packages are those of {seen.architecture or 'an unknown architecture'}, and the images of vcloud are for {ARCHITECTURE}",
            "Choose another host.",
        )
    for path in sorted(open_folders(seen)):
        yield (
            f"others than root may write to '{path}', so nothing that runs as root is installed below it",
            f"As root there: chown root {path}; chmod go-w {path}",
        )


def open_folders(seen: SeenHost) -> frozenset[str]:
    """Folders where somebody but root could put another file in the place of one that root runs."""
    return frozenset(
        path
        for path, found in seen.found.items()
        if found.kind == "directory" and path != POOL_FOLDER and found.is_open
    )


def folders_above(path: str) -> tuple[str, ...]:
    """All folders above an absolute path, `/` first."""
    parts = path.split("/")[1:-1]
    return "/", *("/" + "/".join(parts[: count + 1]) for count in range(len(parts)))


def looked_at(wanted: Wanted) -> tuple[str, ...]:
    """The paths that are looked at on a host."""
    folders = {above for file in wanted.files for above in folders_above(file.path)}
    files = (file.path for file in wanted.files)
    return (*sorted(folders), *files, POOL_FOLDER, *SOCKETS.values())


def packages_for(release: Release | None, *, shared: bool = False) -> tuple[str, ...]:
    """The packages that a host needs. `shared`: other hosts may have the same storage pool."""
    if release is not None and release.version == "13":
        return (*PACKAGES, *DRIVERS_13, *(LOCKD_13 if shared else ()))
    return PACKAGES


def writing(file: OwnFile) -> tuple[Command, ...]:
    """The commands that put a file in its place in one step, for whoever reads it at this moment."""
    put = ("install", "-m", f"{file.mode:o}", "-o", "root", "-g", "root", "/dev/stdin", file.beside)
    return (
        Command(("mkdir", "-p", "-m", "755", file.folder)),
        Command(put, file.content),
        Command(("sync", file.beside)),
        *((Command((*file.judge, file.beside)),) if file.judge else ()),
        Command(("mv", "-f", "-T", file.beside, file.path)),
    )


def _by_sudo(step: Step) -> Step:
    return replace(
        step,
        commands=tuple(
            replace(command, argv=("sudo", "-n", *command.argv)) for command in step.commands
        ),
    )


def _packages(seen: SeenHost) -> Step:
    why = "VMs run by libvirt and QEMU."
    if seen.packages is None or seen.release is None or not seen.release.is_prepared:
        return Step("packages", why, None, "nobody knows which packages it needs")
    states = seen.packages
    missing = [
        name
        for name in packages_for(seen.release, shared=seen.is_shared)
        if states.get(name, "")[1:2] != "i"
    ]
    broken = any(state[1:2] in _BROKEN_PACKAGE for state in states.values())
    repair = (Command(("dpkg", "--configure", "-a"), b"", INSTALL_SECONDS),) if broken else ()
    install = ("install", "-y", "--no-install-recommends", *missing)
    return Step(
        "packages",
        why,
        done=not missing,
        missing=f"packages are not installed: {', '.join(missing)}" if missing else "",
        commands=(
            *repair,
            Command((*_APT, "update"), b"", INSTALL_SECONDS),
            Command(
                ("env", "DEBIAN_FRONTEND=noninteractive", *_APT, *install), b"", INSTALL_SECONDS
            ),
        )
        if missing
        else (),
    )


def _daemon(seen: SeenHost) -> Step:
    runs = any(socket in seen.found for socket in SOCKETS.values())
    return _step(
        "libvirt",
        "vcloud speaks to libvirt's daemon.",
        runs,
        "libvirt's daemon does not run",
        Command(("systemctl", "enable", "--now", f"{seen.daemon}.service")),
    )


def _access(seen: SeenHost) -> Iterator[Step]:
    if seen.uid != 0:
        yield _step(
            "group",
            f"Members of the group {GROUP} may use libvirt.",
            GROUP in seen.groups,
            f"'{seen.user}' is not in the group {GROUP}",
            Command(("usermod", "-aG", GROUP, seen.user)),
        )


def _storage(seen: SeenHost) -> Step:
    found = seen.found.get(POOL_FOLDER)
    done = True if found else None if POOL_FOLDER in seen.hidden else False
    return _step(
        "pool folder",
        "Disks and images lie in it. QEMU, which is another user, opens them by name.",
        done,
        f"the folder {POOL_FOLDER} is missing",
        Command(("install", "-d", "-m", "711", POOL_FOLDER)),
    )


def _locks(seen: SeenHost) -> Iterator[Step]:
    if not seen.is_shared:
        return
    yield _step(
        "virtlockd",
        f"Other hosts may have the same {seen.filesystem}. virtlockd keeps two of them from writing to one disk.",
        seen.has_lock_manager,
        f"{QEMU_CONF} names no lock_manager",
        Command(("sed", "-i", '$a lock_manager = "lockd"', QEMU_CONF)),
        Command(("systemctl", "enable", "--now", "virtlockd.socket")),
    )


def _hook(seen: SeenHost, hook: OwnFile) -> Step:
    return _step(
        "hook",
        "libvirt asks it at each start whether the VM may share the host.",
        _stands(seen, hook),
        "libvirt's hook is missing, or not that of this release",
        *writing(hook),
    )


def _reporter(seen: SeenHost, wanted: Wanted) -> Step:
    stands = (_stands(seen, wanted.reporter), _stands(seen, wanted.rule))
    return _step(
        "reporter",
        "With it, users of group libvirt look at bridges, filters and processes.",
        False if False in stands else None if None in stands else True,
        "the reporter of the host's side is missing, or not that of this release",
        *writing(wanted.reporter),
        *writing(wanted.rule),
    )


def _stands(seen: SeenHost, file: OwnFile) -> bool | None:
    """Whether a file is as vcloud writes it; None: this user cannot see it."""
    found = seen.found.get(file.path)
    if found is None:
        return None if file.path in seen.hidden else False
    if found.kind != "regular file" or found.is_open or found.mode != file.mode:
        return False
    return found.digest == file.digest if found.digest else None


def _operator(seen: SeenHost, wanted: Wanted) -> Iterator[Step]:
    if wanted.operator:
        before = seen.operators or ""
        end = "" if not before or before.endswith("\n") else "\n"
        text = (before + end + wanted.operator).encode()
        yield _step(
            "operator",
            "From the first trusted key on, no VM of a vApp starts there whose terms are not signed.",
            wanted.fingerprint in seen.trusted,
            f"the host does not trust the key {wanted.fingerprint}",
            *writing(OwnFile(OPERATORS, text, 0o644, f"{OPERATORS}.new")),
        )


def _logins(seen: SeenHost) -> Iterator[Step]:
    if seen.logins is not None:
        startups, sessions = (max(one, LOGINS) for one in seen.logins)
        content = f"# `vcloud host add` has written this file.\nMaxStartups {startups}\nMaxSessions {sessions}\n"
        limits = OwnFile(SSHD_LIMITS, content.encode(), 0o644, "/etc/ssh/vcloud.conf.new")
        yield _step(
            "limits",
            "sshd refuses logins of commands that run side by side.",
            min(seen.logins) >= LOGINS,
            f"sshd allows {seen.logins[0]} logins in progress and {seen.logins[1]} sessions of one connection",
            *writing(replace(limits, judge=(SSHD, "-t", "-f"))),
            Command(("systemctl", "try-reload-or-restart", "ssh.service")),
        )


def _restart(seen: SeenHost, steps: Iterable[Step]) -> Iterator[Step]:
    """libvirt looks for hooks, and reads qemu.conf, only when its daemon starts."""
    left = {step.name: step for step in left_of(steps)}
    is_new = "hook" in left and seen.hook_answers is not True
    is_deaf = seen.hook_answers is False
    yield _step(
        "restart",
        "libvirt looks for its hook when its daemon starts. VMs run on.",
        not (is_new or is_deaf or "virtlockd" in left)
        if seen.hook_answers is not None or left
        else None,
        "libvirt does not ask the hook yet",
        Command(("systemctl", "restart", f"{seen.daemon}.service")),
    )


def _step(name: str, why: str, done: bool | None, missing: str, *commands: Command) -> Step:
    if done:
        return Step(name, why, done)
    return Step(name, why, done, missing, commands)
