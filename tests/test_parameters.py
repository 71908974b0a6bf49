"""What parameters mean, how data and results are decoded to annotations, and what is refused at load."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import attrs
import msgspec
import pydantic
import pytest
from support import faults_of, graph_of

from runtime import Context, DataError, Event, LoadError, function
from runtime.loading.importer import load
from runtime.parameters import Parameters, make_decoder
from runtime.specs import FunctionSpec, make_function


class Order(msgspec.Struct):
    id: str
    total: float


@dataclasses.dataclass
class Parcel:
    id: str
    orders: list[Order] = dataclasses.field(default_factory=list)


class Address(TypedDict):
    city: str
    street: NotRequired[str]


@attrs.define
class Point:
    x: int = attrs.field(validator=attrs.validators.ge(0))
    y: int = 0


class Person(pydantic.BaseModel):
    name: str
    age: int


ONE_DICT = "(`Struct`, `dict`, `TypedDict`, `dataclass`)"


class Socket:
    """A class that data cannot make."""


class OneCall:
    """One attempt, as an executor is given it."""

    def __init__(self, data: Any = None, results: dict[str, Any] | None = None) -> None:
        self.event = Event(type="order.placed", source="test", id="7", data=data)
        self.results = results or {}
        self.state: dict[str, Any] = {"n": 1}
        self.resources: Any = None
        self.context = Context(self.event, "f")


def parameters_of(call: Callable[..., Any], *, after: str | list[str] = ()) -> Parameters:  # type: ignore[assignment]
    """Return how to call a function that comes after others, or else a root."""

    def declare() -> None:
        for name in [after] if isinstance(after, str) else after:
            function(on="order.placed", name=name)(lambda data: data)
        function(name="f", **({"after": after} if after else {"on": "order.placed"}))(call)

    return graph_of(declare).by_name["f"].parameters


def given(call: Callable[..., Any], data: Any = None, **results: Any) -> Any:
    """Return what a function returns when it is called for an event with this data, after these results."""
    args, kwargs = parameters_of(call, after=list(results)).bind(OneCall(data, results))
    return call(*args, **kwargs)


def faults(call: Callable[..., Any], *, after: str | list[str] = ()) -> list[str]:  # type: ignore[assignment]
    """Return the faults of a function, without their place."""
    where = "functions/test.py:10: "
    found = faults_of(lambda: function(**({"after": after} if after else {"on": "x"}))(call))
    assert all(fault.startswith(where) for fault in found)
    return [fault.removeprefix(where) for fault in found]


# --- what parameters mean -----------------------------------------------------------------------------


def test_a_parameter_of_a_root_with_any_name_is_the_data() -> None:
    assert given(lambda order: order, {"id": "7"}) == {"id": "7"}
    assert given(lambda data: data, [1]) == [1]


def test_event_is_the_whole_event_and_with_the_annotation_of_a_payload_its_data() -> None:
    def annotated(event: Event) -> Any:
        return event.id

    def by_type(message: Event) -> Any:
        return message.id

    def payload(event: Order) -> Any:
        return event

    assert given(lambda event: event.id) == "7"
    assert given(annotated) == "7"
    assert given(by_type) == "7"
    assert given(payload, {"id": "7", "total": 1}) == Order("7", 1.0)


def test_context_and_state_come_by_name_and_context_by_annotation_too() -> None:
    def by_type(order: Any, c: Context) -> Any:
        return c.function

    assert given(lambda order, context: context.function) == "f"
    assert given(by_type) == "f"
    assert given(lambda order, state: state) == {"n": 1}
    assert parameters_of(lambda order, state: state).takes_state
    assert not parameters_of(by_type).takes_state


def test_after_others_a_parameter_of_their_name_is_their_result_and_data_the_events() -> None:
    def call(validate: Order, charge: int, data: dict[str, Any], event: Event) -> Any:
        return validate, charge, data, event.id

    assert given(call, {"id": "7"}, validate={"id": "7", "total": 2}, charge=3) == (Order("7", 2.0), 3, {"id": "7"}, "7")


def test_a_function_need_not_take_the_results_of_what_it_comes_after() -> None:
    assert given(lambda: "called", None, validate=1) == "called"


def test_parameters_with_a_default_that_nothing_fills_keep_it() -> None:
    def root(order: Any, limit: int = 10, *, data: Any, mode: str = "fast") -> Any:
        return order, limit, data, mode

    def later(limit: int = 10, validate: Any = None) -> Any:
        return limit, validate

    assert given(root, 5) == (5, 10, 5, "fast")
    assert given(later, None, validate=1) == (10, 1)


def test_the_data_decoders_of_a_function_check_data_before_it_is_accepted() -> None:
    def call(order: Order, event: Event) -> None: ...

    (decode,) = parameters_of(call).data
    assert decode({"id": "7", "total": 1}) == Order("7", 1.0)
    assert parameters_of(lambda order: order).data == ()
    with pytest.raises(DataError) as caught:
        decode({"id": "7"})
    assert str(caught.value) == 'parameter "order" of "f" does not fit: Object missing required field `total`'


# --- payload types ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "data", "value"),
    [
        (Order, {"id": "7", "total": 12}, Order("7", 12.0)),
        (Parcel, {"id": "7", "orders": [{"id": "8", "total": 1}]}, Parcel("7", [Order("8", 1.0)])),
        (Address, {"city": "Rome"}, {"city": "Rome"}),
        (Point, {"x": 1}, Point(1, 0)),
        (Person, {"name": "Ann", "age": 7}, Person(name="Ann", age=7)),
        (list[Person], [{"name": "Ann", "age": 7}], [Person(name="Ann", age=7)]),
        (dict[str, Order], {"a": {"id": "7", "total": 1}}, {"a": Order("7", 1.0)}),
        (dict[int, str], {"1": "a"}, {1: "a"}),
        (dict[int, str], {1: "a"}, {1: "a"}),
        (Order | None, None, None),
        (tuple[int, str], [1, "a"], (1, "a")),
        (set[int], [1, 1], {1}),
        (list, (1, 2), [1, 2]),
        (float, 5, 5.0),
        (int, 5, 5),
        (str, "a", "a"),
        (bytes, b"\xff", b"\xff"),
        (bytes, "/w==", b"\xff"),
        (None, None, None),
        (datetime, "2026-01-01T00:00:00Z", datetime(2026, 1, 1, tzinfo=UTC)),
        (Annotated[int, msgspec.Meta(ge=0)], 3, 3),
        (Any, {"anything": 1}, {"anything": 1}),
        (object, [1], [1]),
    ],
    ids=str,
)
def test_data_is_decoded_to_the_annotation(annotation: Any, data: Any, value: Any) -> None:
    def call(order: Any) -> Any:
        return order

    call.__annotations__["order"] = annotation
    found = given(call, data)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("annotation", "data", "text"),
    [
        (Order, {"id": "7", "total": "12"}, "Expected `float`, got `str` - at `$.total`"),
        (Order, {"id": "7"}, "Object missing required field `total`"),
        (Order, None, "Expected `object`, got `null`"),
        (Parcel, {"id": "7", "orders": [{"id": 8, "total": 1}]}, "Expected `str`, got `int` - at `$.orders[0].id`"),
        (Address, {"city": 5}, "Expected `str`, got `int` - at `$.city`"),
        (Point, {"x": -1}, "'x' must be >= 0: -1"),
        (dict[int, str], {"a": "b"}, "Expected `int`, got `str` - at `key` in `$`"),
        (int, True, "Expected `int`, got `bool`"),
        (int, "5", "Expected `int`, got `str`"),
        (Annotated[int, msgspec.Meta(ge=0)], -1, "Expected `int` >= 0"),
        (None, 5, "Expected `null`, got `int`"),
    ],
    ids=str,
)
def test_data_that_does_not_fit_is_told_with_the_path_of_the_fault(annotation: Any, data: Any, text: str) -> None:
    with pytest.raises(DataError) as caught:
        make_decoder('parameter "order" of "f"', annotation)(data)
    assert str(caught.value) == f'parameter "order" of "f" does not fit: {text}'


def test_data_that_does_not_fit_a_pydantic_model_is_told_in_its_words_on_one_line() -> None:
    with pytest.raises(DataError) as caught:
        make_decoder('parameter "people" of "f"', list[Person])([{"name": "Ann", "age": "old"}])
    text = str(caught.value)
    assert text.startswith('parameter "people" of "f" does not fit: 1 validation error for Person age Input should be a valid integer')
    assert text.endswith(" - at `$[0]`")
    assert "\n" not in text


@pytest.mark.parametrize("value", [Order("7", 1.0), Parcel("7"), Point(1), Person(name="Ann", age=7), [1], {"a": 1}, "a", 5, b"a", None])
def test_a_result_that_is_an_instance_of_the_annotation_is_handed_on_as_it_is(value: Any) -> None:
    def call(validate: Any) -> Any:
        return validate

    call.__annotations__["validate"] = type(value)
    assert given(call, None, validate=value) is value


def test_an_instance_of_a_subclass_is_handed_on_too() -> None:
    class Express(Order):
        hours: int = 1

    def call(validate: Order) -> Any:
        return validate

    express = Express("7", 1.0)
    assert given(call, None, validate=express) is express


def test_a_result_of_another_type_is_converted() -> None:
    def call(validate: Order) -> Any:
        return validate

    @dataclasses.dataclass
    class Basket:
        id: str
        total: int

    assert given(call, None, validate=Basket("7", 1)) == Order("7", 1.0)
    with pytest.raises(DataError) as caught:
        given(call, None, validate=Point(1))
    assert str(caught.value) == 'parameter "validate" of "f" does not fit: Object missing required field `id`'


def test_annotations_that_are_strings_are_resolved_in_the_module_of_the_function(tmp_path: Path) -> None:
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom functools import partial, wraps\n"
        "from runtime import function\n\n"
        "@dataclass\nclass Order:\n    id: str\n\n"
        "@function(on='x')\ndef plain(order: Order | None):\n    return order\n\n"
        "def logged(call):\n    @wraps(call)\n    def wrapper(*args, **kwargs):\n        return call(*args, **kwargs)\n\n"
        "    return wrapper\n\n"
        "@function(on='x')\n@logged\ndef wrapped(order: Order):\n    return order\n\n"
        "def add(n, order: Order):\n    return order\n\n"
        "function(on='x', name='part')(partial(add, 1))\n"
    )
    made = {one.name: one for one in loaded(tmp_path, text)}
    assert set(made) == {"plain", "wrapped", "part"}
    for one in made.values():
        args, kwargs = one.parameters.bind(OneCall({"id": "7"}))
        assert type(one.call(*args, **kwargs)).__name__ == "Order"


def loaded(folder: Path, text: str) -> list[FunctionSpec]:
    """Return the functions of a file `functions/a.py`."""
    (folder / "functions").mkdir()
    (folder / "functions" / "a.py").write_text(text)
    found = []
    faults = []
    for one in load(folder / "functions").declared:
        made = make_function(one.declaration, one.file, one.line, 1, {})
        if isinstance(made, list):
            faults += made
        else:
            found.append(made)
    if faults:
        raise LoadError(faults)
    return found


# --- what is refused at load --------------------------------------------------------------------------


def test_the_line_of_a_fault_is_that_of_the_def(tmp_path: Path) -> None:
    text = "from runtime import function\n\n@function(\n    on='x',\n)\n@staticmethod\ndef f(*orders): ...\n"
    with pytest.raises(LoadError) as caught:
        loaded(tmp_path, text)
    assert str(caught.value) == 'functions/a.py:7: "f" takes `*orders`, which nothing can fill; name the parameters it needs'


def test_parameters_that_nothing_can_fill_are_faults() -> None:
    def charge(order: Any, *more: Any, **options: Any) -> None: ...

    assert faults(charge) == [
        '"charge" takes `*more`, which nothing can fill; name the parameters it needs',
        '"charge" takes `**options`, which nothing can fill; name the parameters it needs',
    ]


def test_a_second_parameter_for_the_data_is_a_fault_with_the_nearest_word() -> None:
    def charge(order: Any, contxt: Any) -> None: ...

    assert faults(charge) == [
        (
            '"charge" has two parameters for the event\'s data, `order` and `contxt`; a root has one,'
            ' beside event, data, context, state (did you mean "context"?)'
        )
    ]


def test_after_others_an_unknown_parameter_is_a_fault_that_says_what_to_write() -> None:
    def charge(order: Order) -> None: ...

    def bare(order) -> None: ...  # type: ignore[no-untyped-def]

    def near(valdate: Any) -> None: ...

    assert faults(charge, after="validate") == [
        (
            '"charge" comes after validate and has an unknown parameter `order`;'
            " write `validate: Order` for that function's result or `data: Order` for the event's data"
        )
    ]
    assert faults(bare, after=["validate", "reserve"]) == [
        (
            '"bare" comes after validate, reserve and has an unknown parameter `order`;'
            " write `validate` for that function's result or `data` for the event's data"
        )
    ]
    assert faults(near, after="validate") == [
        (
            '"near" comes after validate and has an unknown parameter `valdate` (did you mean "validate"?);'
            " write `validate` for that function's result or `data` for the event's data"
        )
    ]


def test_an_annotation_that_cannot_be_resolved_is_a_fault() -> None:
    def charge(order: Missing) -> None: ...  # type: ignore[name-defined] # noqa: F821 - that is the case

    assert faults(charge) == [
        "\"charge\": the annotation `order: Missing` cannot be resolved (name 'Missing' is not defined); import the type at run time"
    ]


def test_the_annotation_of_context_and_state_need_not_be_there_at_run_time() -> None:
    def charge(order: Any, context: Missing, state: Missing) -> None: ...  # type: ignore[name-defined] # noqa: F821 - that is the case

    assert faults(charge) == []


@pytest.mark.parametrize(
    ("annotation", "why"),
    [
        (Socket, "`Socket` is not a type of data"),
        (list[Socket], "`Socket` is not a type of data"),
        (dict[str, Socket | None], "`Socket` is not a type of data"),
        (Order | Parcel, f"Type unions may not contain more than one dict-like type {ONE_DICT} - type `{Order | Parcel}` is not supported"),
    ],
    ids=str,
)
def test_an_annotation_that_data_cannot_be_decoded_to_is_a_fault(annotation: Any, why: str) -> None:
    def charge(order: Any) -> None: ...

    charge.__annotations__["order"] = annotation
    assert faults(charge) == [
        (
            f'"charge": data cannot be decoded to the annotation of `order`: {why}; use a msgspec Struct, a dataclass,'
            " a TypedDict, an attrs class, a pydantic model or a builtin type"
        )
    ]


def test_a_callable_without_a_signature_is_a_fault() -> None:
    assert faults_of(lambda: function(on="x", name="made")(type)) == [
        'functions/test.py:10: "made" has no signature that can be read; wrap it in a `def`'
    ]


def test_all_faults_of_a_signature_are_told_together() -> None:
    def charge(order: Socket, other: Any, *more: Any) -> None: ...

    assert len(faults(charge)) == 3
