"""The graph: sorted as the definition says, plans by type, and faults that name everything."""

from __future__ import annotations

import graphlib
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import faults_of, graph_of

from runtime import function
from runtime import graph as graphs
from runtime.errors import nearest
from runtime.graph import Graph, topological_order
from runtime.specs import SinkSpec


@st.composite
def random_graphs(draw: st.DrawFn) -> list[list[int]]:
    size = draw(st.integers(0, 30))
    edges = draw(st.lists(st.tuples(st.integers(0, max(size - 1, 0)), st.integers(0, max(size - 1, 0))), max_size=80)) if size else []
    successors: list[list[int]] = [[] for _ in range(size)]
    for start, end in edges:
        successors[start].append(end)
    return successors


@given(random_graphs())
def test_the_order_is_a_topological_one_exactly_when_there_is_no_cycle(successors: list[list[int]]) -> None:
    order = topological_order(successors)
    position = {node: index for index, node in enumerate(order)}
    assert all(position[start] < position[end] for start in position for end in successors[start] if end in position)
    sorter = graphlib.TopologicalSorter({node: set() for node in range(len(successors))})
    for start, following in enumerate(successors):
        for end in following:
            sorter.add(end, start)
    try:
        assert set(sorter.static_order()) == set(order)
    except graphlib.CycleError:
        assert len(order) < len(successors)


def chain_and_diamond() -> None:
    @function(on="order.placed")
    def validate(order: dict[str, Any]) -> dict[str, Any]:
        return order

    @function(after="validate")
    def charge(validate: dict[str, Any]) -> int:
        return 1

    @function(after="validate", on="order.*")
    def reserve(validate: dict[str, Any]) -> int:
        return 2

    @function(after=["charge", "reserve"], emits="order.done")
    def ship(charge: int, reserve: int) -> int:
        return charge + reserve

    @function(on=["user.>", "order.placed"])
    def audit(event: Any) -> None: ...


def names(graph: Graph, type: str) -> list[str]:
    return [one.name for one in graph.plan(type).functions]


def test_a_plan_holds_what_one_type_triggers_in_topological_order() -> None:
    graph = graph_of(chain_and_diamond)
    plan = graph.plan("order.placed")
    assert set(names(graph, "order.placed")) == {"validate", "audit", "charge", "reserve", "ship"}
    index = {one.name: position for position, one in enumerate(plan.functions)}
    assert index["validate"] < index["charge"] < index["ship"]
    assert plan.indegrees[index["ship"]] == 2
    assert {plan.functions[leaf].name for leaf in plan.leaves} == {"ship", "audit"}
    assert names(graph, "user.born.here") == ["audit"]
    assert names(graph, "user") == []
    assert graph.plan("order.placed") is plan


def test_on_beside_after_narrows() -> None:
    def declare() -> None:
        @function(on="order.*")
        def first(order: Any) -> None: ...

        @function(after="first", on="order.paid")
        def second(first: Any) -> None: ...

    graph = graph_of(declare)
    assert names(graph, "order.paid") == ["first", "second"]
    assert names(graph, "order.placed") == ["first"]


def test_sinks_are_in_the_plan_of_the_types_they_take() -> None:
    graph = graph_of(chain_and_diamond, [SinkSpec(name="audit_log", on=("order.*",), plugin="jsonl")])
    assert [sink.name for sink in graph.plan("order.done").sinks] == ["audit_log"]
    assert graph.plan("user.born").sinks == ()


def test_a_cycle_is_spelled_out_with_file_and_line_of_each_member() -> None:
    def declare() -> None:
        @function(after="c")
        def a(c: Any) -> None: ...

        @function(after="a")
        def b(a: Any) -> None: ...

        @function(after="b")
        def c(b: Any) -> None: ...

        @function(after="a")
        def outside(a: Any) -> None: ...

    assert faults_of(declare) == [
        (
            'functions/test.py:10: functions come after each other in a cycle: "a" (functions/test.py:10) after '
            '"c" (functions/test.py:30) after "b" (functions/test.py:20) after "a" (functions/test.py:10); remove one `after`'
        )
    ]


def test_a_missing_dependency_names_the_nearest() -> None:
    def declare() -> None:
        @function(on="x")
        def validate(order: Any) -> None: ...

        @function(after="valdate")
        def charge(valdate: Any) -> None: ...

    assert faults_of(declare) == [
        (
            'functions/test.py:20: "charge" comes after "valdate", which does not exist (did you mean "validate"?);'
            " functions here: charge, validate"
        )
    ]


def test_a_name_given_twice_names_both_places() -> None:
    def declare() -> None:
        @function(on="x")
        def validate(order: Any) -> None: ...

        @function(on="y", name="validate")
        def other(order: Any) -> None: ...

    assert faults_of(declare) == [
        (
            'functions/test.py:20: the name "validate" is taken by functions/test.py:10; names are unique over the folder:'
            ' rename one or set name = "…"'
        )
    ]


def test_dependencies_that_can_never_be_in_one_run_are_a_fault() -> None:
    def declare() -> None:
        @function(on="order.placed")
        def a(order: Any) -> None: ...

        @function(on="user.*")
        def b(user: Any) -> None: ...

        @function(after=["a", "b"])
        def both(a: Any, b: Any) -> None: ...

    assert faults_of(declare) == [
        (
            'functions/test.py:30: "both" can never run: no event type brings in all it comes after ("a" on order.placed; "b" on user.*);'
            " give them a common `on`"
        )
    ]


def test_coming_after_a_function_that_nothing_triggers_is_a_fault() -> None:
    def declare() -> None:
        @function
        def by_name_only(data: Any) -> None: ...

        @function(after="by_name_only")
        def behind(by_name_only: Any) -> None: ...

    assert faults_of(declare) == [
        'functions/test.py:20: "behind" comes after "by_name_only", which no event triggers; give that one `on` or `after`'
    ]


@pytest.mark.parametrize("shape", ["chain", "fan"])
def test_ten_thousand_functions_make_a_graph_and_a_plan(shape: str) -> None:
    def declare() -> None:
        for number in range(10_000):
            after = {"after": f"f{number - 1 if shape == 'chain' else 0}"} if number else {"on": "go"}

            @function(name=f"f{number}", **after)
            async def one(event: Any) -> None: ...

    graph = graph_of(declare)
    assert len(graph.plan("go").functions) == 10_000


def test_many_missing_names_are_told_without_a_search_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def noted(word: str, allowed: Iterable[str]) -> str:
        asked.append(word)
        return nearest(word, allowed)

    monkeypatch.setattr(graphs, "nearest", noted)

    def declare() -> None:
        for number in range(100):

            @function(after="prize" if number % 2 else f"nowhere{number}", name=f"after{number}")
            async def late() -> None: ...

        @function(on="go")
        async def price() -> None: ...

    messages = [text.partition(": ")[2] for text in faults_of(declare)]
    assert len(messages) == 100
    assert asked.count("prize") == 1
    assert len(asked) == graphs.GUESSES
    there = ", ".join(sorted(["price", *(f"after{number}" for number in range(100))])[:20])
    assert messages[99] == f'"after99" comes after "prize", which does not exist (did you mean "price"?); functions here: {there}'
    assert messages[98] == f'"after98" comes after "nowhere98", which does not exist; functions here: {there}'
