"""Which patterns of leak detectors are accepted, and which are refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcloud.documents.field import FieldError
from vcloud.patterns.pattern import parse_pattern


@pytest.mark.parametrize(
    "pattern",
    [
        "SHOP-[0-9]{8}",
        "([0-9]{4}-?){4}",
        r"\b4[0-9]{12}(?:[0-9]{3})?\b",
        "(?i)confidential|secret",
        "(?<=id=)[0-9]{3,}",
        "a.{1,500}b",
        "x+y+z+",
        "[0-9]{4}-?[0-9]{4}-?[0-9]{4}",
        r"\b[A-Z]{2}[0-9]{2}[A-Z0-9]{4}[0-9]{7}[A-Z0-9]{0,16}\b",
        r"[a-z0-9._%+-]{1,64}@[a-z0-9.-]{1,255}\.[a-z]{2,24}",
        r"[a-z]+(?:\.[a-z]+)?@example",
        r"(?i)password\s*[:=]\s*\S+",
        "SELECT .{0,100} FROM .{0,100} WHERE",
        "(?:abc|abd)+",
        "[a-f0-9]+x",
        "(?:ab){1,1000}c",
        "[a-z]+@corp",
        "[a-z]+[0-9]*@corp",
        "-----BEGIN [A-Z ]*PRIVATE KEY-----",
        r"[\w.+-]+@[\w-]+\.[\w.-]+",
        r"(?:Mr|Mrs|Dr)\.? [A-Z][a-z]{1,20} [A-Z][a-z]{1,30}",
    ],
)
def test_patterns_that_end_in_time_are_taken(pattern: str) -> None:
    assert parse_pattern(pattern) == pattern


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+b",
        "(a*)*b",
        "(a|a)*b",
        "(a?){32}a{32}",
        "((a{1,9}){1,9}){1,9}b",
        "((ab)*c)*d",
        "(?:(?=a+)a)+b",
        "a*b*c*d*e",
        r"(a)\1",
        "((a{1000}){1000}){1000}",
        "[a-z]+[a-z0-9]*@corp",
        "[a-z]+?[a-z0-9]*?@corp",
        "(?i)[a-z]+[A-Z0-9]*@corp",
        r"\w+[^@ ]*@corp",
        "(?:[a-z]+)[0-9]*[a-z]*@corp",
        "(?<![a-z])x.*?y.*?z",
        "^.*secret.*key",
        "(?=[a-z]*[a-z0-9]*@)x",
        "SELECT .* FROM .* WHERE",
        "a.{0,1000}b.{0,1000}c",
        "(?:ab)+c",
        "(?:ab)+?c",
        r"(?:[a-f]|\d)+x",
        "a{1001}",
        "x*",
        "(|a)",
        "^$",
        "",
        "(?<=a+)b",
        "(",
        "[",
        "a**",
        "[[:alpha:]]",
        r"\u0041",
        "(?u)a",
        "a{,5}b",
        "a{2, 3}b",
        "a{ 2}b",
        "ab{,}",
        "[x[:digit:]]",
        r"\vx",
        r"[\v]x",
        r"a\Z",
        "(?x)a #",
        "(?x:a b)",
        "(?i-x:a)b",
        r"(?#\)a)b",
        "(?=x{70000,})ab",
        "a|x{70000,}",
        "a{1,1000}a{1,1000}a{1,1000}b",
        "(?:aa|a)" * 24 + "b",
        "a?" * 30 + "b",
        "(?:[ab]c){2}(?:(?:a|[bc]d){30}){30}",
        "([ab]|a)*c",
        r"(?:\w|\d)+x",
        "(?i:a|A)+x",
        'a"b',
        "a;b",
        "a\nb",
        "é",
        "a" * 201,
    ],
)
def test_patterns_that_may_not_end_or_mean_something_else_to_the_ips_are_refused(
    pattern: str,
) -> None:
    with pytest.raises(FieldError):
        parse_pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        r"C:\\users",
        r"x\\Name",
        "[{,]x",
        r"\(?a",
        r"\\v",
        "[a[:b]x",
        "(?#x)a",
        "a{b",
        "a{1 b",
        "a{}",
        "a{,b",
    ],
)
def test_what_only_looks_like_another_meaning_is_taken(pattern: str) -> None:
    assert parse_pattern(pattern) == pattern


@pytest.mark.parametrize(
    "pattern", ["(((((((((((((((((((((((((a+)?)?)?)?)?)?)?)?)?)?)?)?)?)?)?)?)?)?)?)?)?)?)?)?)?b"]
)
def test_a_nested_pattern_is_judged_in_time(pattern: str) -> None:
    assert parse_pattern(pattern) == pattern


def test_a_refused_pattern_comes_with_the_way_to_write_it() -> None:
    with pytest.raises(FieldError, match="too many ways") as refused:
        parse_pattern("[a-z]+[a-z0-9]*@corp")
    assert "[a-z]{1,64}" in refused.value.hint
    assert parse_pattern("[a-z]{1,64}[a-z0-9]{0,64}@corp")


@given(st.text(alphabet="ab(){}[]|*+?.\\^$0123456789,-:=!<>", max_size=40))
def test_any_text_is_a_pattern_or_refused(text: str) -> None:
    try:
        assert parse_pattern(text) == text
    except FieldError:
        return
    assert not re.compile(text).fullmatch("")
