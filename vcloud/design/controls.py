"""The profiles that count for a vApp, as its design and so its manifest keep them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

from vcloud.design.origin import FromControl
from vcloud.profiles.model import Applied, ControlRef, Hardening


def is_meant(proof: str, stable_id: str) -> bool:
    """Whether a proof of a control, an id or the beginning of ids and `*`, means this id."""
    return stable_id.startswith(proof[:-1]) if proof.endswith("*") else stable_id == proof


@dataclass(frozen=True, slots=True)
class ControlInForce:
    """A control that is enforced or supported."""

    origin: FromControl
    enforced: bool
    proved_by: tuple[str, ...]
    """What checks of `verify` prove of it: ids, or beginnings of ids and `*`."""
    evidence: str = ""
    """What the profile names as the strongest thing that shows it: `file`, `loaded` or `packets`;
    empty if it names nothing, or an earlier release made the vApp.
    """

    @property
    def status(self) -> str:
        return "enforced" if self.enforced else "supports"

    def is_proved_by(self, stable_id: str) -> bool:
        return any(is_meant(proof, stable_id) for proof in self.proved_by)


@dataclass(frozen=True, slots=True)
class ControlException:
    """A control that does not count until a day."""

    origin: FromControl
    reason: str
    approved_by: str
    expires: date
    """The last day on which it does not count."""

    def counts_on(self, day: date) -> bool:
        return day <= self.expires

    def told(self, made: date, day: date) -> str:
        """The exception in one sentence, as it is on a day, in a vApp that was made for another."""
        until = f"until {self.expires}" if self.counts_on(day) else f"expired on {self.expires}"
        counts = (
            "does not count"
            if self.counts_on(day)
            else "is not enforced yet"
            if self.counts_on(made)
            else "counts again"
        )
        return f"exception: {self.origin} {counts}, {until} ({self.reason}; approved by {self.approved_by})"


@dataclass(frozen=True, slots=True)
class Controls:
    """What profiles demand of a vApp on a day."""

    day: date | None = None
    """None: the file names no profile."""
    profiles: tuple[Applied, ...] = ()
    controls: tuple[ControlInForce, ...] = ()
    exceptions: tuple[ControlException, ...] = ()

    def proved_by(self, stable_id: str) -> tuple[str, ...]:
        """The controls of which a check of what has this id is evidence."""
        return tuple(str(one.origin) for one in self.controls if one.is_proved_by(stable_id))

    def told(self, day: date | None = None) -> tuple[str, ...]:
        """A sentence for each profile, and for each exception as it is on a day (None: on the day for
        which the vApp was made).
        """
        if self.day is None:
            return ()
        return (
            *(self._told(one) for one in self.profiles),
            *(one.told(self.day, day or self.day) for one in self.exceptions),
        )

    def as_data(self) -> dict[str, Any] | None:
        """What `validate -o json` and `status -o json` print; None without a profile."""
        if self.day is None:
            return None
        return {
            "as_of": str(self.day),
            "profiles": [
                {
                    "profile": one.name,
                    "version": one.version,
                    "digest": one.digest,
                    "pinned": not one.floats,
                    "draft": one.draft,
                }
                for one in self.profiles
            ],
            "controls": [
                {
                    "control": str(one.origin),
                    "status": one.status,
                    "evidence": one.evidence,
                    "proved_by": list(one.proved_by),
                }
                for one in self.controls
            ],
            "exceptions": [
                {
                    "control": str(one.origin),
                    "reason": one.reason,
                    "approved_by": one.approved_by,
                    "expires": str(one.expires),
                    "counts": one.counts_on(self.day),
                }
                for one in self.exceptions
            ],
        }

    def _told(self, profile: Applied) -> str:
        its = [
            one
            for one in self.controls
            if (one.origin.profile, one.origin.version) == (profile.name, profile.version)
        ]
        enforced = sum(one.enforced for one in its)
        how = f"in force on {self.day}" if profile.floats else "as the file says"
        how += ", a draft that is no law" * profile.draft
        return f"profile {profile.label} ({how}): enforces {enforced} controls, supports {len(its) - enforced} more"


NO_CONTROLS = Controls()


def origin_of(ref: ControlRef) -> FromControl:
    return FromControl(ref.profile, ref.version, ref.control)


def controls_of(hardening: Hardening) -> Controls:
    return Controls(
        hardening.day,
        hardening.profiles,
        tuple(
            ControlInForce(
                origin_of(one.ref),
                one.status == "enforced",
                one.proved_by,
                one.evidence.value if one.evidence else "",
            )
            for one in hardening.controls
        ),
        tuple(
            ControlException(origin_of(one.control), one.reason, one.approved_by, one.expires)
            for one in hardening.waivers
        ),
    )
