"""What is measured, by name and in this order; each module has `measure(sheet)`.

A subject of its own is one module more and one line here.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.sheet import Sheet
from benchmarks.subjects import backlog, calls, chains, crowd, curves, graph, http, isolate, latency, memory, reload, sqlite, start, steady

SUBJECTS: dict[str, Callable[[Sheet], None]] = {
    "memory": memory.measure,
    "sqlite": sqlite.measure,
    "latency": latency.measure,
    "http": http.measure,
    "chains": chains.measure,
    "graph": graph.measure,
    "isolate": isolate.measure,
    "reload": reload.measure,
    "backlog": backlog.measure,
    "start": start.measure,
    "crowd": crowd.measure,
    "steady": steady.measure,
    "calls": calls.measure,
    "curves": curves.measure,
}
LONG = ("steady", "calls", "curves")
"""These are measured when they are named, or with `--full`."""
