"""The graph as text, Mermaid and Graphviz."""

from __future__ import annotations

from typing import Any

from support import graph_of

from runtime import function
from runtime.admin.shapes import graph_parts
from runtime.cli import drawing
from runtime.graph import Graph
from runtime.specs import SinkSpec


def declare() -> None:
    @function(on="order.placed")
    def validate(order: Any) -> Any: ...

    @function(after="validate", on=["order.*"], emits="order.charged")
    def charge(validate: Any) -> Any: ...

    @function
    def by_name(data: Any) -> Any: ...


def shop() -> Graph:
    return graph_of(declare, [SinkSpec(name="audit", on=("order.charged",), plugin="jsonl")])


def test_text_is_a_line_for_each_function_in_order_and_each_sink() -> None:
    assert drawing.text(shop()).splitlines() == [
        "validate  on order.placed                                  functions/test.py:10",
        "by_name   only invoked by name                             functions/test.py:30",
        "charge    on order.*; after validate; emits order.charged  functions/test.py:20",
        "audit     on order.charged                                 sink jsonl",
    ]


def test_text_of_nothing_says_so() -> None:
    assert drawing.text(graph_of(lambda: None)) == "no functions"


def test_a_table_has_aligned_columns_and_no_spaces_at_the_end() -> None:
    assert drawing.table([("a", "long", ""), ("longer", "b", "c")]) == "a       long\nlonger  b     c"
    assert drawing.table([]) == ""


def test_mermaid_is_a_flowchart_of_nodes_and_edges() -> None:
    nodes, edges = graph_parts(shop(), [("web", ["order.placed"])])
    lines = drawing.mermaid(nodes, edges).splitlines()
    assert lines[0] == "flowchart LR"
    short = {line.split('"')[1]: line.split("[")[0].split("(")[0].strip() for line in lines[1:] if '"' in line}
    assert f'  {short["validate"]}["validate"]' in lines
    assert f'  {short["order.placed"]}(["order.placed"])' in lines
    assert f'  {short["web"]}[/"web"/]' in lines
    assert f'  {short["audit"]}[\\"audit"\\]' in lines
    assert f"  {short['validate']} --> {short['charge']}" in lines
    assert f"  {short['web']} --> {short['order.placed']}" in lines
    assert len(lines) == 1 + len(nodes) + len(edges)


def test_dot_is_a_digraph_of_nodes_and_edges() -> None:
    nodes, edges = graph_parts(shop())
    lines = drawing.dot(nodes, edges).splitlines()
    assert lines[:2] == ["digraph runtime {", "  rankdir=LR"]
    assert lines[-1] == "}"
    short = {line.split('"')[1]: line.split()[0] for line in lines if "label=" in line}
    assert f'  {short["validate"]} [label="validate", shape=box]' in lines
    assert f"  {short['validate']} -> {short['charge']}" in lines
    assert len(lines) == 3 + len(nodes) + len(edges)


def test_names_with_quotes_break_neither() -> None:
    nodes = [("function", 'a"b\\c')]
    assert drawing.mermaid(nodes, []).splitlines()[1] == '  n0["a#quot;b\\c"]'
    assert drawing.dot(nodes, []).splitlines()[2] == '  n0 [label="a\\"b\\\\c", shape=box]'
