"""Makes the templates that a vApp's VMs wake from, without the vApp."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vcloud.apply.target import proven_accelerator, target_of
from vcloud.apply.wake import Waker
from vcloud.hosts.connection import open_host
from vcloud.hosts.inventory import choose_host
from vcloud.hosts.observe import observe_vapp
from vcloud.hosts.storage import Store
from vcloud.hosts.templates import Template
from vcloud.pipeline import design_of, load_file
from vcloud.reporter import Reporter


def warm(path: Path, parameters: Mapping[str, str], connect: str | None, choice: str, reporter: Reporter) -> tuple[Template, ...]:
    """The templates for all VMs of a file; what is there already is not made again. `choice` of the accelerator is auto, kvm or tcg.

    Raises VcloudError where one cannot be made.
    """
    design = design_of(load_file(path, parameters))
    with open_host(choose_host(connect)) as host:
        state, store = observe_vapp(host, design.vapp), Store(host)
        target = target_of(host, design, state, "tcg")
        target.stock.build(reporter)
        target = target_of(host, design, state, proven_accelerator(host, store, target.stock, state, choice, reporter))
        boots = target.stock.upload(store, design.vms, reporter)
        waker = Waker(host, store, target, reporter, store.image_digests())
        models = waker.plan(design.vms, boots)
        with ThreadPoolExecutor(max(1, len(models))) as pool:
            waker.begin(pool, models, boots)
            return tuple(waker.made())
