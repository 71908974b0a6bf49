"""A generation: one immutable set of loaded functions with its graph; a reload makes a new one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from time import perf_counter
from typing import Any

import msgspec

from runtime.errors import Fault, LoadError, nearest
from runtime.graph import Graph, Known, build_graph
from runtime.loading.handlers import Before, read_handlers
from runtime.loading.importer import Loaded, Modules, PartialLoad, shown
from runtime.loading.isolation import Isolations
from runtime.resources import ResourceSpec, make_resources
from runtime.settings import ProcessSettings, Settings
from runtime.specs import FunctionSpec, SinkSpec, as_list, make_external, make_function
from runtime.targets import fault_of_target
from runtime.toml import place_of


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
    """Functions as loaded under some settings, and what they changed."""

    graph: Graph
    modules: Modules
    change: Change
    settings: Settings

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


def make_graph(modules: Modules, settings: Settings, number: int, previous: Generation | None = None) -> Graph:
    """Return the graph of loaded modules.

    A function that is as it was keeps the number of the generation it came with; a resource that is as it was is the same.

    Raises:
        LoadError: with every fault of functions and graph.
    """
    before = previous.graph if previous else None
    with shown(modules):
        resources, faults = _resources(modules.declared, settings, before)
        checked = _checked(previous, settings, resources)
        handlers, others = read_handlers(modules, settings, _before(previous))
        functions, more = _functions([*modules.declared, *handlers], settings, number, resources, checked=checked)
        others += more
    isolations = Isolations(modules, settings, resources)
    functions, more = _isolated(functions, isolations, settings)
    others += more
    faults += others or _unknown_tables(settings, {function.name for function in functions}, resources.keys())
    made = [resource for resource in resources.values() if resource is not None]
    graph = faults or build_graph([_kept(one, before) for one in functions], sink_specs(settings), made)
    if isinstance(graph, list):
        raise LoadError(graph)
    return graph


def _isolated(functions: Sequence[FunctionSpec], isolations: Isolations, settings: Settings) -> tuple[list[FunctionSpec], list[Fault]]:
    """Return the functions with what a process needs to make them, and the faults of those that ask for what they cannot have."""
    made: list[FunctionSpec] = []
    faults: list[Fault] = []
    processes = {name: given for name, table in settings.functions.items() if (given := _given(table.process))}
    for function in functions:
        given = processes.get(function.name, [])
        if given and not function.isolate:
            place = place_of(settings.path.name, ("functions", function.name), given[0])
            faults.append(Fault(place, "only functions with a worker process of their own have it; add isolate = true, or remove the key"))
        isolation = function.isolation or isolations.of(function)
        if function.isolate and isolation is None:
            faults.append(
                Fault(function.where, f'"{function.name}" cannot be isolated: no `@function` in a file declares it; remove isolate')
            )
        made.append(msgspec.structs.replace(function, isolation=isolation) if isolation is not function.isolation else function)
    return made, faults


def _given(process: ProcessSettings) -> list[str]:
    """Return which settings of a process are not their defaults."""
    default = ProcessSettings()
    return [field for field in process.__struct_fields__ if getattr(process, field) != getattr(default, field)]


def _before(previous: Generation | None) -> Before | None:
    return Before(previous.graph, previous.settings, previous.modules.conventions) if previous else None


def faults_beside(error: PartialLoad, settings: Settings) -> list[Fault]:
    """Return the faults of what is declared in files that could be loaded though others could not; names may be missing with those."""
    resources, faults = _resources(error.declared, settings, None, whole=False)
    return faults + _functions(error.declared, settings, 0, resources, whole=False)[1]


def _resources(
    declared: Sequence[Loaded], settings: Settings, previous: Graph | None, *, whole: bool = True
) -> tuple[dict[str, ResourceSpec | None], list[Fault]]:
    """Return the resources of declarations by name, None for those with faults, and every fault."""
    tables = {name: table.options for name, table in settings.resources.items()}
    placed = [(loaded.declaration, loaded.file, loaded.line) for loaded in declared if loaded.declaration.is_resource]
    return make_resources(placed, tables, previous.resources if previous else None, whole=whole)


def _checked(previous: Generation | None, settings: Settings, resources: Mapping[str, ResourceSpec | None]) -> dict[int, FunctionSpec]:
    """Return by the identity of their declaration the functions that need no second check: nothing they depend on has changed."""
    if previous is None or previous.settings is not settings:
        return {}
    before = previous.graph.resources
    if before.keys() != resources.keys() or any(before[name] is not one for name, one in resources.items()):
        return {}
    declared = [loaded for loaded in previous.modules.declared if not loaded.declaration.is_resource]
    return {id(loaded): previous.graph.by_name[loaded.declaration.name] for loaded in declared}


def _functions(
    declared: Sequence[Loaded],
    settings: Settings,
    number: int,
    resources: Mapping[str, ResourceSpec | None],
    *,
    checked: Mapping[int, FunctionSpec] = {},
    whole: bool = True,
) -> tuple[list[FunctionSpec], list[Fault]]:
    """Return the checked functions of declarations, and every fault; unless they are the `whole` no name is known to be missing.

    Those that are `checked` already, by the identity of their declaration, are not looked at again.
    """
    overrides = {name: {**table.overrides, "settings": table.settings} for name, table in settings.functions.items()}
    declared = [loaded for loaded in declared if not loaded.declaration.is_resource]
    external = {name: table for name, table in settings.functions.items() if table.target is not None}
    handled = {name for name, table in settings.functions.items() if table.handler is not None}  # also those with faults
    known = Known({loaded.declaration.name for loaded in declared} | external.keys() | handled)
    functions: list[FunctionSpec] = []
    faults: list[Fault] = []
    for loaded in declared:
        before = checked.get(id(loaded))
        if before is not None:
            faults += known.faults(before.name, before.where, before.after)
            functions.append(before)
            continue
        made = make_function(loaded.declaration, loaded.file, loaded.line, number, overrides, resources if whole else None)
        missing = _missing(loaded, overrides, known) if whole else []
        if isinstance(made, list):
            faults += missing or made  # without what it comes after its parameters cannot be judged
        else:
            faults += missing
            functions.append(made)
    for name, table in external.items():
        place = place_of(settings.path.name, ("functions", name))
        twin = next((loaded for loaded in declared if loaded.declaration.name == name), None)
        made = make_external(name, table, place, number)
        faults += known.faults(name, place, made.after) if whole else []
        lack = fault_of_target(made.call, settings.path.parent)
        faults += [Fault(place, lack)] if lack else []
        if twin is not None:
            faults.append(Fault(place, f"{twin.file}:{twin.line} declares a function of this name, too; rename one of them"))
        functions.append(made)
    return functions, faults


def _missing(loaded: Loaded, overrides: Mapping[str, Mapping[str, Any]], known: Known) -> list[Fault]:
    """Return the faults of what a declared function comes after."""
    name = loaded.declaration.name
    after = {**loaded.declaration.options, **overrides.get(name, {})}.get("after", ())
    wanted = [one for one in as_list(after) if isinstance(one, str)] if isinstance(after, str | list) else []
    return known.faults(name, f"{loaded.file}:{loaded.line}", wanted)


def _kept(function: FunctionSpec, previous: Graph | None) -> FunctionSpec:
    """Return the function with the generation its callable first came with."""
    before = previous.by_name.get(function.name) if previous else None
    if before is not None and before.call == function.call:
        return msgspec.structs.replace(function, generation=before.generation)
    return function


def _unknown_tables(settings: Settings, functions: Collection[str], resources: Collection[str]) -> list[Fault]:
    tables = [("function", name, functions) for name in settings.functions]
    tables += [("resource", name, resources) for name in settings.resources]
    return [
        Fault(
            f"{settings.path.name} [{word}s.{name}]",
            f'no file declares a {word} "{name}"{nearest(name, known)}; rename the table or remove it',
        )
        for word, name, known in tables
        if name not in known
    ]


def make_generation(modules: Modules, settings: Settings, previous: Generation | None, *, time: float, began: float) -> Generation:
    """Return the generation that follows `previous`, made of loaded modules; `began` is when loading did, on the clock for short times.

    Raises:
        LoadError: with every fault of functions and graph.
    """
    number = previous.number + 1 if previous else 1
    graph = make_graph(modules, settings, number, previous)
    new, old = graph.by_name, previous.graph.by_name if previous else {}
    change = Change(
        number=number,
        time=time,
        seconds=perf_counter() - began,
        files=modules.files,
        added=tuple(sorted(new.keys() - old.keys())),
        changed=tuple(sorted(name for name in new.keys() & old.keys() if new[name].call != old[name].call)),
        removed=tuple(sorted(old.keys() - new.keys())),
    )
    return Generation(graph, modules, change, settings)
