"""The detector kind `regex`: a pattern of the user's.

A Lua script searches with PCRE itself, so that it can count the matches of a whole connection. If
PCRE gives up a search, the script counts it as found. Ordinary text never needs so long a search,
because `vcloud.patterns` refuses such patterns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from vcloud.compile.environment import render
from vcloud.compile.leaks.channels import CHANNELS, Channel
from vcloud.design.model import Detector
from vcloud.patterns.example import matching_text, near_miss
from vcloud.patterns.pattern import MATCH_LIMIT

NAME: Final = "regex"
JIT_STACK: Final = 1 << 20
"""Bytes of the stack that PCRE's JIT may use for backtracking."""
BEFORE: Final = 32
"""So many bytes before a match are remembered with it, to tell it from other matches with the same
text.
"""
HALF: Final = 20
"""So many bytes of each end of a match are remembered."""
MOST_KNOWN: Final = 1000
"""At most so many matches of a connection are remembered; `at_least` cannot be larger. A variable
of Suricata's holds 64 KiB.
"""


def search(detector: Detector, channel: Channel) -> str:
    return f"lua:lua/{_script_name(detector, channel)};"


def scripts(detector: Detector) -> Mapping[str, str]:
    """One script for each channel. Each channel counts separately, because two channels may find
    the same match.
    """
    return {_script_name(detector, channel): _script(detector, channel) for channel in CHANNELS}


def _script_name(detector: Detector, channel: Channel) -> str:
    return f"{detector.id}-{channel.name}.lua"


def _script(detector: Detector, channel: Channel) -> str:
    return render(
        "suricata/pattern.lua.j2",
        detector=detector.id,
        channel=channel.name,
        argument=channel.argument,
        pattern=lua_text(detector.regex),
        at_least=detector.at_least,
        match_limit=MATCH_LIMIT,
        jit_stack=JIT_STACK,
        before=BEFORE,
        half=HALF,
        most_known=MOST_KNOWN,
    )


def sample_texts(detector: Detector) -> tuple[str, str]:
    """See `DetectorKind`. In the second text, the last match is replaced by a text that just does
    not match.
    """
    text = matching_text(detector.regex)
    others = [text] * (detector.at_least - 1)
    return _lines([*others, text]), _lines([*others, near_miss(detector.regex, text)])


def is_found(detector: Detector, text: str) -> bool:
    return len(re.findall(detector.regex, text)) >= detector.at_least


def lua_text(text: str) -> str:
    """A text as it can stand in quotes in Lua."""
    return "".join(
        character
        if character.isascii() and character.isprintable() and character not in '"\\'
        else "".join(f"\\{byte:03}" for byte in character.encode())
        for character in text
    )


def _lines(texts: list[str]) -> str:
    return "".join(f"{text}\n" for text in texts)
