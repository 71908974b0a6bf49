"""Sorting: 100,000 functions beside graphlib, and a folder of 10,000 until its graph is printed."""

from __future__ import annotations

import graphlib
import random
import time

from benchmarks.children import child, run
from benchmarks.ours import MEMORY, project
from benchmarks.sheet import Sheet
from runtime import config
from runtime.cli import drawing
from runtime.graph import topological_order
from runtime.loading import importer
from runtime.loading.generation import make_graph

FUNCTIONS = 100_000
LOADED = 10_000


def after(count: int) -> list[list[int]]:
    """Return for each node up to three that come before it."""
    dice = random.Random(1)
    return [[dice.randrange(node) for _ in range(min(node, dice.randrange(4)))] for node in range(count)]


def ours(count: int) -> float:
    """Return the seconds that our sort of index lists takes."""
    successors: list[list[int]] = [[] for _ in range(count)]
    for node, before in enumerate(after(count)):
        for one in set(before):
            successors[one].append(node)
    began = time.perf_counter()
    order = topological_order(successors)
    taken = time.perf_counter() - began
    assert len(order) == count
    return taken


def library(count: int) -> float:
    """Return the seconds that graphlib takes for the same."""
    graph = dict(enumerate(after(count)))
    began = time.perf_counter()
    order = list(graphlib.TopologicalSorter(graph).static_order())
    taken = time.perf_counter() - began
    assert len(order) == count
    return taken


def folder(count: int) -> list[float]:
    """Return the seconds to import a folder of ten files with chains of ten functions, and those to check, sort and print it."""
    files = {}
    for file in range(10):
        lines = ["from runtime import function"]
        for number in range(file * count // 10, (file + 1) * count // 10):
            before = "data" if number % 10 == 0 else f"f{number - 1}"
            option = f'on="t{number}"' if number % 10 == 0 else f'after="{before}"'
            lines.append(f"@function({option})\nasync def f{number}({before}: int) -> int: return {before}")
        files[f"part{file}.py"] = "\n".join(lines)
    with project(MEMORY, files) as place:
        settings = config.load(place / "runtime.toml")
        began = time.perf_counter()
        modules = importer.load(settings.functions_dir)
        imported = time.perf_counter()
        drawing.text(make_graph(modules, settings, 1))
        return [imported - began, time.perf_counter() - imported]


def measure(sheet: Sheet) -> None:
    """See above."""
    sheet.compare("s", {"topological sort of 100,000": child(ours, FUNCTIONS), "graphlib": child(library, FUNCTIONS)})
    sheet.ratio("topological sort of 100,000", "graphlib", "≤ 0.5")
    folders = [run(folder, LOADED) for _ in range(sheet.rounds)]
    sheet.add("10,000 functions: import", [imported for imported, _ in folders], "s")
    sheet.add("10,000 functions: check, sort and print", [rest for _, rest in folders], "s", "< 2")
