from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from runtime.errors import ConfigError
from runtime.options import read_options
from runtime.toml import place_of

ALLOWED = "path, every, loud, mode, tags, cap, route, routes, from"


class Route(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    retries: int = 0


class Options(msgspec.Struct, forbid_unknown_fields=True):
    path: str
    every: Annotated[float, Meta(gt=0)] = 1.0
    loud: bool = False
    mode: Literal["slow", "fast"] = "slow"
    tags: list[int] = []
    cap: int | None = None
    route: Route | None = None
    routes: dict[str, Route] = {}
    of: str = msgspec.field(default="", name="from")


class Checked(msgspec.Struct):
    low: int = 0
    high: int = 0

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("expected `low` below `high`")


def read(table: dict[str, Any], model: type[msgspec.Struct] = Options) -> Any:
    return read_options(model, table, "runtime.toml", ("sources", "web"))


def faults(table: dict[str, Any], model: type[msgspec.Struct] = Options) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(table, model)
    return [str(fault) for fault in caught.value.faults]


def test_a_table_becomes_the_record() -> None:
    made = read({"path": "x", "every": 2, "routes": {"/a": {"type": "t"}}, "from": "there"})
    assert made == Options(path="x", every=2.0, routes={"/a": Route("t")}, of="there")


def test_text_that_was_filled_in_may_stand_for_numbers_and_booleans() -> None:
    made = read(
        {"path": "7", "every": "2.5", "loud": "true", "tags": ["1", "2"], "cap": "3", "routes": {"/a": {"type": "t", "retries": "4"}}}
    )
    assert made == Options(path="7", every=2.5, loud=True, tags=[1, 2], cap=3, routes={"/a": Route("t", 4)})


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({"evry": 1},
         'runtime.toml [sources.web] evry: unknown key (did you mean "every"?); allowed: '
         + ALLOWED),
        ({"every": "secret"}, "runtime.toml [sources.web] every: expected a number, found a string"),
        ({"every": 0}, "runtime.toml [sources.web] every: expected a number > 0.0"),
        ({"loud": 7}, "runtime.toml [sources.web] loud: expected a boolean, found a whole number"),
        ({"mode": "secret"}, 'runtime.toml [sources.web] mode: expected "slow" or "fast", found another'),
        ({"tags": [1, "secret"]}, "runtime.toml [sources.web] tags[1]: expected a whole number, found a string"),
        ({"cap": "secret"}, "runtime.toml [sources.web] cap: expected a whole number or nothing, found a string"),
        ({"route": {"type": 1}}, "runtime.toml [sources.web] route.type: expected a string, found a whole number"),
        ({"routes": []}, "runtime.toml [sources.web] routes: expected a table, found a list"),
        ({"routes": {"/a": {}}}, 'runtime.toml [sources.web.routes."/a"] type: expected a value, found none; it has no default'),
        ({"routes": {"/a": {"type": "t", "retires": 1}}},
         'runtime.toml [sources.web.routes."/a"] retires: unknown key (did you mean "retries"?); allowed: type, retries'),
        ({"routes": {"/a": "secret"}}, 'runtime.toml [sources.web.routes] "/a": expected a table, found a string'),
    ],
)  # fmt: skip
def test_a_fault_names_the_key_what_was_expected_and_what_kind_was_found(table: dict[str, Any], text: str) -> None:
    assert faults({"path": "x", **table}) == [text]


def test_all_faults_are_told_at_once_and_none_shows_a_value() -> None:
    told = faults({"every": "secret", "a b": "secret", "routes": {"/a": {"type": ["secret"]}}})
    assert [fault.split(":")[0] for fault in told] == [
        'runtime.toml [sources.web] "a b"',
        "runtime.toml [sources.web] path",
        "runtime.toml [sources.web] every",
        'runtime.toml [sources.web.routes."/a"] type',
    ]
    assert "secret" not in "".join(told)


def test_what_the_record_itself_refuses_is_a_fault_of_the_table() -> None:
    assert faults({"low": 2, "high": 1}, Checked) == ["runtime.toml [sources.web]: expected `low` below `high`"]


def test_a_plugin_without_options_takes_none() -> None:
    class Nothing(msgspec.Struct):
        pass

    assert read({}, Nothing) == Nothing()
    assert faults({"path": "x"}, Nothing) == ["runtime.toml [sources.web] path: unknown key; allowed: none"]


def test_places_are_written_as_in_toml() -> None:
    assert place_of("runtime.toml", ("sources", "my web"), "listen") == 'runtime.toml [sources."my web"] listen'
    assert place_of("runtime.toml", ("sinks", "a")) == "runtime.toml [sinks.a]"
