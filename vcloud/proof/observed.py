"""What one round of `verify` observed, and what a verdict is. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vcloud.proof.checks import Check, Listener, Outcome
from vcloud.proof.firewall_report import NOTHING, FirewallReport
from vcloud.proof.ips_report import Alert

THROUGH = frozenset({"open", "refused", "answered", "delivered", "reset"})
"""Results that are only possible if a packet reached the target and an answer came back. A refusal
is an answer.
"""
OPENED = frozenset({"open", "answered", "delivered"})
"""Results of a probe that must come through and did."""
STOPPED = frozenset({"timeout", "unreachable", "stalled"})
RESULTS = THROUGH | STOPPED | {"sent", "error"}
"""All results that the probe program can report."""
UNREADABLE = "unreadable"
"""The result of a probe whose answer is missing or is not one of `RESULTS`. The VM that sent it may
be under an attacker's control.
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the probe program reports about one probe."""

    result: str
    """One of `RESULTS`, or `UNREADABLE`."""
    port: int = 0
    """The source port that the probe was sent from."""
    answer: bytes = b""
    """What the other side sent back."""
    ms: int = 0
    """How long it took, in milliseconds. The VM that sent it may say anything."""
    sender: str = ""
    """The address that the probe was sent from. Empty where the program did not say it."""


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything that one round of `verify` observed."""

    answers: Mapping[str, Answer]
    """Check id -> answer. A check without an answer was not run."""
    local: Mapping[Listener, Answer]
    """What each listener answered to a probe from within its own VM."""
    before: FirewallReport
    after: FirewallReport
    """Both are `NOTHING` if one of them could not be read: a count that was not seen to grow proves
    nothing.
    """
    alerts: tuple[Alert, ...] | None = ()
    """None: the IPS's log could not be read."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Vantage -> why nothing could be sent from there."""
    uncounted: str = ""
    """Why the firewall's counts could not be read; empty if they were read, also from a firewall
    that runs without vcloud's rules.
    """
    unusable: frozenset[str] = frozenset()
    """Places that are not asked again in this run."""
    first: FirewallReport = NOTHING
    """The report before the forged ICMP errors were sent. They were sent before `before`, and
    nothing else was, because the firewall counts all ICMP from one address to another together.
    """
    forged: frozenset[tuple[str, str]] = frozenset()
    """The senders and targets of all of these errors."""
    busy: frozenset[Listener] = frozenset()
    """Listeners on whose ports a service of the VM's own listens."""


@dataclass(frozen=True, slots=True)
class Verdict:
    check: Check
    outcome: Outcome
    detail: str
    final: bool = False
    """Asking again cannot change it."""
    excusable: bool = False
    """A busy machine can cause this failure as well: by a packet that is late or lost, or by a
    program that does not answer in time. So it is asked again.
    """

    @property
    def stays(self) -> bool:
        """Whether it counts whatever later tries say. A failure that no busy machine can cause
        stays: what came through has come through.
        """
        return self.final or (self.outcome is Outcome.FAIL and not self.excusable)
