"""The sections `isolation` of a vApp file: what the processors and the memory of its VMs share with
nobody. Each key is a demand, and no key takes a demand back.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import Field

from vcloud.spec import fields
from vcloud.spec.base import Spec


class Cpus(StrEnum):
    """The cores that the virtual CPUs of a VM may use."""

    OWN = "own"


class Memory(StrEnum):
    """What the host may do with the memory of a VM."""

    LOCKED = "locked"


class Forbidden(StrEnum):
    """What must not be."""

    FORBIDDEN = "forbidden"


class Required(StrEnum):
    """What must be."""

    REQUIRED = "required"


def _cpus() -> Any:
    return Field(
        None,
        description="own: each virtual CPU is pinned to a core of the host that VMs of no other vApp use.",
    )


def _memory() -> Any:
    return Field(None, description="locked: the host keeps the memory, and never swaps it out.")


def _page_sharing() -> Any:
    return Field(
        None, description="forbidden: the host merges no page of the memory with an equal one."
    )


class VmIsolation(Spec):
    """What one VM demands in addition to its vApp."""

    cpus: fields.Optional[Cpus] = _cpus()
    memory: fields.Optional[Memory] = _memory()
    page_sharing: fields.Optional[Forbidden] = _page_sharing()


class Isolation(Spec):
    """What all VMs of the vApp demand, its firewall and IPS among them, and what their host must be
    like.
    """

    cpus: fields.Optional[Cpus] = _cpus()
    memory: fields.Optional[Memory] = _memory()
    page_sharing: fields.Optional[Forbidden] = _page_sharing()
    smt: fields.Optional[Forbidden] = Field(
        None, description="forbidden: no core of the host runs two threads at a time."
    )
    ksm: fields.Optional[Forbidden] = Field(
        None, description="forbidden: the host merges equal pages of no processes (KSM)."
    )
    svirt: fields.Optional[Required] = Field(
        None, description="required: AppArmor or SELinux keeps the VMs of the host apart (sVirt)."
    )
