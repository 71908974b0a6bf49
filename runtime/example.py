"""Make an example of a type of data, for people who want to try a function."""

from __future__ import annotations

from typing import Any

from msgspec import inspect

SIMPLE: list[tuple[type, Any]] = [
    (inspect.BoolType, True),
    (inspect.StrType, "a"),
    (inspect.IntType, 1),
    (inspect.FloatType, 1.5),
    (inspect.DecimalType, "1.5"),
    (inspect.DateTimeType, "2026-01-01T12:00:00Z"),
    (inspect.DateType, "2026-01-01"),
    (inspect.TimeType, "12:00:00"),
    (inspect.UUIDType, "0197a1b2-0000-7000-8000-000000000000"),
    (inspect.DictType, {}),
]


def example_of(type: Any) -> Any:
    """Return a value, as JSON says it, that is likely to fit a type; `{}` when the type says nothing."""
    try:
        return _example(inspect.type_info(type), 0)
    except TypeError:
        return {}


def _example(info: inspect.Type, depth: int) -> Any:  # noqa: PLR0911 - a table
    for kind, value in SIMPLE:
        if isinstance(info, kind):
            return value
    match info:
        case inspect.Metadata():
            return _example(info.type, depth)
        case inspect.StructType() | inspect.DataclassType() | inspect.TypedDictType() if depth < 10:
            return {field.encode_name: _example(field.type, depth + 1) for field in info.fields if field.required}
        case inspect.ListType() | inspect.SetType() | inspect.FrozenSetType():
            return [_example(info.item_type, depth + 1)]
        case inspect.UnionType():
            return _example(next(one for one in info.types if not isinstance(one, inspect.NoneType)), depth)
        case inspect.LiteralType():
            return info.values[0]
        case inspect.EnumType():
            return next(iter(info.cls)).value
    return {}
