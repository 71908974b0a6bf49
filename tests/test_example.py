"""Examples of data fit the types they are made for."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypedDict

import msgspec
import pytest

from runtime.example import example_of


class Colour(enum.Enum):
    RED = "red"


class Inner(msgspec.Struct):
    size: Literal["s", "m"]
    when: datetime
    tags: list[str]
    note: str | None = None


class Outer(msgspec.Struct, rename="camel"):
    first_name: str
    inner: Inner
    colour: Colour
    amount: float
    maybe: int | None


@dataclass
class Point:
    x: int
    y: float


class Name(TypedDict):
    text: str


@pytest.mark.parametrize("type", [Outer, Point, Name, int, str, bool, list[int], dict[str, int], Colour, int | None])
def test_an_example_fits_its_type(type: Any) -> None:
    msgspec.convert(example_of(type), type)


@pytest.mark.parametrize("type", [Any, object(), complex])
def test_a_type_that_says_nothing_gives_an_empty_object(type: Any) -> None:
    assert example_of(type) == {}
