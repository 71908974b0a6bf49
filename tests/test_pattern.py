"""Patterns of event types, held against what they take one type at a time."""

from __future__ import annotations

import re
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import pattern

TYPES = [".".join(tokens) for length in range(1, 6) for tokens in product("abc", repeat=length)]
"""All types of up to five tokens; `c` is in no pattern below, so that a wildcard is more than its letters."""

BODIES = st.lists(st.sampled_from("ab*"), min_size=0, max_size=3)


@st.composite
def patterns(draw: st.DrawFn) -> str:
    tokens = draw(BODIES)
    if not tokens or draw(st.booleans()):
        tokens = [*tokens, ">"]
    return ".".join(tokens)


def taken(*texts: str) -> set[str]:
    return {type for type in TYPES if any(pattern.matches(text, type) for text in texts)}


def as_regex(text: str) -> str:
    tokens = {"*": "[^.]+", ">": r"[^.]+(\.[^.]+)*"}
    return r"\.".join(tokens.get(token, re.escape(token)) for token in text.split("."))


@given(patterns())
def test_a_star_is_one_token_and_a_greater_sign_the_rest(text: str) -> None:
    assert taken(text) == {type for type in TYPES if re.fullmatch(as_regex(text), type)}


@given(patterns(), patterns())
def test_the_intersection_takes_just_what_both_take(one: str, other: str) -> None:
    both = pattern.intersect(one, other)
    assert (taken(both) if both is not None else set()) == taken(one) & taken(other)
    assert both is None or pattern.fault_of(both) is None
    assert pattern.intersect(other, one) == both


@given(patterns(), patterns())
def test_a_pattern_covers_another_when_it_takes_all_that_the_other_takes(wide: str, narrow: str) -> None:
    assert pattern.covers(wide, narrow) == (taken(wide) >= taken(narrow))


@given(st.lists(patterns(), max_size=4).map(tuple), st.lists(patterns(), max_size=4).map(tuple))
def test_the_intersection_of_lists_takes_just_what_both_take_and_says_nothing_twice(ones: tuple[str, ...], others: tuple[str, ...]) -> None:
    both = pattern.intersect_all(ones, others)
    assert taken(*both) == taken(*ones) & taken(*others)
    if ones != others:
        assert not [(p, q) for p in both for q in both if p != q and pattern.covers(p, q)]


def test_a_literal_pattern_names_one_type() -> None:
    assert pattern.is_literal("order.placed")
    assert not pattern.is_literal("order.*")
    assert not pattern.is_literal(">")


@pytest.mark.parametrize("text", ["a", "order.placed", "*", ">", "*.placed", "a.*.b.>", "größe", "a-b_c/d"])
def test_a_pattern_has_no_fault(text: str) -> None:
    assert pattern.fault_of(text) is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "a pattern is not empty"),
        (".", "no token of a pattern is empty"),
        ("a..b", "no token of a pattern is empty"),
        ("a.", "no token of a pattern is empty"),
        (">.a", '">" stands only at the end'),
        ("a.>.>", '">" stands only at the end'),
        ("a*", '"*" and ">" stand for whole tokens'),
        ("a.b>", '"*" and ">" stand for whole tokens'),
        ("**", '"*" and ">" stand for whole tokens'),
        ("a b", "a pattern has no white space"),
        ("a\n", "a pattern has no white space"),
    ],
)
def test_a_fault_says_what_is_wrong_with_a_pattern(text: str, fault: str) -> None:
    assert pattern.fault_of(text) == fault
