"""Verdicts on forged packets: packets with the address or MAC address of another machine, and ICMP
errors about connections of others. Pure.
"""

from __future__ import annotations

from vcloud.proof.checks import Check, Outcome
from vcloud.proof.firewall_report import NOTHING
from vcloud.proof.observed import Answer, Observed, Verdict
from vcloud.proof.world import Address
from vcloud.values import Protocol

NO_FRAMES = {
    "forbidden": "no forged packet can be sent from there: only root may do so",
    "elsewhere": "no forged packet can be sent from there: it is not on the firewall's segment",
}
"""Result of a frame that was not sent -> the reason for the report."""


def judge_forged(check: Check, answer: Answer, seen: Observed) -> Verdict:
    if answer.result != "sent":
        if answer.result in NO_FRAMES:
            return Verdict(check, Outcome.NOT_TRIED, NO_FRAMES[answer.result], final=True)
        return Verdict(
            check, Outcome.ERROR, f"the forged packet could not be sent: {answer.result}"
        )
    if seen.uncounted:
        return Verdict(
            check,
            Outcome.ERROR,
            f"the forged packet was sent, but the firewall's counts cannot be read: {seen.uncounted}",
        )
    if check.about is not None:
        return _forged_error(check, seen)
    if check.beside is not None:
        return _dropped_by_host(check, check.beside, seen)
    if _arrived(check, check.source, seen):
        return Verdict(check, Outcome.PASS, "dropped and counted as a forged source")
    # Also so if the packet was lost before it reached the firewall.
    return Verdict(
        check,
        Outcome.FAIL,
        "the firewall did not drop the packet as one with a forged source",
        excusable=True,
    )


def _forged_error(check: Check, seen: Observed) -> Verdict:
    """The verdict on an ICMP error about a connection of others, which was open when the error was
    sent.
    """
    if seen.first is NOTHING:
        return Verdict(
            check,
            Outcome.ERROR,
            "the forged error was sent, but the counts before it are not known",
        )
    grown = {ends: _grown(ends, seen) for ends in seen.forged}
    if grown[ends_of(check)]:
        # The firewall also denies an error about no connection, but does not count it as forged. So
        # the sums are equal only if all connections were open.
        if seen.before.forged_errors - seen.first.forged_errors >= sum(grown.values()):
            told = "dropped and counted, while the connection was open"
            return Verdict(check, Outcome.PASS, told)
        told = "it was dropped, but a connection that was held open for the test had ended"
        return Verdict(check, Outcome.ERROR, told)
    # Also so if the packet was lost before it reached the firewall.
    return Verdict(
        check, Outcome.FAIL, "the firewall did not deny the forged error", excusable=True
    )


def ends_of(check: Check) -> tuple[str, str]:
    """The sender and the target of a forged packet."""
    return str(check.source), str(check.sent.target)


def _grown(ends: tuple[str, str], seen: Observed) -> int:
    """How many forged errors from one address to another were denied."""
    key = (*ends, Protocol.ICMP, 0)
    return max(0, seen.before.denied.get(key, 0) - seen.first.denied.get(key, 0))


def _dropped_by_host(check: Check, beside: Address, seen: Observed) -> Verdict:
    """The verdict on a frame that the host must drop. If the firewall has not seen the frame, this
    proves something only if the same frame with the sender's own MAC address reached the firewall.
    """
    if _arrived(check, check.source, seen):
        return Verdict(check, Outcome.FAIL, "the host let the frame pass to the firewall")
    if not _arrived(check, beside, seen):
        return Verdict(
            check,
            Outcome.ERROR,
            "not proven: the same frame with the VM's own MAC address did not arrive either",
        )
    return Verdict(
        check,
        Outcome.PASS,
        "dropped by the host, while a frame with the VM's own MAC address passes",
    )


def _arrived(check: Check, source: Address | None, seen: Observed) -> bool:
    """Whether the firewall counted a packet with this forged source."""
    key = (check.nic, str(source))
    return seen.after.spoofed.get(key, 0) > seen.before.spoofed.get(key, 0)
