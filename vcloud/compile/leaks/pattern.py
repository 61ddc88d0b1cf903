"""The detector kind `regex`: a pattern of the user's.

A pattern has no memory. So `at_least` counts within one window of the stream (4 KiB; of an HTTP
body at least 16 KiB).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from vcloud.compile.leaks.channels import Channel
from vcloud.design.model import Detector
from vcloud.patterns.example import matching_text, near_miss

NAME: Final = "regex"


def search(detector: Detector, _channel: Channel) -> str:
    return f'pcre:"/{counted(escaped(detector.regex), detector.at_least)}/";'


def scripts(_detector: Detector) -> Mapping[str, str]:
    return {}


def sample_texts(detector: Detector) -> tuple[str, str]:
    """The second text has one match too few: in its place stands a text that just does not match."""
    text = matching_text(detector.regex)
    others = [text] * (detector.at_least - 1)
    return _lines([*others, text]), _lines([*others, near_miss(detector.regex, text)])


def is_found(detector: Detector, text: str) -> bool:
    return len(re.findall(detector.regex, text)) >= detector.at_least


def counted(pattern: str, at_least: int) -> str:
    """A pattern that matches where another one matches so many times. Atomic groups never go back,
    so it takes linear time.
    """
    return f"(?:{pattern})" if at_least == 1 else rf"\A(?>(?s:.*?)(?:{pattern})){{{at_least}}}"


def escaped(pattern: str) -> str:
    r"""A pattern as it can stand in `pcre:"/.../"`: characters that would end it, and all but
    printable ASCII, become \xHH.
    """
    text, characters = "", iter(pattern)
    for character in characters:
        follower = next(characters, "") if character == "\\" else ""
        plain = follower or character
        if plain in '/";' or not (plain.isascii() and plain.isprintable()):
            text += "".join(f"\\x{byte:02x}" for byte in plain.encode())
        else:
            text += character + follower
    return text


def _lines(texts: list[str]) -> str:
    return "".join(f"{text}\n" for text in texts)
