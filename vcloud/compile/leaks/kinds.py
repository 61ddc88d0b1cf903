"""The kinds of data that detectors can look for. Each kind is a module of this package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from vcloud.compile.leaks import card_number, pattern
from vcloud.compile.leaks.channels import Channel
from vcloud.design.model import Detector


class DetectorKind(Protocol):
    """What the module of a kind has."""

    @property
    def NAME(self) -> str:  # noqa: N802 - a constant of a module
        """`Detector.kind` in the design."""

    def search(self, detector: Detector, channel: Channel) -> str:
        """The options of a rule that match where the data is in the channel, each ended by a
        semicolon.
        """

    def scripts(self, detector: Detector) -> Mapping[str, str]:
        """File name -> text of the Lua scripts that `search` names, in any channel; empty for a
        kind without scripts.
        """

    def sample_texts(self, detector: Detector) -> tuple[str, str]:
        """A text that the detector must find, and one much like it that it must not find. Raises
        NoExampleError where there is none.
        """

    def is_found(self, detector: Detector, text: str) -> bool:
        """Whether the detector would find enough of its data in a text, by another implementation
        than Suricata's.
        """


KINDS: Final[Mapping[str, DetectorKind]] = {kind.NAME: kind for kind in (card_number, pattern)}


def kind_of(detector: Detector) -> DetectorKind:
    return KINDS[detector.kind]
