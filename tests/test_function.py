"""`@function`: what it leaves alone, what is refused when a file is loaded, and what a context can do."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
from support import faults_of, graph_of

from runtime import Context, Event, Reject, function
from runtime.function import Options, collecting
from runtime.specs import FIELDS, bytes_of

ALLOWED = "after, backoff, backoff_max, batch, batch_wait, concurrency, emits, isolate, max_emits, memory, name, on, rate, retries, timeout"
EVENT = Event(type="order.placed", source="test", id="7")


def with_options(**options: Any) -> list[str]:
    """Return the faults of a root function with these options."""

    def declare() -> None:
        @function(**{"on": "order.placed", **options})
        def charge(order: Any) -> None: ...

    return faults_of(declare)


# --- the decorator ------------------------------------------------------------------------------------


def test_the_decorator_leaves_the_function_as_it_is() -> None:
    def add(a: int, b: int) -> int:
        return a + b

    assert function(on="x", retries=1)(add) is add
    assert function(add) is add
    assert add(1, 2) == 3


def test_declarations_are_collected_by_the_innermost_block_and_outside_of_one_by_nobody() -> None:
    with collecting() as outer:
        with collecting() as inner:

            @function(on="x")
            def one(data: Any) -> None: ...

        @function
        def two(data: Any) -> None: ...

    @function
    def three(data: Any) -> None: ...

    assert [declaration.call for declaration in inner] == [one]
    assert [declaration.call for declaration in outer] == [two]
    assert inner[0].options == {"on": "x"}


def test_what_is_not_said_has_the_defaults_of_the_contract() -> None:
    def declare() -> None:
        @function(on="x")
        async def one(data: Any) -> None: ...

    (one,) = graph_of(declare).functions
    assert (one.retries, one.backoff, one.backoff_max, one.timeout, one.concurrency) == (3, 1.0, 300.0, 60.0, 64)
    assert (one.after, one.emits, one.rate, one.max_emits) == ((), None, None, 10_000)


def test_the_kind_of_a_function_says_where_it_runs() -> None:
    def declare() -> None:
        @function(on="x")
        async def on_loop(data: Any) -> None: ...

        @function(on="x", emits="y")
        async def on_loop_too(data: Any) -> Any:
            yield data

        @function(on="x")
        def in_thread(data: Any) -> None: ...

        @function(on="x", emits="y")
        def in_thread_too(data: Any) -> Any:
            yield data

    kinds = {one.name: (one.kind, one.executor) for one in graph_of(declare).functions}
    assert kinds == {
        "on_loop": ("async", "loop"),
        "on_loop_too": ("async generator", "loop"),
        "in_thread": ("sync", "thread"),
        "in_thread_too": ("generator", "thread"),
    }


# --- options that are refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"retires": 5}, f'unknown option `retires` (did you mean "retries"?); allowed: {ALLOWED}'),
        ({"retries": "5"}, "`retries`: expected `int`, got `str`, found '5'"),
        ({"retries": True}, "`retries`: expected `int`, got `bool`, found True"),
        ({"retries": -1}, "`retries` is 0 or more, found -1"),
        ({"backoff": -0.5}, "`backoff` is 0 or more, found -0.5"),
        ({"backoff_max": -1}, "`backoff_max` is 0 or more, found -1"),
        ({"concurrency": 0}, "`concurrency` is 1 or more, found 0"),
        ({"max_emits": 0}, "`max_emits` is 1 or more, found 0"),
        ({"timeout": 0}, "`timeout` is more than 0, found 0"),
        ({"rate": -3}, "`rate` is more than 0, found -3"),
        ({"rate": float("nan")}, "`rate` is a finite number, found nan"),
        ({"timeout": float("inf")}, "`timeout` is a finite number, found inf"),
        ({"timeout": None}, "`timeout`: expected `float`, got `null`, found None"),
        ({"on": 5}, "`on`: expected `str | array`, got `int`, found 5"),
        ({"on": "order..placed"}, '`on`: "order..placed" is not a pattern of event types: no token of a pattern is empty'),
        ({"on": ["order.*", "a.>.b"]}, '`on`: "a.>.b" is not a pattern of event types: ">" stands only at the end'),
        ({"emits": "order.*"}, '`emits` is one event type without wildcards, found "order.*"'),
        ({"emits": ""}, '`emits` is one event type without wildcards, found ""'),
        ({"after": {}}, "`after`: expected `str | array`, got `object`, found {}"),
        ({"isolate": "yes"}, "`isolate`: expected `bool`, got `str`, found 'yes'"),
        ({"memory": "512"}, '`memory` is a size of 64MB or more, as in "512MB" or "2GiB", found "512"'),
        ({"memory": "63MB"}, '`memory` is a size of 64MB or more, as in "512MB" or "2GiB", found "63MB"'),
        ({"batch": 0}, "`batch` is 1 or more, found 0"),
        ({"batch_wait": -1}, "`batch_wait` is 0 or more, found -1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_option_is_told_with_file_and_line_what_was_found_and_what_is_allowed(options: dict[str, Any], fault: str) -> None:
    assert with_options(**options) == [f'functions/test.py:10: @function "charge": {fault}']


@pytest.mark.parametrize("name", ["", "a/b", "a b"])
def test_a_name_is_one_word(name: str) -> None:
    where = f'functions/test.py:10: @function "{name or "charge"}"'
    assert with_options(name=name) == [f'{where}: `name` is not empty and has no "/" or white space, found "{name}"']


def test_a_name_is_a_text() -> None:
    fault = "`name`: expected `str | null`, got `array`, found ['a']"
    assert with_options(name=["a"]) == [f'functions/test.py:10: @function "charge": {fault}']


def test_all_wrong_options_of_all_functions_are_told_together() -> None:
    def declare() -> None:
        @function(on="x", retries=-1, timeout=0)
        def one(data: Any) -> None: ...

        @function(on="a*")
        def two(data: Any) -> None: ...

    assert faults_of(declare) == [
        'functions/test.py:10: @function "one": `retries` is 0 or more, found -1',
        'functions/test.py:10: @function "one": `timeout` is more than 0, found 0',
        'functions/test.py:20: @function "two": `on`: "a*" is not a pattern of event types: "*" and ">" stand for whole tokens',
    ]


def test_no_option_of_the_contract_is_unknown_and_none_is_both_taken_and_refused() -> None:
    contract = {"on", "after", "emits", "name", "retries", "backoff", "backoff_max", "timeout", "concurrency", "isolate", "memory"}
    contract |= {"batch", "batch_wait", "rate", "max_emits"}
    assert FIELDS.keys() == contract
    assert set(Options.__struct_fields__) == FIELDS.keys()


@pytest.mark.parametrize("declare", [function(on="x"), function])
def test_a_callable_without_a_name_has_to_be_given_one(declare: Callable[[Any], object]) -> None:
    def add(a: int, data: int) -> int:
        return a + data

    assert faults_of(lambda: declare(functools.partial(add, 1))) == [
        'functions/test.py:10: @function "": the callable has no name of its own; give it one with name = "…"'
    ]


def test_a_partial_with_a_name_is_a_function() -> None:
    def add(a: int, data: int) -> int:
        return a + data

    graph = graph_of(lambda: function(on="x", name="add_one")(functools.partial(add, 1)))
    assert [one.name for one in graph.functions] == ["add_one"]


@pytest.mark.parametrize("kind", ["generator", "async generator"])
def test_a_generator_needs_emits(kind: str) -> None:
    def declare() -> None:
        if kind == "generator":

            @function(on="x")
            def rows(data: Any) -> Any:
                yield data

        else:

            @function(on="x", name="rows")
            async def others(data: Any) -> Any:
                yield data

    assert faults_of(declare) == ['functions/test.py:10: @function "rows": a generator needs `emits`, the type of the events it yields']


# --- the context --------------------------------------------------------------------------------------


def test_a_context_knows_its_call() -> None:
    context = Context(EVENT, "charge", attempt=2, deadline=5.0, settings={"currency": "EUR"}, idempotency_key="k")
    assert (context.event, context.function, context.attempt, context.deadline) == (EVENT, "charge", 2, 5.0)
    assert (context.settings, context.idempotency_key) == ({"currency": "EUR"}, "k")
    assert context.log.name == "functions.charge"
    assert Context(EVENT, "charge").idempotency_key == "7/charge"
    assert Context(EVENT, "charge").settings == {}


def test_what_is_emitted_is_kept_in_order_until_the_step_has_succeeded() -> None:
    context = Context(EVENT, "charge")
    context.emit("order.charged", {"n": 1}, key="k", priority=0, delay=5, id="mine", subject="s")
    context.emit("order.mailed")
    first, second = context.emitted
    assert (first.type, first.data, first.key, first.priority, first.delay, first.id, first.subject) == (
        "order.charged",
        {"n": 1},
        "k",
        0,
        5.0,
        "mine",
        "s",
    )
    assert (second.type, second.data, second.key, second.priority, second.delay) == ("order.mailed", None, None, None, 0.0)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"type": ""}, 'emit: "" is not an event type: it must not be empty or hold "*", ">" or spaces'),
        ({"type": "order.*"}, 'emit: "order.*" is not an event type: it must not be empty or hold "*", ">" or spaces'),
        ({"type": "order placed"}, 'emit: "order placed" is not an event type: it must not be empty or hold "*", ">" or spaces'),
        ({"type": "a", "priority": 10}, "emit: priority is 0 … 9, found 10"),
        ({"type": "a", "priority": "high"}, "emit: priority is 0 … 9, found 'high'"),
        ({"type": "a", "delay": -1}, "emit: delay is in seconds, from 0 to 3155760000, found -1"),
    ],
)
def test_an_emission_that_cannot_be_is_refused_where_it_is_made(arguments: dict[str, Any], text: str) -> None:
    context = Context(EVENT, "charge")
    with pytest.raises(ValueError) as caught:
        context.emit(**arguments)
    assert str(caught.value) == text
    assert not context.emitted


def test_a_step_emits_at_most_max_emits_events() -> None:
    context = Context(EVENT, "charge", max_emits=2)
    context.emit("a")
    context.emit("a")
    with pytest.raises(ValueError) as caught:
        context.emit("a")
    assert str(caught.value) == 'emit: "charge" emits more than max_emits = 2 events in one step'


def test_options_without_their_names_are_refused_with_the_line_to_write() -> None:
    with pytest.raises(TypeError, match=r"@function takes its options by name, as in @function\(on='a'\)"):
        function("a")  # type: ignore[call-overload]


def test_a_limit_of_memory_needs_a_process_to_limit() -> None:
    def declare() -> None:
        @function(on="x", memory="512MB")
        def large(data: int) -> None: ...

    assert faults_of(declare) == [
        'functions/test.py:10: @function "large": `memory` limits a worker process; add isolate=True, or leave it out'
    ]


@pytest.mark.parametrize(
    ("size", "bytes"),
    [("512MB", 512_000_000), ("2GiB", 2**31), ("64MB", 64_000_000), ("1GB", 10**9), ("MB", None), ("1.5GB", None), ("-5GB", None)],
)
def test_a_size_is_a_whole_number_with_its_unit(size: str, bytes: int | None) -> None:
    assert bytes_of(size) == bytes


def test_an_empty_on_is_a_fault() -> None:
    def declare() -> None:
        @function(on=[])
        def never(data: int) -> None: ...

    assert faults_of(declare) == [
        (
            'functions/test.py:10: @function "never": `on` names one event type pattern or more, found none; leave it out for a'
            " function that is only invoked by name"
        )
    ]


@pytest.mark.parametrize("status", ["x", 200, 600, None])
def test_a_rejection_has_the_status_of_an_error(status: object) -> None:
    with pytest.raises(ValueError, match="Reject: `status` is a whole number from 400 to 599, found"):
        Reject("no", status=status)  # type: ignore[arg-type]
