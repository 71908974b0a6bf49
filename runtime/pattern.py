"""Event type patterns: dot-separated tokens, `*` for one token, `>` for one or more at the end.

The rules are those of NATS subjects (https://docs.nats.io/nats-concepts/subjects).
"""

from __future__ import annotations


def fault_of(pattern: str) -> str | None:
    """Return why `pattern` is not a pattern, or None when it is one."""
    if not pattern:
        return "a pattern is not empty"
    tokens = pattern.split(".")
    if "" in tokens:
        return "no token of a pattern is empty"
    if ">" in tokens[:-1]:
        return '">" stands only at the end'
    for token in tokens:
        if len(token) > 1 and ("*" in token or ">" in token):
            return '"*" and ">" stand for whole tokens'
        if any(character.isspace() for character in token):
            return "a pattern has no white space"
    return None


def is_literal(pattern: str) -> bool:
    """Return whether `pattern` names just one type."""
    return "*" not in pattern and ">" not in pattern


def matches(pattern: str, type: str) -> bool:
    """Return whether `pattern` takes events of `type`."""
    if pattern in (type, ">"):
        return True
    wanted, found = pattern.split("."), type.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(found) <= len(wanted):
            return False
    elif len(wanted) != len(found):
        return False
    return all(want in ("*", token) for want, token in zip(wanted, found, strict=False))


def intersect(one: str, other: str) -> str | None:
    """Return the pattern of the types that both patterns take, or None when there are none."""
    a, b = one.split("."), other.split(".")
    common: list[str] = []
    for index in range(max(len(a), len(b))):
        if index >= len(a) or index >= len(b):
            return None
        if a[index] == ">":
            return ".".join(common + b[index:])
        if b[index] == ">":
            return ".".join(common + a[index:])
        if a[index] != b[index] and a[index] != "*" and b[index] != "*":
            return None
        common.append(b[index] if a[index] == "*" else a[index])
    return ".".join(common)


def covers(wide: str, narrow: str) -> bool:
    """Return whether `wide` takes every type that `narrow` takes."""
    return intersect(wide, narrow) == narrow


def intersect_all(ones: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    """Return the patterns of what some of `ones` and some of `others` both take, without repetitions."""
    if ones == others:
        return ones
    found = {both for one in ones for other in others if (both := intersect(one, other)) is not None}
    if len(found) == 1:
        return tuple(found)
    return tuple(sorted(p for p in found if not any(q != p and covers(q, p) for q in found)))
