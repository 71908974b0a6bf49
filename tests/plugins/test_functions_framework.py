"""Functions under `@functions_framework.cloud_event` run as they are.

The package itself asks for a cloudevents SDK before version 2, which is not the oracle of the other tests: here a stand-in has
its decorators, and the SDK is the one that is installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running import run

from runtime.check import check
from runtime.testing import Harness

Project = Callable[..., Path]

FRAMEWORK = """
import functools
import inspect

def cloud_event(func):
    @functools.wraps(func)
    def wrapper(*args, **kwargs):
        return func(*args, **kwargs)
    return wrapper

def http(func):
    @functools.wraps(func)
    def wrapper(*args, **kwargs):
        return func(*args, **kwargs)
    return wrapper
"""

AIO = """
import functools

def cloud_event(func):
    @functools.wraps(func)
    async def async_wrapper(*args, **kwargs):
        return await func(*args, **kwargs)
    return async_wrapper
"""

MAIN = """
import functions_framework

@functions_framework.cloud_event
def thumbnail(cloud_event):
    return [cloud_event["id"], cloud_event["type"], cloud_event["subject"], cloud_event.data["name"]]

@functions_framework.http
def page(request):
    return "hello"
"""

CONFIG = """
[admin]
listen = "127.0.0.1:0"
[functions.thumbnail]
on = "image.uploaded"
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    place = tmp_path / "site" / "functions_framework"
    place.mkdir(parents=True)
    (place / "__init__.py").write_text(FRAMEWORK)
    (place / "aio.py").write_text(AIO)
    monkeypatch.syspath_prepend(place.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(place.parent), os.environ.get("PYTHONPATH")))))
    for name in ("functions_framework", "functions_framework.aio"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    def write(main: str = MAIN, config: str = CONFIG) -> Path:
        (tmp_path / "functions").mkdir()
        (tmp_path / "functions" / "main.py").write_text(main)
        (tmp_path / "runtime.toml").write_text(config)
        return tmp_path

    yield write
    for name in ("functions_framework", "functions_framework.aio"):
        sys.modules.pop(name, None)


def faults_of(folder: Path) -> list[str]:
    return [str(fault) for fault in check(folder / "runtime.toml")[2]]


def test_a_decorated_function_is_one_by_its_name_and_is_given_the_event_of_the_sdk(project: Project) -> None:
    with Harness(project()) as harness:
        assert harness.call("image.uploaded", {"name": "a.png"}, id="7", subject="a") == ["7", "image.uploaded", "a", "a.png"]


def test_the_line_is_that_of_the_def_and_a_function_for_http_is_none(project: Project) -> None:
    _, graph, faults = check(project() / "runtime.toml")
    assert not faults
    assert graph is not None
    assert [(function.name, function.where, function.executor) for function in graph.functions] == [
        ("thumbnail", "functions/main.py:5", "thread")
    ]


def test_bytes_and_extensions_are_handed_on(project: Project) -> None:
    text = MAIN.replace('cloud_event.data["name"]]', 'cloud_event.data.decode(), cloud_event["tenant"], cloud_event["partitionkey"]]')
    with Harness(project(text)) as harness:
        event = {"id": "7", "subject": "a", "key": "k", "extensions": {"tenant": "t"}}
        assert harness.call("image.uploaded", b"abc", **event)[3:] == ["abc", "t", "k"]


def test_an_async_function_runs_on_the_loop(project: Project) -> None:
    text = "from functions_framework import aio\n@aio.cloud_event\nasync def thumbnail(cloud_event):\n    return cloud_event.data\n"
    folder = project(text)
    _, graph, _ = check(folder / "runtime.toml")
    assert graph is not None
    assert graph.by_name["thumbnail"].executor == "loop"
    with Harness(folder) as harness:
        assert harness.call("image.uploaded", [1]) == [1]


def test_a_handler_may_be_named(project: Project) -> None:
    with Harness(project(config='[functions.small]\nhandler = "main.thumbnail"\non = "image.uploaded"')) as harness:
        assert harness.call("image.uploaded", {"name": "a.png"}, subject="a")[3] == "a.png"


def test_what_comes_from_another_file_is_not_taken_twice(project: Project) -> None:
    folder = project()
    (folder / "functions" / "again.py").write_text("from functions.main import thumbnail\n")
    assert faults_of(folder) == []


def test_a_handler_for_http_is_a_fault_when_it_is_named(project: Project) -> None:
    assert faults_of(project(config='[functions.page]\nhandler = "main.page"')) == [
        (
            'functions/main.py:9: handler "page": expected @functions_framework.cloud_event, found .http, which is not supported; '
            "take the data of an event"
        )
    ]


def test_a_batch_is_a_fault(project: Project) -> None:
    assert faults_of(project(config=f"{CONFIG}batch = 5")) == [
        (
            'functions/main.py:5: handler "thumbnail": expected no `batch`, found one; '
            "the functions framework knows no lists of events; remove it"
        )
    ]


def test_invoke_calls_it(project: Project) -> None:
    text = MAIN.replace('cloud_event["subject"]', "0")
    done: subprocess.CompletedProcess[str] = run(project(text), "invoke", "thumbnail", "-d", '{"name": "a.png"}')
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith('"image.uploaded",0,"a.png"]\n')
