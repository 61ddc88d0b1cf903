"""Names, paths and addresses of a lab. They are functions of the lab's name and the number of a
host.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from vcloud.design.addressing import uuid_of
from vcloud.errors import UsageError

DEFAULT_NAME = "vclab"
DEFAULT_FOLDER = Path("/var/lib/vcloud/labs")
MAX_HOSTS = 32

# Only address ranges that RFC 2544, 3849 and 5737 reserve for tests and documentation: no lab can
# hide a real network.
UPLINK4 = IPv4Network("198.18.0.0/16")
UPLINK6 = IPv6Network("2001:db8:198:18::/64")
MANAGEMENT4 = IPv4Network("198.19.0.0/24")
SERVERS4 = IPv4Network("203.0.113.0/24")
SERVERS6 = IPv6Network("2001:db8:203::/64")
GATEWAY = 1
"""The number of the simulated internet on the uplink segment, and of the operator on the management
segment.
"""
SERVER = 10
"""The number of the server to which `vcloud verify` sends probes. All servers of the simulated
internet answer on every port.
"""
HOST_OFFSET = 10
"""Host hN has number 10 + N on both segments."""

PRIVATE_FOLDERS = tuple(
    Path(path)
    for path in (
        "/etc/libvirt",
        "/etc/ssh",
        "/var/cache/libvirt",
        "/var/lib/libvirt",
        "/var/lib/vcloud",
        "/var/log",
        "/run",
        "/tmp",  # noqa: S108 - a folder of the host, nobody writes to a fixed name in it
    )
)
"""The folders that each host has for itself. In all other folders a host sees the machine's files.
"""

KVM = Path("/dev/kvm")

_NAME = re.compile(r"[a-z][a-z0-9-]{0,19}")
_FOLDER = re.compile(r"/[A-Za-z0-9/._-]*")
_SOCKET_LIMIT = 107
"""The greatest length of the path of a Unix socket in bytes (sun_path of unix(7) without its NUL).
"""


@dataclass(frozen=True, slots=True)
class Lab:
    """One lab: its name, and the folder that holds all its files."""

    name: str
    folder: Path

    @property
    def switch(self) -> str:
        """The name of the network namespace with the bridges that connect all others."""
        return f"{self.name}-switch"

    @property
    def outside(self) -> str:
        """The name of the network namespace of the simulated internet: customers, and servers."""
        return f"{self.name}-outside"

    @property
    def key(self) -> Path:
        return self.folder / "id_ed25519"

    @property
    def ssh_config(self) -> Path:
        return self.folder / "ssh_config"

    @property
    def ssh(self) -> Path:
        """A program that runs ssh with the configuration of this lab."""
        return self.folder / "ssh"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def inventory(self) -> Path:
        return self.folder / "hosts.yaml"

    @property
    def responder_log(self) -> Path:
        return self.folder / "responder.jsonl"

    def host(self, number: int) -> Host:
        return Host(self, number)

    def hosts(self) -> tuple[Host, ...]:
        """The hosts of the lab, running or not. These are the hosts that have a folder."""
        return tuple(
            host for host in map(self.host, range(1, MAX_HOSTS + 1)) if host.folder.is_dir()
        )

    def owns(self, namespace: str) -> bool:
        """Whether a network namespace belongs to this lab, judged by its name."""
        return re.fullmatch(rf"{self.name}-(switch|outside|h[0-9]+)", namespace) is not None


@dataclass(frozen=True, slots=True)
class Host:
    """Host hN of a lab."""

    lab: Lab
    number: int

    @property
    def name(self) -> str:
        return f"h{self.number}"

    @property
    def namespace(self) -> str:
        return f"{self.lab.name}-{self.name}"

    @property
    def folder(self) -> Path:
        return self.lab.folder / self.name

    def machine_path(self, path: Path) -> Path:
        """The path, on the machine, of a file in one of the host's private folders."""
        return self.folder / path.relative_to("/")

    @property
    def host_key(self) -> Path:
        return self.machine_path(Path("/etc/ssh/ssh_host_ed25519_key"))

    @property
    def failed(self) -> Path:
        """A file that exists while the host has failed, because `vcloud lab fail` let it."""
        return self.folder / "failed"

    @property
    def kvm(self) -> Path:
        """The device /dev/kvm of this host, which belongs to QEMU's user."""
        return self.folder / "kvm"

    @property
    def socket(self) -> Path:
        return self.machine_path(Path("/run/libvirt/libvirt-sock"))

    @property
    def uuid(self) -> str:
        return uuid_of("lab", self.lab.name, self.name)

    @property
    def management4(self) -> IPv4Address:
        return MANAGEMENT4[HOST_OFFSET + self.number]

    @property
    def uplink4(self) -> IPv4Address:
        return UPLINK4[HOST_OFFSET + self.number]

    @property
    def uplink6(self) -> IPv6Address:
        return UPLINK6[HOST_OFFSET + self.number]

    @property
    def uri(self) -> str:
        return f"qemu+ssh://root@{self.name}/system?command={self.lab.ssh}"

    @property
    def local_uri(self) -> str:
        return f"qemu+unix:///system?socket={self.socket}"


def lab(name: str = DEFAULT_NAME) -> Lab:
    """The lab of that name, in a folder below VCLOUD_LAB_DIR or /var/lib/vcloud/labs.

    Raises:
        UsageError: the name or the folder cannot be used in names of namespaces, in socket paths
            and in configuration files.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"'{name}' is not a valid lab name.",
            "Use at most 20 lower-case letters, digits and dashes, and begin with a letter.",
        )
    folder = Path(os.environ.get("VCLOUD_LAB_DIR") or DEFAULT_FOLDER) / name
    if not _FOLDER.fullmatch(str(folder)):
        raise UsageError(
            f"'{folder}' cannot be the folder of a lab.",
            "Set VCLOUD_LAB_DIR to an absolute path of letters, digits and '/._-'.",
        )
    found = Lab(name, folder.resolve())
    # No host has a longer name than the last one.
    if len(str(found.host(MAX_HOSTS).socket)) > _SOCKET_LIMIT:
        raise UsageError(
            f"The path '{folder}' is too long: the paths of Unix sockets below it would exceed {_SOCKET_LIMIT} bytes.",
            "Set VCLOUD_LAB_DIR to a shorter path.",
        )
    return found
