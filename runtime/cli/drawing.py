"""The graph as text for people, Mermaid and Graphviz."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.admin.shapes import Node
    from runtime.graph import Graph

Edges = list[tuple["Node", "Node"]]

SHAPES = {"function": ("[", "]"), "type": ("([", "])"), "source": ("[/", "/]"), "sink": ("[\\", "\\]")}
DOT_SHAPES = {"function": "box", "type": "ellipse", "source": "cds", "sink": "cylinder"}


def text(graph: Graph) -> str:
    """Return functions in topological order, then sinks: a line each with what triggers it and what it comes after."""
    rows: list[tuple[str, ...]] = []
    for function in graph.functions:
        parts = [f"on {', '.join(function.on)}"] if function.on else []
        parts += [f"after {', '.join(function.after)}"] if function.after else []
        parts += [f"emits {function.emits}"] if function.emits else []
        rows.append((function.name, "; ".join(parts) or "only invoked by name", function.where))
    rows += [(sink.name, f"on {', '.join(sink.on)}", f"sink {sink.plugin}") for sink in graph.sinks]
    return table(rows) or "no functions"


def table(rows: list[tuple[str, ...]]) -> str:
    """Return rows as lines with aligned columns; the last column is as wide as it is."""
    if not rows:
        return ""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    lines = []
    for row in rows:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*padded, row[-1]]).rstrip())
    return "\n".join(lines)


def mermaid(nodes: list[Node], edges: Edges) -> str:
    """Return a Mermaid flowchart."""
    names = {node: f"n{index}" for index, node in enumerate(nodes)}
    lines = ["flowchart LR"]
    for node, short in names.items():
        opening, closing = SHAPES[node[0]]
        label = node[1].replace('"', "#quot;")
        lines.append(f'  {short}{opening}"{label}"{closing}')
    lines += [f"  {names[start]} --> {names[end]}" for start, end in edges]
    return "\n".join(lines)


def dot(nodes: list[Node], edges: Edges) -> str:
    """Return a Graphviz digraph."""
    names = {node: f"n{index}" for index, node in enumerate(nodes)}
    lines = ["digraph runtime {", "  rankdir=LR"]
    for (kind, name), short in names.items():
        label = name.replace("\\", "\\\\").replace('"', '\\"')
        lines.append(f'  {short} [label="{label}", shape={DOT_SHAPES[kind]}]')
    lines += [f"  {names[start]} -> {names[end]}" for start, end in edges]
    return "\n".join([*lines, "}"])
