"""What a VM shares with no other VM of its host, as its file says it, and later its profiles."""

from __future__ import annotations

from dataclasses import dataclass

from vcloud.design.origin import Origin, Product

PRODUCT = Product()


@dataclass(frozen=True, slots=True)
class Isolation:
    """The demands of one VM. Those of its vApp are among them."""

    own_cpus: bool = False
    """Each of its virtual CPUs is pinned to a processor of a core that VMs of no other vApp use."""
    locked_memory: bool = False
    """The host never swaps out its memory."""
    no_page_sharing: bool = False
    """The kernel of the host merges none of its pages with equal ones."""
    svirt: bool = False
    """A security driver of libvirt's labels its process."""
    origin: Origin = PRODUCT
    """The section of the file; the product where nothing is demanded."""


NO_ISOLATION = Isolation()
