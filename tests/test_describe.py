from __future__ import annotations

import datetime as dt
import enum
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
import pytest
import tomli
from msgspec import Meta

from runtime.describe import Option, example, expected, first_sentence, options_of, settings_of, words
from runtime.errors import ConfigError
from runtime.options import read_options
from runtime.settings import SinkSettings, SourceSettings


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Login(msgspec.Struct):
    """Who may come in: those who know
    the secret.
    """

    secret: str
    user: str = "guest"


class Rule(msgspec.Struct):
    rules: list[Rule] = []


class Options(msgspec.Struct):
    path: str
    mode: Literal["slow", "fast"] = "slow"
    every: Annotated[float, Meta(gt=0, description="seconds between two looks")] = 1.0
    cap: int | None = None
    tags: tuple[str, ...] = ("a", "b")
    login: Annotated[Login | None, Meta(examples=[{"secret": "${SECRET}"}])] = None
    logins: dict[str, Login] = {}
    of: list[int] = msgspec.field(default_factory=lambda: [1], name="from")
    colour: Colour = Colour.RED


@pytest.mark.parametrize(
    ("type", "text"),
    [
        (str, "a string"),
        (Annotated[str, Meta(min_length=1)], "a string that is not empty"),
        (Annotated[str, Meta(min_length=3)], "a string of 3 characters or more"),
        (Annotated[str, Meta(pattern="^a+$")], "a string that matches ^a+$"),
        (bool, "a boolean"),
        (int, "a whole number"),
        (Annotated[int, Meta(ge=0, le=9)], "a whole number of 0 … 9"),
        (Annotated[int, Meta(ge=1)], "a whole number of 1 or more"),
        (Annotated[float, Meta(gt=0)], "a number of more than 0"),
        (Annotated[float, Meta(gt=0, le=1)], "a number of more than 0 and at most 1"),
        (Annotated[float, Meta(lt=5)], "a number of less than 5"),
        (float | None, "a number"),
        (Decimal, "a number"),
        (dt.datetime, "a date with a time"),
        (dt.timedelta, "a string"),
        (Literal["structured", "binary", "batch"], '"structured" or "binary" or "batch"'),
        (Colour, '"red" or "blue"'),
        (Annotated[str | None, Meta(description="it")], "a string"),
        (bool | list[str], "a boolean or a list of strings"),
        (tuple[str, ...], "a list of strings"),
        (list[Annotated[int, Meta(ge=1)]], "a list of whole numbers"),
        (list[Login], "a list of tables"),
        (list[list[str]], "a list of lists"),
        (list[Literal["a", "b"]], 'a list of "a" or "b"'),
        (tuple[int, str], "a list"),
        (Login, "a table"),
        (dict[str, int], "a table"),
        (dict[str, Login], "tables by name"),
        (Any, "any value"),
        (complex, "a complex"),
    ],
)
def test_a_type_is_told_in_words(type: Any, text: str) -> None:
    assert words(type) == text


def test_a_setting_that_is_a_list_also_takes_one_string() -> None:
    assert expected(tuple[str, ...]) == "a string or a list of strings"
    assert expected(int) == words(int)


def test_options_are_told_with_defaults_docs_and_the_keys_of_their_tables() -> None:
    secret = Option("secret", "a string", required=True)
    login = [secret, Option("user", "a string", required=False, default="guest")]
    doc = "Who may come in: those who know the secret."
    assert options_of(Options) == [
        Option("path", "a string", required=True),
        Option("mode", '"slow" or "fast"', required=False, default="slow"),
        Option("every", "a number of more than 0", required=False, default=1.0, doc="seconds between two looks"),
        Option("cap", "a whole number", required=False),
        Option("tags", "a list of strings", required=False, default=("a", "b")),
        Option("login", "a table", required=False, doc=doc, options=login),
        Option("logins", "tables by name", required=False, default={}, doc=doc, options=login),
        Option("from", "a list of whole numbers", required=False, default=[1]),
        Option("colour", '"red" or "blue"', required=False, default="red"),
    ]


def test_a_record_that_holds_itself_is_told_once() -> None:
    assert options_of(Rule) == [Option("rules", "a list of tables", required=False, default=[])]


def test_the_settings_of_every_source_and_sink_are_those_of_the_records() -> None:
    sources, sinks = settings_of(SourceSettings), settings_of(SinkSettings)
    assert [one.name for one in sources] == ["plugin", "priority", "key", "rate"]
    assert {one.name for one in sinks} == set(SinkSettings.__struct_fields__) - {"options"}
    assert sinks[1] == Option("on", "a string or a list of strings", required=False, default=(">",))


def test_an_example_has_what_is_required_and_what_its_type_gives_examples_of() -> None:
    text = example("source", "my kind", Options)
    assert text == '[sources."my kind"]\nplugin = "my kind"\npath = "events.jsonl"\nlogin = { secret = "${SECRET}" }'
    assert tomli.loads(text)["sources"]["my kind"]["login"] == {"secret": "${SECRET}"}


class Needy(msgspec.Struct):
    type: Annotated[str, Meta(min_length=1)]
    code: Annotated[str, Meta(min_length=4)]
    low: Annotated[int, Meta(ge=5)]
    high: Annotated[float, Meta(gt=2.5)]
    small: Annotated[float, Meta(gt=0, le=0.5)]
    any_number: int
    loud: bool
    mode: Literal["slow", "fast"]
    login: Login
    logins: dict[str, Login]
    tags: list[str]
    colour: Colour
    of: int = msgspec.field(name="from")


def test_an_example_is_accepted_whatever_is_required() -> None:
    table = tomli.loads(example("sink", "x", Needy))["sinks"]["x"]
    assert table.pop("plugin") == "x"
    made = read_options(Needy, table, "runtime.toml", ("sinks", "x"))
    assert (made.type, made.low, made.login.secret, made.mode) == ("order.placed", 5, "a", "fast")
    with pytest.raises(ConfigError):
        read_options(Needy, {key: value for key, value in table.items() if key != "low"}, "runtime.toml", ())


@pytest.mark.parametrize(
    ("doc", "sentence"),
    [
        ("One thing. Another one.", "One thing."),
        ("One thing\n    over two lines.\n\n    More. Text.", "One thing over two lines."),
        ("Version 1.5 of it", "Version 1.5 of it"),
        ("", ""),
        (None, ""),
    ],
)
def test_the_first_sentence_stands_for_a_docstring(doc: str | None, sentence: str) -> None:
    assert first_sentence(doc) == sentence
