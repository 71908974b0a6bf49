"""The checked form of what users declare: functions and sinks as graph, dispatch and executors read them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import msgspec

from runtime import pattern
from runtime.errors import Fault, nearest
from runtime.function import Declaration, Kind, Options
from runtime.parameters import Parameters, payload_of, read_parameters
from runtime.resources import ResourceSpec
from runtime.settings import CommandSettings, FunctionSettings, ProcessSettings

FIELDS = {field.name: field for field in msgspec.structs.fields(Options)}
NO_RESOURCES: Mapping[str, ResourceSpec | None] = {}
MINIMA: dict[str, float] = {"retries": 0, "backoff": 0, "backoff_max": 0, "concurrency": 1, "max_emits": 1, "batch": 1, "batch_wait": 0}
POSITIVE = ("timeout", "rate")
PROCESSES = max(4, os.cpu_count() or 1)  # the `concurrency` of a command without one: each attempt has a process
UNITS = {"MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}
MIN_MEMORY = "64MB"  # below it a worker process cannot even load the runtime


class StepSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What functions and sinks have in common: how a step of this name is tried; seconds throughout."""

    name: str
    on: tuple[str, ...]
    retries: int = 3
    backoff: float = 1.0
    backoff_max: float = 300.0
    timeout: float = 60.0
    concurrency: int = 64


class Isolation(msgspec.Struct, frozen=True, kw_only=True):
    """All that a process of its own needs to make a function anew, so that it never reads a file of the folder.

    `texts` are the files that the function and its resources are made of, by their paths in `folder`; `overrides` its
    table in the configuration, `settings` that for the function itself, `resources` those of the resources it takes,
    directly or not; `memory` a limit in bytes, 0 without one.
    """

    name: str
    folder: str
    texts: Mapping[str, bytes]
    overrides: Mapping[str, Any] = {}
    settings: Mapping[str, Any] = {}
    resources: Mapping[str, Mapping[str, Any]] = {}
    memory: int = 0
    process: ProcessSettings = ProcessSettings()


class FunctionSpec(StepSpec, frozen=True, kw_only=True):
    """A function of the graph, checked; `line` is that of its `def`.

    `call` is what the user wrote, or for an external function its target in the configuration, which has no `line`.
    `resources` are those that are opened in this process, none for an isolated function; `memory` is in bytes, 0 is no limit.
    """

    call: Any
    parameters: Parameters
    kind: Kind
    file: str
    line: int = 0
    after: tuple[str, ...] = ()
    emits: str | None = None
    rate: float | None = None
    max_emits: int = 10_000
    batch: int = 1
    batch_wait: float = 0.05
    generation: int = 0
    settings: Mapping[str, Any] = {}
    resources: tuple[ResourceSpec, ...] = ()
    isolate: bool = False
    memory: int = 0
    isolation: Isolation | None = None

    @property
    def executor(self) -> str:
        """The word of the API for where it runs: `loop`, `thread`, `process`, `command` or `service`."""
        if self.isolate:
            return "process"
        if self.kind in ("command", "service"):
            return self.kind
        return "loop" if self.kind.startswith("async") else "thread"

    @property
    def where(self) -> str:
        """File and line (or the table of the configuration), as in every message."""
        return f"{self.file}:{self.line}" if self.line else self.file


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
    if name == "memory" and bytes_of(value) is None:
        return f'`memory` is a size of {MIN_MEMORY} or more, as in "512MB" or "2GiB", found "{value}"'
    if name == "emits" and (pattern.fault_of(value) or not pattern.is_literal(value)):
        return f'`emits` is one event type without wildcards, found "{value}"'
    if name == "name" and (not value or "/" in value or any(map(str.isspace, value))):
        return f'`name` is not empty and has no "/" or white space, found "{value}"'
    return None


def bytes_of(size: str) -> int | None:
    """Return how many bytes a size as in "512MB" is; None when it is none, or too small for a process."""
    number, unit = size[:-3], size[-3:]
    if unit not in UNITS:
        number, unit = size[:-2], size[-2:]
    if unit not in UNITS or not (number.isascii() and number.isdecimal()) or len(number) > 9:
        return None
    amount = int(number) * UNITS[unit]
    return amount if amount >= int(MIN_MEMORY[:-2]) * UNITS["MB"] else None


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
    declaration: Declaration,
    file: str,
    line: int,
    generation: int,
    overrides: Mapping[str, Mapping[str, Any]],
    resources: Mapping[str, ResourceSpec | None] | None = NO_RESOURCES,
) -> FunctionSpec | list[Fault]:
    """Return the checked function, or its faults.

    `overrides` are the tables `[functions.NAME]`; the table `settings` in one is for the function itself.
    `resources` are those of the folder by name, None for one with faults of its own; altogether None: not all are known.
    """
    where = f"{file}:{line}"
    name = declaration.name
    given = {**declaration.options, **overrides.get(name, {})}
    settings = given.pop("settings", {})
    faults = [Fault(where, f'@function "{name}": {message}') for _, message in check_options(given)]
    if faults:
        return faults
    if not name:
        return [Fault(where, '@function "": the callable has no name of its own; give it one with name = "…"')]
    options = msgspec.convert({name: value for name, value in given.items() if name in FIELDS}, Options)
    kind = declaration.kind
    after = as_list(options.after)
    if "generator" in kind and options.emits is None:
        faults.append(Fault(where, f'@function "{name}": a generator needs `emits`, the type of the events it yields'))
    if "generator" in kind and options.batch > 1:
        faults.append(Fault(where, f'@function "{name}": what a generator yields would belong to no event of the batch; return a list'))
    parameters = read_parameters(declaration.call, name, after, root=not after, resources=resources, batch=options.batch)
    if options.memory is not None and not options.isolate:
        faults.append(Fault(where, f'@function "{name}": `memory` limits a worker process; add isolate=True, or leave it out'))
    if isinstance(parameters, list):
        return faults + [Fault(where, message) for message in parameters]
    if faults:
        return faults
    return FunctionSpec(
        name=name,
        call=declaration.call,
        parameters=parameters,
        kind=kind,
        file=file,
        line=line,
        generation=generation,
        settings=settings,
        resources=() if options.isolate else tuple(one for taken in parameters.resources if (one := (resources or {})[taken])),
        isolate=options.isolate,
        memory=(bytes_of(options.memory) or 0) if options.memory else 0,
        **_common(options),
    )


def make_external(name: str, table: FunctionSettings, place: str, generation: int) -> FunctionSpec:
    """Return the function that a table `[functions.NAME]` with a target describes; `place` is that of the table."""
    assert table.target is not None
    is_command = isinstance(table.target, CommandSettings)
    options = msgspec.convert(({"concurrency": PROCESSES} if is_command else {}) | table.overrides, Options)
    after = as_list(options.after)
    payload = payload_of(after)
    batched = Parameters((lambda call: call.columns[0],), (), (), each=(payload,))
    return FunctionSpec(
        name=name,
        call=table.target,
        parameters=batched if options.batch > 1 else Parameters((payload,), (), ()),
        kind="command" if is_command else "service",
        file=place,
        generation=generation,
        settings=table.settings,
        **_common(options),
    )


def _common(options: Options) -> dict[str, Any]:
    """Return the fields of a function that are options as they are."""
    same = ("emits", "rate", "max_emits", "retries", "backoff", "backoff_max", "timeout", "concurrency", "batch", "batch_wait")
    return {field: getattr(options, field) for field in same} | {"on": as_list(options.on), "after": as_list(options.after)}
