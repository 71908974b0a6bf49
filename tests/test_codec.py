"""Any value becomes plain data that every journal can keep, or is refused."""

from __future__ import annotations

import dataclasses
import decimal
import enum
import json
import math
import uuid
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple, TypedDict

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime import MalformedEvent, codec

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no fault of the codec
scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=12
)


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Point(NamedTuple):
    x: int
    y: int


class Row(TypedDict):
    a: int


class Struct(msgspec.Struct, rename="camel"):
    first_name: str
    raw: bytes


@dataclasses.dataclass
class Data:
    inner: Any


@attrs.define
class Attrs:
    inner: Any


class Model(pydantic.BaseModel):
    at: datetime
    tags: set[str]


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (True, True),
        (5, 5),
        (1.5, 1.5),
        ("ü", "ü"),
        (b"\xff", b"\xff"),
        (bytearray(b"a"), b"a"),
        ([memoryview(b"a")], [b"a"]),
        ((1, (2,)), [1, [2]]),
        ({1}, [1]),
        ({1: {2.5: None}}, {"1": {"2.5": None}}),
        (Point(1, 2), [1, 2]),
        (Row(a=1), {"a": 1}),
        ({Colour.RED: Level.HIGH}, {"red": 3}),
        (Struct("Ada", b"\xff"), {"firstName": "Ada", "raw": b"\xff"}),
        (Data(Attrs([Struct("Ada", b"")])), {"inner": {"inner": [{"firstName": "Ada", "raw": b""}]}}),
        (NOON, "2026-01-31T12:00:00Z"),
        (date(2026, 1, 31), "2026-01-31"),
        (timedelta(seconds=90), "PT90S"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (decimal.Decimal("1.10"), "1.10"),
        ({"model": Model(at=NOON, tags={"a"})}, {"model": {"at": "2026-01-31T12:00:00Z", "tags": ["a"]}}),
        ([-(2**63), 2**64 - 1, 1.7e308], [-(2**63), 2**64 - 1, 1.7e308]),
        (b"\xcb\x7f\xcb\xff", b"\xcb\x7f\xcb\xff"),
        ({"raw": b"\xcb\x7f\xcb\xff"}, {"raw": b"\xcb\x7f\xcb\xff"}),
    ],
)
def test_any_data_becomes_builtins(value: Any, plain: Any) -> None:
    found = codec.to_builtins(value)
    assert found == plain
    assert type(found) is type(plain)
    assert codec.to_builtins(found) == plain


@patient
@given(values)
def test_json_stays_as_it_is(value: Any) -> None:
    assert codec.to_builtins(value) == value
    assert json.loads(codec.to_json(value)) == value


@patient
@given(st.recursive(st.floats(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)))
def test_a_float_that_json_cannot_say_is_found_wherever_it_is(value: Any) -> None:
    if all(math.isfinite(item) for item in floats_of(value)):
        assert codec.to_builtins(value) == value
    else:
        with pytest.raises(ValueError, match=r"JSON has no word for the float (nan|inf|-inf); use None or a string"):
            codec.to_builtins(value)


def floats_of(value: Any) -> list[float]:
    if isinstance(value, float):
        return [value]
    return [item for part in (value.values() if isinstance(value, dict) else value) for item in floats_of(part)]


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (object(), TypeError, "`object` is not a type of data"),
        ([Model], TypeError, "`ModelMetaclass` is not a type of data"),
        ({(1, 2): 3}, TypeError, "Only dicts with str-like or number-like keys are supported"),
        (2**64, ValueError, "an integer is beyond 64 bits; use a string"),
        ("\ud800", ValueError, "'utf-8' codec can't encode character '\\ud800' in position 0: surrogates not allowed"),
    ],
)
def test_what_is_no_data_is_refused(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        codec.to_builtins(value)
    assert str(caught.value) == message


def test_a_value_that_contains_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="nested too deeply, or contains itself"):
        codec.to_builtins(endless)


def test_bytes_are_base64_in_json() -> None:
    assert codec.to_json({"raw": b"\xff", "model": Model(at=NOON, tags=set())}) == (
        b'{"raw":"/w==","model":{"at":"2026-01-31T12:00:00Z","tags":[]}}'
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"id": ', "the body: expected JSON: Input data was truncated"),
        (b"1" * 30, "the body: expected integers of at most 64 bits, found a larger one; send it as a string"),
        (b"[" * 257 + b"]" * 257, "the body: expected JSON nested at most 256 levels deep, found more"),
        (b"[" * 100_000, "the body: expected JSON nested at most 256 levels deep, found more"),
        (b"\xff", "the body: expected JSON: JSON is malformed: invalid character (byte 0)"),
        (b"NaN", "the body: expected JSON: JSON is malformed: invalid character (byte 0)"),
    ],
)
def test_json_that_could_not_be_written_again_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(MalformedEvent) as refusal:
        codec.read_json("the body", text)
    assert str(refusal.value) == message
