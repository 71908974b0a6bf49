"""Options in words: what a record of options allows, for people who read a message or look a plugin up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec import inspect

from runtime.example import example_of
from runtime.toml import quoted, written

WORDS: dict[type[inspect.Type], tuple[str, str]] = {
    inspect.BoolType: ("a boolean", "booleans"),
    inspect.IntType: ("a whole number", "whole numbers"),
    inspect.FloatType: ("a number", "numbers"),
    inspect.DecimalType: ("a number", "numbers"),
    inspect.StrType: ("a string", "strings"),
    inspect.DateTimeType: ("a date with a time", "dates with times"),
    inspect.DateType: ("a date", "dates"),
    inspect.TimeType: ("a time", "times"),
    inspect.UUIDType: ("a UUID", "UUIDs"),
    inspect.StructType: ("a table", "tables"),
    inspect.DataclassType: ("a table", "tables"),
    inspect.TypedDictType: ("a table", "tables"),
    inspect.DictType: ("a table", "tables"),
}
"""How one value of a type is called, and several."""

LISTS = (inspect.ListType, inspect.VarTupleType, inspect.SetType, inspect.FrozenSetType)
PLAUSIBLE = {"type": "order.placed", "path": "events.jsonl", "url": "https://example.org/events"}
"""What stands in an example for a required text of this name, when its type gives no `examples` of its own."""


class Option(msgspec.Struct, frozen=True):
    """A key of a table: what it takes, its default unless it is required, what its type says of it.

    `options` are the keys of the table, or of each of the tables by name, that it takes.
    """

    name: str
    type: str
    required: bool
    default: Any = None
    doc: str = ""
    options: list[Option] = []


def words(type: Any) -> str:
    """Return the values a type allows, in words; those of a Literal in the order of its declaration."""
    return _one_of(get_args(type)) if get_origin(type) is Literal else _described(inspect.type_info(type))


def expected(type: Any) -> str:
    """Return the values a setting of the runtime takes, where one string stands for a list of one."""
    return f"a string or {words(type)}" if get_origin(type) is tuple else words(type)


def options_of(model: type[msgspec.Struct]) -> list[Option]:
    """Return the keys that a record of options stands for."""
    return list(_options(model, ()))


def settings_of(model: type[msgspec.Struct]) -> list[Option]:
    """Return the keys of a table that are the runtime's own, whatever the plugin of the table is."""
    types = {field.name: field.type for field in msgspec.structs.fields(model)}
    own = [option for option in options_of(model) if option.name != "options"]
    return [msgspec.structs.replace(option, type=expected(types[option.name])) for option in own]


def example(role: str, kind: str, model: type[msgspec.Struct]) -> str:
    """Return a table of `runtime.toml` for a plugin, with what is required and what has `examples`."""
    lines = [f"[{role}s.{quoted(kind)}]", f"plugin = {written(kind)}"]
    for field in msgspec.structs.fields(model):
        given = _said(inspect.type_info(field.type), "examples")
        if given or field.required:
            value = given[0] if given else _plausible(field)
            lines.append(f"{quoted(field.encode_name)} = {written(value)}")
    return "\n".join(lines)


def one_line(text: str | None) -> str:
    """Return a docstring on one line."""
    return " ".join((text or "").split())


def first_sentence(text: str | None) -> str:
    """Return the first sentence of a docstring on one line."""
    sentence, stop, _ = one_line((text or "").strip().partition("\n\n")[0]).partition(". ")
    return sentence + stop.rstrip()


def _options(model: type[msgspec.Struct], outer: tuple[type, ...]) -> Iterator[Option]:
    """Yield the keys of a record; one that holds itself is not gone into again."""
    for field in msgspec.structs.fields(model):
        info = inspect.type_info(field.type)
        inner = _record_in(info)
        yield Option(
            field.encode_name,
            words(field.type),
            field.required,
            _default(field),
            _said(info, "description") or one_line(inner.__doc__ if inner else ""),
            list(_options(inner, (*outer, model))) if inner and inner not in (*outer, model) else [],
        )


def _default(field: msgspec.structs.FieldInfo) -> Any:
    """Return the default as TOML could say it; None when there is none."""
    default = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
    return None if default is msgspec.NODEFAULT else msgspec.to_builtins(default, enc_hook=str, str_keys=True)


def _record_in(info: inspect.Type) -> type[msgspec.Struct] | None:
    """Return the record that stands in a type: by itself, beside others, in a list, or by name."""
    match info:
        case inspect.StructType(cls=found):
            return found
        case inspect.Metadata(type=inner) | inspect.DictType(value_type=inner):
            return _record_in(inner)
        case inspect.UnionType(types=types):
            return next(filter(None, map(_record_in, types)), None)
    return _record_in(info.item_type) if isinstance(info, LISTS) else None


def _said(info: inspect.Type, key: str) -> Any:
    """Return what the `Meta` of a type says besides limits, or None."""
    match info:
        case inspect.Metadata(type=inner, extra_json_schema=extra):
            return (extra or {}).get(key) or _said(inner, key)
        case inspect.UnionType(types=types):
            return next(filter(None, (_said(one, key) for one in types)), None)
    return None


def _plausible(field: msgspec.structs.FieldInfo) -> Any:
    """Return a value that a required option is likely to take."""
    info = inspect.type_info(field.type)
    match info:
        case inspect.StrType(min_length=shortest):
            return PLAUSIBLE.get(field.encode_name, "a" * (shortest or 1))
        case inspect.IntType(ge=least, gt=below, le=most) | inspect.FloatType(ge=least, gt=below, le=most):
            lowest = least if least is not None else 1 if below is None else below + 1
            return lowest if most is None else min(lowest, most)
    return example_of(field.type)


def _described(info: inspect.Type) -> str:  # noqa: PLR0911 - a table
    match info:
        case inspect.Metadata(type=inner):
            return _described(inner)
        case inspect.UnionType(types=types):
            return " or ".join(dict.fromkeys(_described(one) for one in types if not isinstance(one, inspect.NoneType)))
        case inspect.LiteralType(values=values):
            return _one_of(values)
        case inspect.EnumType(cls=cls):
            return _one_of([one.value for one in cls])
        case inspect.DictType(value_type=inner) if _record_in(inner):
            return "tables by name"
        case inspect.TupleType():
            return "a list"
        case inspect.AnyType():
            return "any value"
        case inspect.CustomType(cls=cls):
            return f"a {cls.__name__}"
    if isinstance(info, LISTS):
        return f"a list of {_several(info.item_type)}"
    return WORDS.get(type(info), ("a string", ""))[0] + _limits_of(info)


def _several(info: inspect.Type) -> str:
    while isinstance(info, inspect.Metadata):
        info = info.type
    if isinstance(info, LISTS):
        return "lists"
    return WORDS[type(info)][1] if type(info) in WORDS else _described(info)


def _one_of(values: Any) -> str:
    return " or ".join(map(written, values))


def _limits_of(info: inspect.Type) -> str:
    match info:
        case inspect.StrType(pattern=str(pattern)):
            return f" that matches {pattern}"
        case inspect.StrType(min_length=int(shortest)):
            return " that is not empty" if shortest == 1 else f" of {shortest} characters or more"
        case inspect.IntType() | inspect.FloatType():
            return _range_of(info)
    return ""


def _range_of(info: inspect.IntType | inspect.FloatType) -> str:
    if info.ge is not None and info.le is not None:
        return f" of {info.ge:g} … {info.le:g}"
    lower = f" of more than {info.gt:g}" if info.gt is not None else f" of {info.ge:g} or more" if info.ge is not None else ""
    upper = f"less than {info.lt:g}" if info.lt is not None else f"at most {info.le:g}" if info.le is not None else ""
    return f"{lower} and {upper}" if lower and upper else lower or (f" of {upper}" if upper else "")
