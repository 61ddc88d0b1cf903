"""Chooses what `vcloud up` does with an appliance that differs from what was delivered. Pure.

It chooses the least disruptive step that mends all differences of an appliance. Rules are loaded
live. An identity is given live, which also removes everything that it does not name. Only a restart
removes links, traffic control and programs that somebody has added.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from vcloud.design.model import Design, Role, Vm
from vcloud.plan.steps import Verb
from vcloud.proof.checks import Kind, Outcome
from vcloud.proof.guest_network import Claim
from vcloud.proof.observed import Verdict

_LEAST_FIRST: Final = (Verb.LOAD_FIREWALL, Verb.LOAD_IPS, Verb.CONFIGURE_VM, Verb.RESTART_VM)
_BY_RESTART: Final[Mapping[str, Verb]] = dict.fromkeys(
    (Claim.LINKS, Claim.QUEUES, Claim.FRAMES), Verb.RESTART_VM
)
_BY_IDENTITY: Final[Mapping[str, Verb]] = dict.fromkeys(
    ("identity", Claim.SETTINGS), Verb.CONFIGURE_VM
)
_MENDS: Final[Mapping[Role, Mapping[str, Verb]]] = {
    Role.FIREWALL: {
        **dict.fromkeys(("ruleset", "kept", "tables"), Verb.LOAD_FIREWALL),
        **_BY_IDENTITY,
        Claim.ROUTING: Verb.CONFIGURE_VM,
        **_BY_RESTART,
        Claim.HOOKS: Verb.RESTART_VM,
    },
    Role.IPS: {
        **dict.fromkeys(("files", "running", "memory"), Verb.LOAD_IPS),
        **_BY_IDENTITY,
        Claim.ROUTING: Verb.RESTART_VM,
        **_BY_RESTART,
        "inline": Verb.RESTART_VM,
    },
}
"""Last part of the id of a check of the configuration -> the step that mends it."""


@dataclass(frozen=True, slots=True)
class Mend:
    """The step for one appliance. A restart and a new identity also load its rules."""

    vm: str
    verb: Verb
    """`LOAD_FIREWALL`, `LOAD_IPS`, `CONFIGURE_VM` or `RESTART_VM`."""
    why: str
    """All differences, as text."""


def mends(design: Design, verdicts: Iterable[Verdict]) -> tuple[Mend, ...]:
    """The steps that mend the appliances of a design, at most one for each. Only verdicts on their
    configuration count (`vcloud.proof.config.config_verdicts`). An appliance that does not answer
    is restarted, because its state is not known.
    """
    told = [verdict for verdict in verdicts if verdict.check.kind is Kind.CONFIG]
    failed = [verdict for verdict in told if mend_of(verdict)]
    return tuple(
        mend for vm in design.appliances if (mend := _silent(vm, told) or _mend(vm, failed))
    )


def mend_of(verdict: Verdict) -> Verb | None:
    """The step that mends one difference; None for a claim that holds, that could not be compared,
    or that is not about the configuration of an appliance.
    """
    if verdict.check.kind is not Kind.CONFIG or verdict.outcome is not Outcome.FAIL:
        return None
    role, key = _key(verdict)
    return _MENDS[Role(role)].get(key) if role in (Role.FIREWALL, Role.IPS) else None


def _silent(vm: Vm, told: Iterable[Verdict]) -> Mend | None:
    """The restart of an appliance that has answered no question about its configuration."""
    outcomes = {verdict.outcome for verdict in told if _key(verdict)[0] == vm.role}
    if Outcome.ERROR not in outcomes or outcomes & {Outcome.PASS, Outcome.FAIL}:
        return None
    return Mend(vm.name, Verb.RESTART_VM, "it does not answer")


def _mend(vm: Vm, failed: Iterable[Verdict]) -> Mend | None:
    own = {key: verdict for verdict in failed for role, key in [_key(verdict)] if role == vm.role}
    needed = [verb for verdict in own.values() if (verb := mend_of(verdict))]
    if not needed:
        return None
    why = "; ".join(
        f"this is not true: {verdict.check.claim} ({verdict.detail})" for verdict in own.values()
    )
    return Mend(vm.name, max(needed, key=_LEAST_FIRST.index), why)


def _key(verdict: Verdict) -> tuple[str, str]:
    """The appliance's role and the last part of the check's id: `config/firewall/kept`."""
    _, _, rest = verdict.check.id.partition("/")
    role, _, key = rest.partition("/")
    return role, key
