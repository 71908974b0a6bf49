"""The checked form of what users declare: functions and sinks as graph, dispatch and executors read them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from runtime import pattern
from runtime.errors import Fault, nearest
from runtime.function import LATER, LATER_DEFAULTS, Declaration, Options
from runtime.parameters import Parameters, read_parameters

Kind = Literal["async", "sync", "async generator", "generator"]

FIELDS = {field.name: field for field in msgspec.structs.fields(Options)}
MINIMA: dict[str, float] = {"retries": 0, "backoff": 0, "backoff_max": 0, "concurrency": 1, "max_emits": 1}
POSITIVE = ("timeout", "rate")


class StepSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What functions and sinks have in common: how a step of this name is tried; seconds throughout."""

    name: str
    on: tuple[str, ...]
    retries: int = 3
    backoff: float = 1.0
    backoff_max: float = 300.0
    timeout: float = 60.0
    concurrency: int = 64


class FunctionSpec(StepSpec, frozen=True, kw_only=True):
    """A function of the graph, checked; `line` is that of its `def`."""

    call: Callable[..., Any]
    parameters: Parameters
    kind: Kind
    file: str
    line: int
    after: tuple[str, ...] = ()
    emits: str | None = None
    rate: float | None = None
    max_emits: int = 10_000
    generation: int = 0
    settings: Mapping[str, Any] = {}

    @property
    def executor(self) -> str:
        """The word of the API for where it runs: `loop` or `thread`."""
        return "loop" if self.kind.startswith("async") else "thread"

    @property
    def where(self) -> str:
        """File and line, as in every message."""
        return f"{self.file}:{self.line}"


class SinkSpec(StepSpec, frozen=True, kw_only=True):
    """A sink of the graph; `batch` events at most are written at once, waiting `batch_wait` seconds to fill it."""

    plugin: str
    batch: int = 1
    batch_wait: float = 0.05


def as_list(value: str | list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """Return a name or a list of names as a tuple."""
    return (value,) if isinstance(value, str) else tuple(value)


def check_options(table: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the faults of options of a function as pairs of option and message."""
    found = []
    for name, value in table.items():
        message = _fault_of_option(name, value)
        if message:
            found.append((name, message))
    return found


def _fault_of_option(name: str, value: Any) -> str | None:  # noqa: PLR0911 - one for each rule
    if name in LATER and value == LATER_DEFAULTS[name]:
        return None
    if name in LATER:
        return f"`{name}`: {LATER[name]} not supported yet; leave the option out"
    if name not in FIELDS:
        return f"unknown option `{name}`{nearest(name, FIELDS)}; allowed: {', '.join(sorted(FIELDS))}"
    try:
        msgspec.convert(value, FIELDS[name].type)
    except msgspec.ValidationError as error:
        return f"`{name}`: {str(error)[0].lower()}{str(error)[1:]}, found {value!r}"
    if value is None:
        return None
    if isinstance(value, int | float):
        return _fault_of_number(name, value)
    if name == "on":
        return _fault_of_patterns(as_list(value))
    if name == "emits" and (pattern.fault_of(value) or not pattern.is_literal(value)):
        return f'`emits` is one event type without wildcards, found "{value}"'
    if name == "name" and (not value or "/" in value or any(map(str.isspace, value))):
        return f'`name` is not empty and has no "/" or white space, found "{value}"'
    return None


def _fault_of_number(name: str, value: float) -> str | None:
    if not math.isfinite(value):
        return f"`{name}` is a finite number, found {value!r}"
    if name in MINIMA and value < MINIMA[name]:
        return f"`{name}` is {MINIMA[name]:g} or more, found {value!r}"
    if name in POSITIVE and value <= 0:
        return f"`{name}` is more than 0, found {value!r}"
    return None


def _fault_of_patterns(patterns: tuple[str, ...]) -> str | None:
    if not patterns:
        return "`on` names one event type pattern or more, found none; leave it out for a function that is only invoked by name"
    for text in patterns:
        why = pattern.fault_of(text)
        if why:
            return f'`on`: "{text}" is not a pattern of event types: {why}'
    return None


def make_function(
    declaration: Declaration, file: str, line: int, generation: int, overrides: Mapping[str, Mapping[str, Any]]
) -> FunctionSpec | list[Fault]:
    """Return the checked function, or its faults.

    `overrides` are the tables `[functions.NAME]`; the table `settings` in one is for the function itself.
    """
    where = f"{file}:{line}"
    name = name_of(declaration)
    given = {**declaration.options, **overrides.get(name, {})}
    settings = given.pop("settings", {})
    faults = [Fault(where, f'@function "{name}": {message}') for _, message in check_options(given)]
    if faults:
        return faults
    if not name:
        return [Fault(where, '@function "": the callable has no name of its own; give it one with name = "…"')]
    options = msgspec.convert({name: value for name, value in given.items() if name in FIELDS}, Options)
    kind = _kind_of(declaration.call)
    on, after = as_list(options.on), as_list(options.after)
    if "generator" in kind and options.emits is None:
        faults.append(Fault(where, f'@function "{name}": a generator needs `emits`, the type of the events it yields'))
    parameters = read_parameters(declaration.call, name, after, root=not after)
    if isinstance(parameters, list):
        return faults + [Fault(where, message) for message in parameters]
    if faults:
        return faults
    common = {field: getattr(options, field) for field in ("retries", "backoff", "backoff_max", "timeout", "concurrency")}
    return FunctionSpec(
        name=name,
        on=on,
        after=after,
        emits=options.emits,
        rate=options.rate,
        max_emits=options.max_emits,
        call=declaration.call,
        parameters=parameters,
        kind=kind,
        file=file,
        line=line,
        generation=generation,
        settings=settings,
        **common,
    )


def name_of(declaration: Declaration) -> str:
    """Return the name of a declared function: what is written, when it is a text, or the callable's own; empty when it has none."""
    written = declaration.options.get("name")
    return written if written and isinstance(written, str) else getattr(declaration.call, "__name__", "")


def _kind_of(call: Callable[..., Any]) -> Kind:
    if inspect.isasyncgenfunction(call):
        return "async generator"
    if inspect.iscoroutinefunction(call):
        return "async"
    return "generator" if inspect.isgeneratorfunction(call) else "sync"
