"""Handlers that are written for other systems, by whatever conventions there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from runtime import Context, Handlers
from runtime.contracts import Convention
from runtime.errors import LoadError
from runtime.graph import Graph
from runtime.loading.generation import make_graph
from runtime.loading.importer import load
from runtime.settings import FunctionSettings, Settings

Adapted = Callable[..., Any]


class Messages(Handlers):
    """`def on_message(headers, body)`, as the old queue called it."""

    def find(self, module: ModuleType) -> Mapping[str, Adapted]:
        handler = getattr(module, "on_message", None)
        return {module.__name__.rpartition(".")[2]: handler} if handler is not None else {}

    def adapt(self, handler: Adapted, options: Mapping[str, Any]) -> Adapted | None:
        if handler.__name__ != "on_message":
            return None

        def call(data: dict[str, Any], context: Context) -> Any:
            return handler({"id": context.event.id, **options}, data)

        return call


class Broken(Handlers):
    def __init__(self, *, finds: bool) -> None:
        self.finds = finds

    def find(self, module: ModuleType) -> Mapping[str, Adapted]:
        if not self.finds:
            raise KeyError("x")
        return {"app": module.on_message}

    def adapt(self, handler: Adapted, options: Mapping[str, Any]) -> Adapted | None:
        raise KeyError("x")


MESSAGE = "\ndef on_message(headers, body):\n    return body\n"


def graph_of(folder: Path, *conventions: Convention, text: str = MESSAGE, name: str = "app", **tables: FunctionSettings) -> Graph:
    (folder / "functions").mkdir(exist_ok=True)
    (folder / "functions" / f"{name}.py").write_text(text)
    settings = Settings(path=folder / "runtime.toml", functions=tables)
    return make_graph(load(folder / "functions", None, conventions), settings, 1)


def faults_of(folder: Path, *conventions: Convention, **more: Any) -> list[str]:
    with pytest.raises(LoadError) as caught:
        graph_of(folder, *conventions, **more)
    return [str(fault) for fault in caught.value.faults]


def test_a_handler_that_is_found_is_a_function_with_the_options_of_its_table(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, Messages(), app=FunctionSettings(overrides={"on": "message", "retries": 1}))
    (function,) = graph.functions
    assert (function.name, function.on, function.retries, function.where) == ("app", ("message",), 1, "functions/app.py:2")
    assert function.parameters.data, "the parameters are those of the function that was made of it, with their annotations"


def test_helpers_have_no_handlers_that_are_found(tmp_path: Path) -> None:
    assert graph_of(tmp_path, Messages(), name="_app").functions == ()


def test_a_handler_in_a_helper_may_be_named(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, Messages(), name="_app", message=FunctionSettings(handler="_app.on_message"))
    assert [function.name for function in graph.functions] == ["message"]


def test_the_first_convention_that_takes_a_handler_counts(tmp_path: Path) -> None:
    class Other(Messages):
        def adapt(self, handler: Adapted, options: Mapping[str, Any]) -> Adapted | None:
            return lambda: "other"

    assert graph_of(tmp_path, Messages(), Other()).by_name["app"].parameters.data
    assert not graph_of(tmp_path, Other(), Messages()).by_name["app"].parameters.data


def test_a_convention_that_raises_is_a_fault_of_the_file_or_the_handler(tmp_path: Path) -> None:
    assert faults_of(tmp_path, Broken(finds=False)) == [
        "functions/app.py:1: the convention Broken cannot read it: KeyError: 'x'; mend the plugin"
    ]
    assert faults_of(tmp_path, Broken(finds=True)) == [
        "functions/app.py:2: handler \"app\": the convention that adapts it raised KeyError: 'x'; mend the plugin"
    ]


def test_a_handler_that_no_convention_takes_is_a_fault_with_what_they_take(tmp_path: Path) -> None:
    text = "\ndef on_mail(mail): ...\n"
    assert faults_of(tmp_path, Messages(), text=text, app=FunctionSettings(handler="app.on_mail")) == [
        (
            'functions/app.py:2: handler "app": it is written in none of the ways that are known; rewrite it in one of them: '
            "`def on_message(headers, body)`, as the old queue called it."
        )
    ]


def test_what_comes_after_a_faulty_handler_is_not_told_to_miss_it(tmp_path: Path) -> None:
    text = "from runtime import function\n@function(after='message')\ndef then(message): ...\n"
    assert faults_of(tmp_path, Messages(), text=text, message=FunctionSettings(handler="app.on_mesage", overrides={"on": "m"})) == [
        'runtime.toml [functions.message] handler: expected a function of functions/app.py, found no "on_mesage" there; correct the name'
    ]
