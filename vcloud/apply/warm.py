"""Makes the templates that a vApp's VMs wake from, without the vApp."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from vcloud.apply.stock import Stock
from vcloud.apply.target import proven_accelerator, target_of
from vcloud.apply.up import Request
from vcloud.apply.wake import Waker
from vcloud.fleet.fleet import open_fleet
from vcloud.hosts.storage import Store
from vcloud.hosts.templates import Template
from vcloud.placement.place import on_one
from vcloud.reporter import Reporter


def warm(request: Request, connect: str | None, reporter: Reporter) -> tuple[Template, ...]:
    """Makes the memory images for all VMs of a vApp, but for those that the host has. Returns all of them.

    Raises VcloudError where one cannot be made.
    """
    design = request.design
    with open_fleet(connect) as fleet:
        host, state = fleet.home, fleet.state_of(design.vapp)
        store, placement = Store(host), on_one(design, host.name)
        stock = Stock.of(design)
        stock.build(reporter)
        accelerator = proven_accelerator(host, store, stock, state, request.accelerator, reporter)
        target = target_of(host, design, placement, state, accelerator)
        waker = Waker(host, store, target, reporter, store.image_digests())
        chosen = waker.choose(design.vms, stock.upload(store, design.vms, reporter))
        with ThreadPoolExecutor(max(1, len(chosen))) as pool:
            list(pool.map(waker.make, [key for key, _ in chosen]))
        return waker.made()
