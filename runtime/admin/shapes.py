"""The shapes of the admin API, the same under `--json`: fields may be added, never renamed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from runtime import cloudevents, pattern
from runtime.event import DEFAULT_PRIORITY
from runtime.records import ENDED, Entry, Step

if TYPE_CHECKING:
    from runtime.graph import Graph
    from runtime.loading.generation import Change
    from runtime.settings import SourceSettings
    from runtime.specs import FunctionSpec


def moment(time: float | datetime | None) -> str | None:
    """Return a time (Unix seconds or aware datetime) as RFC 3339 in UTC, or None for none (0 or None)."""
    if not time:
        return None
    when = time if isinstance(time, datetime) else datetime.fromtimestamp(time, UTC)
    return when.astimezone(UTC).isoformat().replace("+00:00", "Z")


def entry_shape(entry: Entry, live: Mapping[int, str], reason: str) -> dict[str, Any]:
    """Return an event as it stands in lists; `live` tells how those in the flow stand by `seq`, `reason` why it waits or ended so."""
    event = entry.event
    return {
        "uid": entry.uid,
        "id": event.id,
        "type": event.type,
        "source": event.source,
        "time": moment(event.time) or moment(entry.accepted),
        "key": event.key,
        "priority": DEFAULT_PRIORITY if event.priority is None else event.priority,
        "status": status_of(entry, live),
        "attempts": max((step.attempts for step in entry.steps.values()), default=0),
        "error": _error_of(entry),
        "reason": reason or None,
        "accepted": moment(entry.accepted),
        "due": moment(entry.due),
        "ended": moment(entry.ended),
    }


def status_of(entry: Entry, live: Mapping[int, str]) -> str:
    """Return how an event stands: as the flow says while it is there, otherwise as the journal does."""
    return entry.status if entry.status in ENDED else live.get(entry.seq, entry.status)


def _error_of(entry: Entry) -> dict[str, Any] | None:
    """Return the error of the step that failed or is to be tried again, or why the whole event is dead."""
    for step in entry.steps.values():
        if step.error is not None and step.status not in ("done", "skipped"):
            return {"function": step.function, "type": step.error.type, "message": step.error.message}
    if entry.status == "dead" and entry.reason:
        return {"function": None, "type": None, "message": entry.reason}
    return None


def details_shape(entry: Entry, *, now: float, planned: Iterable[str], effects: Iterable[Entry], others: Iterable[Entry]) -> dict[str, Any]:
    """Return what there is to know of one event beyond `entry_shape`; `now` is Unix time.

    `planned` are the names of the functions and sinks of its plan in order: the steps are listed in that
    order, and while the event is open those that nobody has tried yet are `pending`.
    """
    return {
        "event": cloudevents.to_dict(entry.event),
        "waited": _waited(entry, now),
        "waits": [{"for": what, "seconds": round(seconds, 6)} for what, seconds in (entry.waits or {}).items()],
        "crashes": entry.crashes,
        "causation": entry.event.extensions.get("causationid"),
        "effects": [effect.event.id for effect in effects],
        "steps": [_step_shape(step) for step in _steps_of(entry, planned)],
        "others": [other.uid for other in others],
    }


def _waited(entry: Entry, now: float) -> float:
    """Return the seconds from when an event could run to when something of it did, or until now."""
    began = min((step.started for step in entry.steps.values() if step.started), default=entry.ended or now)
    return round(max(began - max(entry.accepted, entry.due), 0.0), 6)


def _steps_of(entry: Entry, planned: Iterable[str]) -> list[Step]:
    rest = dict(entry.steps)
    steps = []
    for name in planned:
        step = rest.pop(name, None)
        if step is not None:
            steps.append(step)
        elif entry.status not in ENDED:
            steps.append(Step(function=name))
    return steps + list(rest.values())


def _step_shape(step: Step) -> dict[str, Any]:
    error = step.error
    return {
        "function": step.function,
        "status": step.status,
        "attempts": step.attempts,
        "generation": step.generation,
        "started": moment(step.started),
        "finished": moment(step.finished),
        "due": moment(step.due),
        "result": step.result,
        "reason": step.reason or None,
        "error": None if error is None else {"type": error.type, "message": error.message, "traceback": error.traceback},
    }


def function_shape(function: FunctionSpec, hanging: Sequence[str] = (), *, escalated: bool = False) -> dict[str, Any]:
    """Return a function as the API lists it.

    `hanging` are the lines in which threads of it hang; `escalated`: it is isolated for that, for now.
    """
    same = ("name", "emits", "file", "line", "executor", "generation", "retries", "backoff", "backoff_max", "timeout")
    shape = {field: getattr(function, field) for field in (*same, "concurrency", "rate")}
    shape |= {"on": list(function.on), "after": list(function.after), "resources": [one.name for one in function.resources]}
    shape |= {"batch": function.batch, "hanging": list(hanging), "escalated": escalated}
    return shape | {"executor": "process"} if escalated else shape


def generation_shape(change: Change) -> dict[str, Any]:
    """Return what a generation changed as the API lists it."""
    return {
        "number": change.number,
        "time": moment(change.time),
        "files": dict(change.files),
        "added": list(change.added),
        "changed": list(change.changed),
        "removed": list(change.removed),
        "seconds": change.seconds,
    }


Node = tuple[str, str]
"""A node of the graph: its kind (function, sink, source or type) and its name, unique together."""


def graph_parts(  # noqa: C901 - a branch for each kind of node
    graph: Graph, sources: Sequence[tuple[str, Sequence[str]]] = ()
) -> tuple[list[Node], list[tuple[Node, Node]]]:
    """Return nodes and edges, each once.

    `sources` are pairs of name and the event types the configuration says they bring. A type is a node when
    something listens to it, emits it or brings it; a pattern is one only while no such type fits it.
    """
    nodes: dict[Node, None] = {}
    edges: dict[tuple[Node, Node], None] = {}
    fitting = _types_of(graph, sources)

    def edge(start: Node, end: Node) -> None:
        nodes[start] = nodes[end] = edges[start, end] = None

    def listen(listener: Node, patterns: Iterable[str]) -> None:
        nodes[listener] = None
        for text in patterns:
            for type in fitting[text]:
                edge(("type", type), listener)

    for name, types in sources:
        nodes["source", name] = None
        for text in types:
            edge(("source", name), ("type", text))
    for function in graph.functions:
        me = ("function", function.name)
        listen(me, () if function.after else function.on)
        for before in function.after:
            edge(("function", before), me)
        if function.emits is not None:
            edge(me, ("type", function.emits))
    for sink in graph.sinks:
        listen(("sink", sink.name), sink.on)
    return list(nodes), list(edges)


def _types_of(graph: Graph, sources: Sequence[tuple[str, Sequence[str]]]) -> dict[str, list[str]]:
    """Return for each pattern that something listens to the known types that fit it, or itself when there are none."""
    emitted = [text for function in graph.functions if (text := function.emits) is not None]
    brought = [text for _, types in sources for text in types]
    heard = {text for part in (*graph.functions, *graph.sinks) for text in part.on}
    known = [text for text in dict.fromkeys((*brought, *heard, *emitted)) if pattern.is_literal(text)]
    wild = [text for text in heard if not pattern.is_literal(text)]
    fitting = {text: [type for type in known if pattern.matches(text, type)] or [text] for text in wild}
    return {text: [text] for text in heard} | fitting


def graph_shape(graph: Graph, sources: Sequence[tuple[str, Sequence[str]]] = ()) -> dict[str, Any]:
    """Return the graph as the API tells it; `sources` as in `graph_parts`."""
    nodes, edges = graph_parts(graph, sources)
    return {
        "nodes": [{"name": name, "kind": kind} for kind, name in nodes],
        "edges": [[start, end] for (_, start), (_, end) in edges],
        "order": [function.name for function in graph.functions],
    }


def source_types(sources: Mapping[str, SourceSettings]) -> list[tuple[str, list[str]]]:
    """Return the sources of the configuration with the event types that their options name."""
    found = []
    for name, source in sources.items():
        types = [source.options.get("type")]
        routes = source.options.get("routes")
        if isinstance(routes, dict):
            types += [route.get("type") for route in routes.values() if isinstance(route, dict)]
        found.append((name, [text for text in types if isinstance(text, str)]))
    return found
