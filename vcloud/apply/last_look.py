"""Looks at a VM once more just before a step stops it. Minutes may have passed since the plan was made:
images were uploaded, or other steps ran. A backup may have put a snapshot over a disk meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from vcloud.apply.run import Run
from vcloud.errors import VcloudError
from vcloud.hosts.observe import observe_domain
from vcloud.plan.state import VappState
from vcloud.plan.steps import Loss


def refuse_more_losses(
    run: Run, domain: str, losses: Callable[[VappState], Iterable[Loss]]
) -> None:
    """Raises VcloudError if a step would destroy other data of this domain than it would have when
    the plan was made. `losses` says what the step destroys in a state.
    """
    found = observe_domain(run.host, domain, with_saved=True)
    others = (one for one in run.state.domains if one.name != domain)
    now = replace(run.state, domains=(*others, *([found] if found else [])))
    named = {loss.what for loss in losses(run.state)}
    if more := [str(loss) for loss in losses(now) if loss.what not in named]:
        raise VcloudError(
            f"somebody has changed '{domain}' since the plan was made, and data would be lost: {'; '.join(more)}",
            "This VM was not touched. See `vcloud plan`, then run `vcloud up` again.",
        )
