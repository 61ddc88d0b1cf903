"""Ordinary data of many kinds, as applications send it: what no detector and no rule should hit.

Everything is a function of the seed. No kind holds a card number on purpose; a number that has the
form of one by chance is the reason for which rates are measured.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Final

DOCUMENT: Final = 20_000
"""Bytes of a document, about."""
NOW: Final = 1_764_423_456
_TEXT: Final = (
    "the order was sent to our store in Bonn and paid on account please select a size or colour "
    "from union street all tables and beds drop in at nine or call us where is my parcel it had 3 "
    "items of 2 kinds thanks for your help where id name city price total kind regards create update "
    "delete insert set values group key order by limit system script alert cat head more less fetch"
)
_WORDS: Final = _TEXT.split()


def _sentence(draw: random.Random) -> str:
    words = [draw.choice(_WORDS) for _ in range(draw.randint(5, 16))]
    return " ".join(words).capitalize() + draw.choice((".", "?", "!", "; and so on."))


def _digits(draw: random.Random, count: int) -> str:
    return "".join(draw.choice("0123456789") for _ in range(count))


def _article(draw: random.Random) -> str:
    """A number of 13 digits with the check digit of EAN."""
    stem = draw.choice(("40", "41", "43", "44", "50", "54", "30", "978", "69", "76"))
    stem += _digits(draw, 12 - len(stem))
    total = sum(int(digit) * (3 if index % 2 else 1) for index, digit in enumerate(stem))
    return stem + str(-total % 10)


def _mobile(draw: random.Random) -> str:
    start, rest = draw.choice(("151", "160", "170", "171", "175", "176")), _digits(draw, 8)
    return draw.choice(
        (f"+49{start}{rest}", f"0049{start}{rest}", f"0{start} {rest}", f"49{start}{rest}")
    )


def _time(draw: random.Random) -> int:
    return NOW + draw.randint(-50_000_000, 50_000_000)


def _record(draw: random.Random) -> str:
    moment = _time(draw)
    record = {
        "id": draw.randint(1, 10**9),
        "t": moment * 1000 + draw.randint(0, 999),
        "us": moment * 10**6 + draw.randint(0, 10**6),
        "ns": moment * 10**9 + draw.randint(0, 10**9),
        "score": draw.random(),
        "key": str(uuid.UUID(int=draw.getrandbits(128), version=4)),
        "text": _sentence(draw),
    }
    return json.dumps(record) + ","


def _table(draw: random.Random) -> str:
    gap = draw.choice((" ", "\t", "  "))
    return gap.join(
        str(draw.randint(1, 10 ** draw.randint(1, 5))) for _ in range(draw.randint(3, 14))
    )


def _csv(draw: random.Random) -> str:
    cells = (
        draw.randint(1, 10**6),
        _sentence(draw),
        _article(draw),
        _mobile(draw),
        f"{draw.uniform(1, 999):.2f}",
    )
    return ";".join(map(str, cells))


def _form(draw: random.Random) -> str:
    return (
        "&".join(f"{draw.choice(_WORDS)}={_sentence(draw).replace(' ', '+')}" for _ in range(4))
        + "&"
    )


def _hash(draw: random.Random) -> str:
    name = draw.choice(("sha1", "sha256", "md5"))
    return hashlib.new(name, draw.randbytes(8), usedforsecurity=False).hexdigest()


def _style(draw: random.Random) -> str:
    return (
        f".c{draw.randint(1, 9999)}{{margin:{draw.randint(0, 40)}px {draw.randint(0, 40)}px {draw.randint(0, 40)}px "
        f"{draw.randint(0, 40)}px;color:#{draw.getrandbits(24):06x};width:{draw.uniform(1, 100):.13f}%}}"
    )


def _script(draw: random.Random) -> str:
    return (
        f"function f{draw.randint(1, 999)}(a,b){{if(a||b>0x{draw.getrandbits(32):x}){{return a*{draw.random()}}}"
        f"var u='{_sentence(draw)}';return u==='x'?{draw.getrandbits(31)}:b}}"
    )


def _xml(draw: random.Random) -> str:
    return f"<row id='{draw.randint(1, 10**8)}'><ean>{_article(draw)}</ean><when>{_time(draw)}</when><text>{_sentence(draw)}</text></row>"


def _path(draw: random.Random) -> str:
    points = (
        f"{draw.uniform(0, 900):.{draw.randint(1, 6)}f} {draw.uniform(0, 900):.2f}"
        for _ in range(12)
    )
    return f'<path d="M{" L".join(points)}Z"/>'


def _log(draw: random.Random) -> str:
    address = ".".join(str(draw.randint(1, 254)) for _ in range(4))
    return f'{address} - - [{_time(draw)}] "GET /{draw.choice(_WORDS)}?id={draw.getrandbits(40)} HTTP/1.1" 200 {draw.getrandbits(16)}'


def _mail(draw: random.Random) -> str:
    return (
        f"{_sentence(draw)} {_sentence(draw)} Order no. {_digits(draw, 10)}, call {_mobile(draw)}."
    )


def _account(draw: random.Random) -> str:
    number = f"DE{_digits(draw, 20)}"
    grouped = " ".join(number[at : at + 4] for at in range(0, 22, 4))
    return f"{draw.choice((number, grouped))} {draw.uniform(1, 9999):.2f} EUR"


def _books(draw: random.Random) -> str:
    return f"ISBN 978-{draw.randint(0, 9)}-{_digits(draw, 4)}-{_digits(draw, 4)}-{_digits(draw, 1)}"


def _date(draw: random.Random) -> str:
    return f"20{draw.randint(10, 30)}{draw.randint(1, 12):02}{draw.randint(1, 28):02}{_digits(draw, 6)}"


_LINES: Final[Mapping[str, Callable[[random.Random], str]]] = {
    "JSON with times": _record,
    "UUIDs": lambda draw: str(uuid.UUID(int=draw.getrandbits(128), version=4)),
    "rows of numbers": _table,
    "CSV export": _csv,
    "article numbers": lambda draw: f"{_article(draw)} {draw.randint(1, 40)}",
    "mobile numbers": _mobile,
    "order numbers": lambda draw: f"{draw.choice(('SO-', 'INV', '#', ''))}{_digits(draw, draw.randint(6, 12))}",
    "ids of 64 bits": lambda draw: str(draw.getrandbits(63)),
    "dates and times": _date,
    "prices": lambda draw: " ".join(f"{draw.uniform(1, 5000):.2f}" for _ in range(8)),
    "floats": lambda draw: json.dumps([draw.uniform(-1, 1), draw.gauss(0, 1e6), draw.random()]),
    "coordinates": lambda draw: f"{draw.uniform(-90, 90):.14f},{draw.uniform(-180, 180):.13f}",
    "hashes": _hash,
    "base64": lambda draw: base64.b64encode(draw.randbytes(57)).decode(),
    "HTML form": _form,
    "CSS": _style,
    "JavaScript": _script,
    "XML": _xml,
    "SVG": _path,
    "access log": _log,
    "mails": _mail,
    "bank accounts": _account,
    "books": _books,
}  # fmt: skip
KINDS: Final = (*_LINES, "binary")


def documents(kind: str, size: int, seed: int = 1) -> Iterator[bytes]:
    """Documents of a kind, of so many bytes together at least."""
    draw = random.Random(f"{kind} {seed}")  # noqa: S311 - repeatable data, no secret
    made = 0
    while made < size:
        document = draw.randbytes(DOCUMENT) if kind == "binary" else _lines(kind, draw)
        made += len(document)
        yield document


def _lines(kind: str, draw: random.Random) -> bytes:
    lines, made = list[str](), 0
    while made < DOCUMENT:
        lines.append(_LINES[kind](draw))
        made += len(lines[-1]) + 1
    return "\n".join(lines).encode()
