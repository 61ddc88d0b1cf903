"""Reads the input lines of `probe` and `listen`, and refuses wrong ones."""

from __future__ import annotations

import base64
import socket
from collections.abc import Callable
from typing import TypeVar

LONGEST_INPUT = 32 << 20
T = TypeVar("T")


class InputError(Exception):
    """The input is refused. `line` is the number of the line, or 0."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


def lines_of(data: bytes) -> list[tuple[int, str]]:
    """The lines that are not empty, with their numbers."""
    if len(data) > LONGEST_INPUT:
        raise InputError(0, f"more than {LONGEST_INPUT} bytes of input")
    if b"\0" in data:
        raise InputError(data[: data.index(b"\0")].count(b"\n") + 1, "a zero byte")
    # latin-1 can decode every byte. What is no ASCII is refused field by field.
    return [
        (number, line) for number, line in enumerate(data.decode("latin-1").split("\n"), 1) if line
    ]


def number_in(text: str, least: int, most: int) -> int:
    """The number that the text is. Raises ValueError."""
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and least <= int(text) <= most):
        raise ValueError(f"'{text[:40]}' is not a number from {least} to {most}")
    return int(text)


def family_of(address: str) -> int:
    """AF_INET or AF_INET6. Raises ValueError for a text that is not an IP address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        socket.inet_pton(family, address)
    except OSError:
        raise ValueError(f"'{address[:60]}' is not an IP address") from None
    return family


def plain(address: str) -> str:
    """The address as the C program prints it: in its short form, without the name of a NIC."""
    address = address.partition("%")[0]
    family = family_of(address)
    return socket.inet_ntop(family, socket.inet_pton(family, address))


def bytes_in(text: str) -> bytes:
    """The bytes that the text holds in base64. Raises ValueError."""
    return base64.b64decode(text, validate=True)


def parse_each(data: bytes, parse: Callable[[str, int], T]) -> list[T]:
    """What `parse` makes of each line and its index. Raises InputError with the number of the first
    line that is wrong.
    """
    found: list[T] = []
    for number, line in lines_of(data):
        try:
            found.append(parse(line, len(found)))
        except ValueError as error:
            raise InputError(number, str(error)) from None
    return found
