"""`vcloud up`: from a file to a protected vApp, and `vcloud plan`, which stops before the first change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from vcloud.apply.target import Target, expected_accelerator, proven_accelerator, target_of
from vcloud.apply.wake import Waker
from vcloud.apply.walk import Walk
from vcloud.errors import VcloudError
from vcloud.hosts.connection import Host, open_host
from vcloud.hosts.inventory import choose_host
from vcloud.hosts.lock import vapp_lock
from vcloud.hosts.observe import observe_vapp
from vcloud.hosts.storage import Store
from vcloud.hosts.uplink import choosing_uplink
from vcloud.pipeline import design_of, load_file
from vcloud.plan.diff import plan_changes
from vcloud.plan.steps import Plan
from vcloud.reporter import Reporter


def preview(path: Path, parameters: Mapping[str, str], connect: str | None, choice: str, *, reload: bool = False) -> Plan:
    """The plan of `up`, without changing anything anywhere. `choice` of the accelerator is auto, kvm or tcg."""
    design = design_of(load_file(path, parameters))
    with open_host(choose_host(connect)) as host:
        state = observe_vapp(host, design.vapp)
        target = target_of(host, design, state, expected_accelerator(host, state, choice))
        return plan_changes(target.wanted, state, host.name, reload=reload)


def bring_up(
    path: Path,
    parameters: Mapping[str, str],
    connect: str | None,
    choice: str,
    agreed: Callable[[Plan], bool],
    reporter: Reporter,
    *,
    cold: bool = False,
    reload: bool = False,
) -> Plan:
    """Makes the vApp of a file stand, ready and protected. Returns what was done; an empty plan changed nothing.

    `cold` boots every VM that does not run, where one might wake from a template or be restored from its saved memory. `reload` loads the
    appliances' rules again, even if nothing changed.
    """
    design = design_of(load_file(path, parameters))
    with open_host(choose_host(connect)) as host:
        state = observe_vapp(host, design.vapp)
        target = target_of(host, design, state, expected_accelerator(host, state, choice))
        plan = plan_changes(target.wanted, state, host.name, reload=reload)
        if not plan.steps:
            return plan
        if not agreed(plan):
            raise VcloudError("stopped before the first change")
        reporter.part("images")
        target.stock.build(reporter)
        with vapp_lock(host, design.vapp, "up"):
            return _apply(host, target, plan, choice, cold, reload, reporter)


def _apply(host: Host, target: Target, agreed: Plan, choice: str, cold: bool, reload: bool, reporter: Reporter) -> Plan:
    """The run itself, under the vApp's lock: looks again, because somebody may have been at work meanwhile."""
    state = observe_vapp(host, target.design.vapp)
    store = Store(host)
    known = store.image_digests()
    reporter.part("accelerator")
    accelerator = proven_accelerator(host, store, target.stock, state, choice, reporter)
    with choosing_uplink(host):
        target = target_of(host, target.design, state, accelerator)
        plan = plan_changes(target.wanted, state, host.name, reload=reload)
        refuse_unasked(plan, agreed)
        if not plan.steps:
            return plan
        waker = None if cold else Waker(host, store, target, reporter, known)
        walk = Walk(host, store, target, state, plan, reporter, waker)
        walk.claim()
    walk.go()
    return plan


def refuse_unasked(plan: Plan, agreed: Plan) -> None:
    """Raises VcloudError when more would be lost than was agreed to, because somebody has been at work since."""
    if unasked := plan.losses() - agreed.losses():
        raise VcloudError(
            f"somebody has changed '{plan.vapp}' meanwhile: now also {', '.join(sorted(unasked))} would be made anew or removed",
            "Nothing was done. See `vcloud plan`, then run `vcloud up` again.",
        )
