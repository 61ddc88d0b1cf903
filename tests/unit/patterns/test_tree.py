"""The tree of a pattern says what Python's `re` understands. Both are asked about many patterns,
and must agree.
"""

from __future__ import annotations

import re
import re._parser  # type: ignore[import-not-found]
import warnings

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from vcloud.documents.field import FieldError
from vcloud.patterns.example import NoExampleError, matching_text
from vcloud.patterns.parser import parsed
from vcloud.patterns.pattern import parse_pattern
from vcloud.patterns.tree import (
    Alternation,
    Anchor,
    AnyChar,
    CharSet,
    Comment,
    Flags,
    Group,
    Literal,
    LookAround,
    Node,
    Opening,
    Repeat,
    Sequence,
    merged,
    width,
)

CHARACTERS = [
    "a",
    "b",
    "z",
    "0",
    "-",
    " ",
    ".",
    "{",
    "}",
    "{a",
    "]",
    "=",
    "<",
    ":",
    "!",
    "#",
    "/",
    ",",
]
ESCAPES = [
    r"\d",
    r"\D",
    r"\w",
    r"\W",
    r"\s",
    r"\S",
    r"\b",
    r"\B",
    r"\A",
    r"\x41",
    r"\n",
    r"\t",
    r"\.",
    r"\(",
    r"\061",
    r"\0",
    r"\101",
    r"\\",
]
SETS = [
    "[abc]",
    "[^a]",
    "[a-z0-9_]",
    "[]x]",
    "[^]-]",
    r"[\d-]",
    r"[\]a-]",
    r"[\b\101]",
    r"[^\W\d]",
    r"[\x30-\x39\S]",
    "[a-]",
]
ATOMS = [*CHARACTERS, *ESCAPES, *SETS, "^", "$", "(?#note)"]
QUANTIFIERS = [
    "*",
    "+",
    "?",
    "{2}",
    "{1,3}",
    "{2,}",
    "{0,1}",
    "{0}",
    "*?",
    "+?",
    "??",
    "++",
    "{1,3}?",
    "{2,3}+",
    "{4}",
]
OPENINGS = ["(", "(?:", "(?P<name>", "(?i:", "(?s-i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"]
WORDS = ["a", "ab", "abc", "abd", "", r"\d", "[xy]", "z", "a(?:b|c)"]


def compound(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    branches = st.lists(inner, min_size=1, max_size=3).map("|".join)
    return st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.builds(lambda part, quantifier: part + quantifier, inner, st.sampled_from(QUANTIFIERS)),
        st.builds(lambda opening, part: f"{opening}{part})", st.sampled_from(OPENINGS), branches),
    )


ALTERNATIVES = st.lists(st.sampled_from(WORDS), min_size=2, max_size=4).map(
    lambda words: f"(?:{'|'.join(words)})"
)
PATTERNS = st.recursive(st.sampled_from(ATOMS) | ALTERNATIVES, compound, max_leaves=12)
TEXTS = st.text(alphabet="abzA0-_ .{]=:!\n", max_size=12)


def compiles(text: str) -> bool:
    """Whether Python accepts a pattern without a warning."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            re.compile(text)
    except (re.error, Warning):
        return False
    return True


def respelled(node: Node) -> str:
    """The tree written as a pattern again, each character as its code."""
    match node:
        case Literal():
            return f"\\x{ord(node.character):02x}"
        case AnyChar():
            return "."
        case CharSet():
            return f"[{'^' * node.negated}{''.join(f'{chr(92)}x{ord(character):02x}' for character in sorted(node.characters))}]"
        case Anchor():
            return node.spelling
        case Comment():
            return ""
        case Flags():
            return f"(?{node.letters})"
        case Sequence():
            return "".join(map(respelled, node.parts))
        case Alternation():
            return "|".join(map(respelled, node.branches))
        case Repeat():
            kind = node.spelling[-1] if node.spelling[1:].endswith(("?", "+")) else ""
            return f"{respelled(node.part)}{{{node.least},{'' if node.most is None else node.most}}}{kind}"
        case Group(opening=Opening.FLAGS):
            return f"(?{node.flags}:{respelled(node.part)})"
        case Group():
            return f"{node.opening.value}{respelled(node.part)})"
        case LookAround():
            return f"{node.opening}{respelled(node.part)})"
    raise AssertionError(node)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(PATTERNS, st.lists(TEXTS, min_size=1, max_size=5))
def test_a_tree_matches_what_its_pattern_matches(pattern: str, texts: list[str]) -> None:
    """The tree is written as a pattern again, and both find the same in every text."""
    assume(compiles(pattern) and is_accepted(pattern))
    again = respelled(parsed(pattern))
    examples = [matching_text(pattern)] if has_example(pattern) else []
    for text in (*texts, *examples):
        found, found_again = re.search(pattern, text), re.search(again, text)
        assert (found and found.span()) == (found_again and found_again.span()), (
            pattern,
            again,
            text,
        )


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(PATTERNS)
def test_a_tree_is_as_wide_as_python_says(pattern: str) -> None:
    assume(compiles(pattern))
    least, most = re._parser.parse(pattern).getwidth()
    assert width(parsed(pattern)) == (least, most if most < int(re._parser.MAXREPEAT) else None)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(PATTERNS)
def test_an_example_is_found_for_an_accepted_pattern_without_conditions_on_places(
    pattern: str,
) -> None:
    assume(compiles(pattern) and is_accepted(pattern))
    assume(
        not any(
            isinstance(node, Anchor | LookAround) or is_possessive(node)
            for node in nodes(parsed(pattern))
        )
    )
    assert re.search(pattern, matching_text(pattern))


@pytest.mark.parametrize(
    "pattern",
    ["(?i:[^a])", "(?i)[^a-y0-9]", "[a-z]", "[\\x80-\\xff]", "(?s).", r"\S\W\D", "a{3}|b"],
)
def test_an_example_is_found_for(pattern: str) -> None:
    assert re.fullmatch(pattern, matching_text(pattern))


def is_possessive(node: Node) -> bool:
    """Whether a part gives back nothing of what it has matched, so that a pattern like `a*+a`
    matches no text at all.
    """
    if isinstance(node, Repeat):
        return len(node.spelling) > 1 and node.spelling.endswith("+")
    return isinstance(node, Group) and node.opening is Opening.ATOMIC


def nodes(node: Node) -> list[Node]:
    inner = (
        getattr(node, "parts", ())
        or getattr(node, "branches", ())
        or ((node.part,) if hasattr(node, "part") else ())
    )
    return [node, *(found for child in inner for found in nodes(child))]


def is_accepted(pattern: str) -> bool:
    try:
        parse_pattern(pattern)
    except FieldError:
        return False
    return True


def has_example(pattern: str) -> bool:
    try:
        matching_text(pattern)
    except NoExampleError:
        return False
    return True


def test_what_is_read_and_how_it_was_spelled() -> None:
    tree = parsed(r"(?i)a\x42[^c]{2,}?(?:d|(?=.)\b)(?#e)")
    d, lookaround = (
        Literal("d", "d", 20),
        Sequence((LookAround("(?=", Sequence((AnyChar(),))), Anchor(r"\b"))),
    )
    assert tree == Sequence(
        (
            Flags("i"),
            Literal("a", "a", 4),
            Literal("B", r"\x42", 5),
            Repeat(CharSet(frozenset("c"), True, "[^c]"), 2, None, "{2,}?"),
            Group(Opening.PLAIN, Alternation((Sequence((d,)), lookaround))),
            Comment("(?#e)"),
        )
    )
    assert isinstance(tree, Sequence)
    assert [node.spelling for node in tree.parts if isinstance(node, Literal | Repeat)] == [
        "a",
        r"\x42",
        "{2,}?",
    ]


@pytest.mark.parametrize(
    ("pattern", "alike"),
    [
        ("abc|abd", "ab[cdCD]"),
        (r"\d|x", "[0-9xX]"),
        ("ab|(?:a(?:c|d))", "a[bcdBCD]"),
        ("a|a", "a(?:|)"),
        ("[ab]|a", "(?:[ab]|a)"),
        ("a|A", "(?:a|A)"),
        ("ab|cd", "(?:ab|cd)"),
        ("(a)|(a)", "(?:(a)|(a))"),
    ],
)
def test_only_branches_that_differ_in_one_character_become_a_set(pattern: str, alike: str) -> None:
    """PCRE tries all branches that match a character, so `[ab]|a` must remain a choice."""
    alternation, expected = parsed(pattern), parsed(alike)
    assert isinstance(alternation, Alternation)
    assert isinstance(expected, Sequence)
    parts = tuple(part.part if isinstance(part, Group) else part for part in expected.parts)
    assert merged(alternation).parts == parts
