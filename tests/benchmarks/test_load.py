from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import load
from benchmarks.children import ChildError
from benchmarks.subjects import http


@pytest.fixture(params=["wrk", "python"])
def generator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "wrk" and not shutil.which("wrk"):
        pytest.skip("wrk is not installed")
    if request.param == "python":
        nothing: Callable[[str], None] = lambda _: None  # noqa: E731
        monkeypatch.setattr(shutil, "which", nothing)
    monkeypatch.chdir(Path(__file__).parents[2])
    return str(request.param)


def test_a_server_is_loaded_and_its_good_answers_are_counted(generator: str) -> None:
    with http.server("uvicorn", *http.UVICORN, "benchmarks.bare:web") as (url, _):
        assert load.requests_per_second(url, 1) > 10


def test_bad_answers_are_not_counted(generator: str) -> None:
    with http.ours("", "result") as (url, _), pytest.raises(ChildError, match="failed"):
        load.requests_per_second(f"{url}nowhere", 1)
