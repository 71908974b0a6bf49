"""A generation: one immutable set of loaded functions with its graph; a reload makes a new one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from runtime.errors import Fault, LoadError, nearest
from runtime.graph import Graph, build_graph, missing_faults
from runtime.loading.importer import Loaded, Modules, PartialLoad, shown
from runtime.settings import Settings
from runtime.specs import FunctionSpec, SinkSpec, as_list, make_function, name_of


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What a generation brought, as history keeps it.

    `time` is Unix time, `seconds` what loading took, `files` relative paths with their sha256; `added`,
    `changed` and `removed` are names of functions.
    """

    number: int
    time: float
    seconds: float
    files: Mapping[str, str]
    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]


class Generation(msgspec.Struct, frozen=True):
    """Functions as loaded, and what they changed."""

    graph: Graph
    modules: Modules
    change: Change

    @property
    def number(self) -> int:
        """The number of the generation, from 1."""
        return self.change.number


def sink_specs(settings: Settings) -> list[SinkSpec]:
    """Return what the configuration says of each sink."""
    return [
        SinkSpec(
            name=name,
            on=sink.on,
            retries=sink.retries,
            backoff=sink.backoff,
            backoff_max=sink.backoff_max,
            timeout=sink.timeout,
            concurrency=sink.concurrency,
            plugin=sink.plugin,
            batch=sink.batch,
            batch_wait=sink.batch_wait,
        )
        for name, sink in settings.sinks.items()
    ]


def make_graph(modules: Modules, settings: Settings, number: int, previous: Graph | None = None) -> Graph:
    """Return the graph of loaded modules.

    A function that is as it was keeps the number of the generation it came with.

    Raises:
        LoadError: with every fault of functions and graph.
    """
    with shown(modules):
        functions, faults = _functions(modules.declared, settings, number)
    names = {function.name for function in functions}
    graph = faults or _unknown_tables(settings, names) or build_graph([_kept(one, previous) for one in functions], sink_specs(settings))
    if isinstance(graph, list):
        raise LoadError(graph)
    return graph


def faults_beside(error: PartialLoad, settings: Settings) -> list[Fault]:
    """Return the faults of the functions whose files could be loaded though others could not; names may be missing with those."""
    _, faults = _functions(error.declared, settings, 0, whole=False)
    return faults


def _functions(
    declared: Sequence[Loaded], settings: Settings, number: int, *, whole: bool = True
) -> tuple[list[FunctionSpec], list[Fault]]:
    """Return the checked functions of declarations, and every fault; unless they are the `whole` no name is known to be missing."""
    overrides = {name: {**table.overrides, "settings": table.settings} for name, table in settings.functions.items()}
    names = {name_of(loaded.declaration) for loaded in declared}
    functions: list[FunctionSpec] = []
    faults: list[Fault] = []
    for loaded in declared:
        made = make_function(loaded.declaration, loaded.file, loaded.line, number, overrides)
        missing = _missing(loaded, overrides, names) if whole else []
        if isinstance(made, list):
            faults += missing or made  # without what it comes after its parameters cannot be judged
        else:
            faults += missing
            functions.append(made)
    return functions, faults


def _missing(loaded: Loaded, overrides: Mapping[str, Mapping[str, Any]], names: set[str]) -> list[Fault]:
    """Return the faults of what a declared function comes after."""
    name = name_of(loaded.declaration)
    after = {**loaded.declaration.options, **overrides.get(name, {})}.get("after", ())
    wanted = [one for one in as_list(after) if isinstance(one, str)] if isinstance(after, str | list) else []
    return missing_faults(name, f"{loaded.file}:{loaded.line}", wanted, names)


def _kept(function: FunctionSpec, previous: Graph | None) -> FunctionSpec:
    """Return the function with the generation its callable first came with."""
    before = previous.by_name.get(function.name) if previous else None
    if before is not None and before.call is function.call:
        return msgspec.structs.replace(function, generation=before.generation)
    return function


def _unknown_tables(settings: Settings, names: set[str]) -> list[Fault]:
    return [
        Fault(
            f"{settings.path.name} [functions.{name}]",
            f'no file declares a function "{name}"{nearest(name, names)}; rename the table or remove it',
        )
        for name in settings.functions
        if name not in names
    ]


def make_generation(modules: Modules, settings: Settings, previous: Generation | None, *, time: float, seconds: float) -> Generation:
    """Return the generation that follows `previous`, made of loaded modules.

    Raises:
        LoadError: with every fault of functions and graph.
    """
    number = previous.number + 1 if previous else 1
    graph = make_graph(modules, settings, number, previous.graph if previous else None)
    new, old = graph.by_name, previous.graph.by_name if previous else {}
    change = Change(
        number=number,
        time=time,
        seconds=seconds,
        files=modules.files,
        added=tuple(sorted(new.keys() - old.keys())),
        changed=tuple(sorted(name for name in new.keys() & old.keys() if new[name].call is not old[name].call)),
        removed=tuple(sorted(old.keys() - new.keys())),
    )
    return Generation(graph, modules, change)
