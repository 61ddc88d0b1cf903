"""The observations of one round of `verify`, and verdicts. Pure."""

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
"""Results that show that a probe which must come through did so."""
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
    """The bytes that the other side sent back."""
    ms: int = 0
    """Milliseconds until the answer. A hostile VM may report any number."""
    sender: str = ""
    """The address that the probe was sent from. Empty if the program did not report it."""


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything that one round of `verify` observed."""

    answers: Mapping[str, Answer]
    """Check id -> answer. A check without an answer was not run."""
    local: Mapping[Listener, Answer]
    """The answer of each listener to a probe from within its own VM."""
    before: FirewallReport
    after: FirewallReport
    """The firewall's reports before and after the probes. Both are `NOTHING` if one of them could
    not be read, because only a count that has grown proves something.
    """
    alerts: tuple[Alert, ...] | None = ()
    """None: the IPS's log could not be read."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Vantage -> why no probe could be sent from there."""
    uncounted: str = ""
    """Why the firewall's counts could not be read; empty if they were read. A firewall without
    vcloud's rules also has counts, which are empty.
    """
    unusable: frozenset[str] = frozenset()
    """Places that are not used again in this run."""
    first: FirewallReport = NOTHING
    """The report before the forged ICMP errors were sent. Nothing else is sent between `first` and
    `before`, because the firewall counts all ICMP packets from one address to another together.
    """
    forged: frozenset[tuple[str, str]] = frozenset()
    """The senders and targets of all forged ICMP errors."""
    busy: frozenset[Listener] = frozenset()
    """Listeners on whose ports a service of the VM's own listens."""


@dataclass(frozen=True, slots=True)
class Verdict:
    check: Check
    outcome: Outcome
    detail: str
    final: bool = False
    """Another try cannot change the verdict."""
    excusable: bool = False
    """A busy machine can cause this failure, too: a packet may be late or lost, or a program may
    not answer in time. So the check is repeated.
    """

    @property
    def stays(self) -> bool:
        """Whether later tries cannot change the verdict. This is so for a failure that no busy
        machine can cause, such as a packet that came through.
        """
        return self.final or (self.outcome is Outcome.FAIL and not self.excusable)
