"""The capabilities of a host, as far as a vApp depends on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

MOST_OVERCOMMIT = 10
"""The largest `overcommit` of a host."""
CPU_OVERCOMMIT = 16
"""The CPUs that VMs may have for each processor of their host, where the inventory says nothing."""
MOST_CPU_OVERCOMMIT = 64
"""The largest `cpu_overcommit` of a host."""


UNLIMITED = 1 << 63
"""Bytes; more than any host has."""


class Version(NamedTuple):
    """A version of libvirt or QEMU. Of two versions the later one is greater."""

    major: int
    minor: int
    release: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.release}"


@dataclass(frozen=True, slots=True)
class HookAnswer:
    """What the hook of a host says of a vApp that is about to start there."""

    exists: bool
    """Whether a hook of vcloud's answered. Without one, the host keeps nobody apart."""
    refusal: str = ""
    """Why a VM of the vApp cannot start there; empty if it can."""
    knows: bool = True
    """Whether it is a rule that refuses. Otherwise something there cannot be read, so that nothing of
    a vApp starts.
    """
    digest: str = ""
    """SHA-256 of the hook, by its own word."""
    trusts: bool = True
    """Whether terms count there that the user's operator signs, or the host asks for no signatures."""
    newest: int = 0
    """The generation of the newest signed terms of the vApp's VMs that the hook knows."""


@dataclass(frozen=True, slots=True)
class RunningVm:
    """The memory of a domain that runs on a host, whoever started it."""

    domain: str
    promised: int
    """Bytes that the guest may take."""
    held: int
    """Bytes that its QEMU process has taken."""
    cpus: int = 0
    """CPUs of the guest."""


@dataclass(frozen=True, slots=True)
class Storage:
    """The file system of a host's storage pool."""

    folder: str
    free: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Locking:
    """Whether libvirt of a host can lock the memory of VMs."""

    limits_memory: bool = True
    """The host has a memory controller of cgroups. libvirt starts no VM with a limit without one."""
    most: int = UNLIMITED
    """Bytes that libvirt's daemon can let a QEMU process lock."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """One host, as its libvirt describes it."""

    host: str
    """Its name in the inventory."""
    processors: int
    memory: int
    """Bytes."""
    libvirt: Version
    qemu: Version
    no_filters: str = ""
    """Why libvirt on this host has no network filters, which bind a VM to its own MAC address;
    empty where it has them.
    """
    free_memory: int = 0
    """Bytes that programs can still get, with those of the caches, which the kernel gives up."""
    running: tuple[RunningVm, ...] = ()
    overcommit: float = 1
    """How many times its memory the host may promise to VMs, as the inventory says."""
    cpu_overcommit: float = CPU_OVERCOMMIT
    """How many CPUs VMs may have for each processor of the host, as the inventory says."""
    storage: Storage | None = None
    """None: the host has no storage pool yet, or its pool is stopped."""
    locking: Locking | None = None
    """None: it is not known, because nobody has asked, or could ask."""
