"""Which of several copies of a vApp counts. There are several where a person said that a host is dead, and
`up` placed the vApp elsewhere, and the host has come back. And there are two while a vApp is moved.

A person's word counts more than generations: a generation is a time or higher, and a run that could
not see the copy on the dead host could not go above it for sure.

Of the two copies of a move, the one on the source counts until its manifest says that the move has
switched. From then on the one on the destination counts. So one write of one manifest decides, and
there is no moment in which both count or none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from vcloud.errors import UnreachableError, UsageError, VcloudError
from vcloud.plan.manifest import Manifest, Move
from vcloud.plan.state import VappState
from vcloud.plan.steps import STARTED, Plan, Uncompared


def newest_copy(copies: Mapping[str, Manifest]) -> str | None:
    """The host whose copy is newer than all others; None where that cannot be told."""
    counting = {host: one for host, one in copies.items() if not gives_way(host, copies)}
    return next(
        (
            host
            for host in counting
            if all(_is_newer(counting, host, other) for other in counting if other != host)
        ),
        None,
    )


def gives_way(host: str, copies: Mapping[str, Manifest]) -> bool:
    """Whether the copy on a host does not count because of a move: it was left behind, or it is not
    complete, or nobody knows that it is. `copies` are all that could be read.
    """
    move = copies[host].move
    if move is None:
        return False
    if host == move.source:
        return move.switched
    return not has_switched(move, copies)


def has_switched(move: Move, copies: Mapping[str, Manifest]) -> bool:
    """Whether the copy on the destination counts. `move` is what any of the two manifests says. The
    source's decides if it can be read.
    """
    source = copies.get(move.source)
    if source is None or source.move is None or source.move.id != move.id:
        return move.switched
    return source.move.switched


def refuse_moved(host: str, manifest: Manifest) -> None:
    """Raises UnreachableError if no VM of the copy on this host may be started, because of a move that has
    not ended. Only the manifest of this copy is known.
    """
    move, vapp = manifest.move, manifest.design.instance.name
    if move is None or not gives_way(host, {host: manifest}):
        return
    why = (
        f"it was moved to {move.destination}"
        if host == move.source
        else f"only {move.source} knows whether it is complete"
    )
    raise UnreachableError(
        f"the copy of '{vapp}' on {host} does not count: {why}",
        "Nothing was started. `vcloud up` ends the move when both hosts can be reached.",
    )


def refuse_unsaid(vapp: str, home: str, newest: Manifest | None, older: Collection[str]) -> None:
    """Raises UsageError where an older copy may not be removed: only its generation says that it is
    superseded. Nobody has said that its host was dead, and it is no copy of a move.
    """
    said = {*newest.replaced} if newest else set()
    if newest and newest.move:
        said |= {newest.move.source, newest.move.destination}
    if unsaid := sorted({*older} - said):
        raise UsageError(
            f"'{vapp}' is on {home} and on {', '.join(unsaid)}, and nobody has said that one replaces the other, so none is removed",
            f"Name one host: --connect {'|'.join((home, *unsaid))}. The copy on {home} has the higher generation.",
        )


def uncompared(
    plan: Plan, state: VappState, unknown: Mapping[str, VcloudError]
) -> tuple[Uncompared, ...]:
    """The hosts that may have a newer copy than the one that the plan starts. A copy of which a VM
    runs is not started, and it is newer than what a host has that was said to be dead, or than the other copy of
    a move.

    Args:
        plan: the plan for the copy.
        state: the state of that copy.
        unknown: name of each host that could not be asked -> the reason.
    """
    if not plan.has(*STARTED) or any(
        domain.running for domain in state.domains if domain.is_of(plan.vapp)
    ):
        return ()
    said = {*state.manifest.replaced} if state.manifest else set()
    move = state.manifest.move if state.manifest else None
    if state.manifest and move and not gives_way(plan.host, {plan.host: state.manifest}):
        said |= {move.source, move.destination}
    return tuple(
        Uncompared(host, error.what) for host, error in sorted(unknown.items()) if host not in said
    )


def _is_newer(copies: Mapping[str, Manifest], host: str, other: str) -> bool:
    mine, its = copies[host], copies[other]
    replaces, is_replaced = other in mine.replaced, host in its.replaced
    if replaces and is_replaced:
        return False  # Each host was said to be dead once, so only a person can decide.
    return replaces or (not is_replaced and mine.generation > its.generation)
