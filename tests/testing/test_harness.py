"""The harness: what an author of functions sees of a real runtime, without waiting and without the outside world."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from runtime import ConfigError, DataError, LoadError, MalformedEvent, NotRouted, ResultTimeout, RunFailed
from runtime.testing import START, Harness

Project = Callable[..., Path]

ORDERS = """
import time
from runtime import function

@function(on="order.placed")
def validate(data):
    return data

@function(after="validate", emits="order.charged", retries=2)
async def charge(validate, context):
    if validate["total"] < 0:
        raise ValueError("nothing to charge")
    return {"order": validate["id"], "charged": validate["total"]}
"""

FLAKY = """
from runtime import function

@function(on="work", retries=5, backoff=10)
def work(context):
    if context.attempt < 3:
        raise OSError("busy")
    return context.attempt
"""

CONFIG = """
[sources.pulse]
plugin = "cron"
every = 5
type = "tick"

[sources.web]
plugin = "http"
listen = "127.0.0.1:0"

[sources.lines]
plugin = "jsonl"
path = "in.jsonl"
type = "line"

[sinks.audit]
plugin = "jsonl"
path = "out.jsonl"
on = "order.*"
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    def make(functions: str = "", config: str = "sources = {}") -> Path:
        (tmp_path / "functions").mkdir()
        (tmp_path / "functions" / "work.py").write_text(functions)
        (tmp_path / "runtime.toml").write_text(config)
        return tmp_path

    return make


def test_an_event_has_gone_all_its_way_when_emit_returns(project: Project) -> None:
    with Harness(project(ORDERS)) as harness:
        placed = harness.emit("order.placed", {"id": "7", "total": 12.5}, key="ada")
        [charged] = harness.events("order.charged")
        assert charged.data == {"order": "7", "charged": 12.5}
        assert (placed.key, charged.key) == ("ada", "ada")
        assert harness.events() == [placed, charged]
        assert harness.show(placed)["effects"] == [charged.id]


@pytest.mark.parametrize("kind", ["def work(data):\n    time.sleep(0.1)", "async def work(data):\n    await asyncio.sleep(0.1)"])
def test_functions_that_really_take_their_time_are_waited_for(project: Project, kind: str) -> None:
    source = f"import asyncio, time\nfrom runtime import function\n\n@function(on='go', emits='gone')\n{kind}\n    return data\n"
    with Harness(project(source)) as harness:
        harness.emit("go", 1)
        assert [event.data for event in harness.events("gone")] == [1]


async def test_it_works_in_an_async_test(project: Project) -> None:
    with Harness(project(ORDERS)) as harness:
        await asyncio.sleep(0)
        assert harness.call("order.placed", {"id": "7", "total": 1}) == {"order": "7", "charged": 1}


def test_retries_take_virtual_time_and_happen_at_theirs(project: Project) -> None:
    with Harness(project(FLAKY)) as harness:
        event = harness.emit("work")
        assert harness.show(event)["status"] == "retrying"
        assert harness.show(event)["steps"][0]["error"]["type"] == "OSError"
        harness.clock.advance(3600)
        shown = harness.show(event)
        assert (shown["status"], shown["attempts"], shown["steps"][0]["result"]) == ("done", 3, 3)
        assert harness.clock.time() == START + 3600


def test_a_retry_without_a_pause_needs_no_time(project: Project) -> None:
    with Harness(project(FLAKY.replace("backoff=10", "backoff=0"))) as harness:
        assert harness.show(harness.emit("work"))["attempts"] == 3


def test_what_is_delayed_runs_at_its_time(project: Project) -> None:
    with Harness(project(ORDERS)) as harness:
        event = harness.emit("order.placed", {"id": "7", "total": 1}, delay=60)
        harness.clock.advance(59)
        assert harness.events(status="queued") == [event]
        harness.clock.advance(1)
        assert harness.events("order.charged")[0].time.timestamp() == START + 60  # type: ignore[union-attr]


def test_functions_in_threads_end_before_the_clock_goes_on(project: Project) -> None:
    slow = "import time\nfrom runtime import function\n\n@function(on='tick', emits='tock')\ndef work(data):\n    time.sleep(0.02)\n"
    config = '[sources.pulse]\nplugin = "cron"\nevery = 5\ntype = "tick"\n'
    with Harness(project(slow + "    return 1\n", config)) as harness:
        harness.clock.advance(50)
        ticks, tocks = harness.events("tick"), harness.events("tock")
        assert [event.time for event in tocks] == [event.time for event in ticks]
        assert len(ticks) == 10


def test_many_hours_with_a_schedule_of_seconds_are_quick(project: Project) -> None:
    with Harness(project("", CONFIG)) as harness:
        began = time.monotonic()
        harness.clock.advance(12 * 3600)
        assert len(harness.events("tick")) == 12 * 3600 / 5
        assert time.monotonic() - began < 20


def test_nothing_of_the_configuration_touches_the_outside_world(project: Project) -> None:
    folder = project(ORDERS, CONFIG)
    with Harness(folder) as harness:
        harness.emit("order.placed", {"id": "7", "total": 1})
        assert [event.type for event in harness.delivered("audit")] == ["order.placed", "order.charged"]
        with pytest.raises(ValueError, match="expected a source that runs for real and listens"):
            harness.address("web")
    assert {path.name for path in folder.iterdir()} == {"functions", "runtime.toml"}


def test_sources_and_sinks_that_are_named_run_for_real(project: Project) -> None:
    folder = project(ORDERS, CONFIG)
    (folder / "in.jsonl").write_text("1\n2\n")
    with Harness(folder, sources=["lines"], sinks=["audit"]) as harness:
        assert [event.data for event in harness.wait_for("line", 2)] == [1, 2]
        harness.emit("order.placed", {"id": "7", "total": 1})
        assert (folder / "out.jsonl").read_text().count("\n") == 2
        with pytest.raises(ValueError, match="expected a sink of the configuration that does not run for real"):
            harness.delivered("audit")


def test_a_result_is_encoded_before_the_next_function_is_given_it(project: Project) -> None:
    source = """
import msgspec
from runtime import function

class Order(msgspec.Struct, dict=True):
    id: str

@function(on="order")
def read(data):
    order = Order(data["id"])
    order.note = "lost when the process is started again"
    return order

@function(after="read")
def typed(read: Order):
    return [type(read).__name__, read.id, hasattr(read, "note")]

@function(after="read")
def plain(read):
    return type(read).__name__
"""
    with Harness(project(source)) as harness:
        assert harness.call("order", {"id": "7"}) == {"typed": ["Order", "7", False], "plain": "dict"}


def test_data_is_encoded_as_well(project: Project) -> None:
    with Harness(project(ORDERS)) as harness:
        assert harness.emit("noted", {"pair": (1, 2)}).data == {"pair": [1, 2]}
        with pytest.raises(TypeError):
            harness.emit("noted", object())


def test_a_dead_letter_is_told_and_redriven(project: Project) -> None:
    source = "from pathlib import Path\nfrom runtime import function\n\n@function(on='read', retries=0)\ndef read(data):\n"
    folder = project(source + "    return Path(data).read_text()\n")
    with Harness(folder) as harness:
        event = harness.emit("read", str(folder / "late.txt"))
        assert harness.dead() == [event]
        (folder / "late.txt").write_text("here")
        harness.redrive(event)
        assert harness.dead() == []
        assert harness.show(event)["steps"][0]["result"] == "here"
        with pytest.raises(ValueError, match="redrive: expected a dead letter, or an unrouted event"):
            harness.redrive(event)


def test_a_call_has_a_result_or_says_why_not(project: Project) -> None:
    source = ORDERS + "\n@function(on='typed')\ndef typed(count: int): return count\n"
    with Harness(project(source)) as harness:
        assert harness.call("typed", 3) == 3
        with pytest.raises(RunFailed, match="nothing to charge"):
            harness.call("order.placed", {"id": "7", "total": -1})
        with pytest.raises(DataError):
            harness.call("typed", "three")
        with pytest.raises(NotRouted):
            harness.call("nobody")
        with pytest.raises(MalformedEvent):
            harness.emit("")


def test_a_call_that_has_to_wait_for_the_clock_is_told_so(project: Project) -> None:
    with Harness(project(FLAKY)) as harness:
        harness.emit("work", key="k")
        with pytest.raises(ResultTimeout, match="event call-1: no result"):
            harness.call("work", key="k")


def test_faults_are_those_of_check(project: Project, tmp_path: Path) -> None:
    folder = project("def broken(:", CONFIG.replace('"cron"', '"corn"'))
    with pytest.raises(ConfigError, match='no plugin offers the source "corn"'), Harness(folder):
        pass
    (folder / "runtime.toml").write_text("sources = {}")
    with pytest.raises(LoadError, match=r"work\.py:1"), Harness(folder):
        pass
    (folder / "plugins").mkdir()
    (folder / "plugins" / "bad.py").write_text("1 / 0")
    with pytest.raises(ConfigError, match=r"bad\.py:1: ZeroDivisionError"), Harness(folder):
        pass
    with pytest.raises(ConfigError) as caught, Harness(folder, sources=["nigthly"], sinks=["audit"]):
        pass
    assert [str(fault) for fault in caught.value.faults] == [
        'harness: sources: expected names of sources of the configuration, found "nigthly"; there are: none',
        'harness: sinks: expected names of sinks of the configuration, found "audit"; there are: none',
    ]


def test_what_hangs_is_named(project: Project) -> None:
    source = "import asyncio\nfrom runtime import function\n\n@function(on='go')\nasync def hang(): await asyncio.Event().wait()\n"
    with Harness(project(source), patience=0.2) as harness:
        with pytest.raises(TimeoutError) as caught:
            harness.emit("go", id="7")
        assert str(caught.value) == (
            'emit: expected all that needs no time to be done within 0.2 s, still running: "hang" (functions/work.py:5) on event 7; '
            "mend what hangs, or give the harness more `patience`"
        )


def test_a_function_that_blocks_the_loop_is_named_and_does_not_hide_the_error_of_the_test(project: Project) -> None:
    source = "import time\nfrom runtime import function\n\n@function(on='go')\nasync def block(): time.sleep(0.5)\n"
    with pytest.raises(TimeoutError, match=r'emit: expected .* still running: "block"'), Harness(project(source), patience=0.1) as harness:
        harness.emit("go")


def test_a_pattern_or_status_that_is_none_is_refused(project: Project) -> None:
    with Harness(project()) as harness:
        with pytest.raises(ValueError, match=r'"a\.\.b" is not a pattern'):
            harness.events("a..b")
        with pytest.raises(ValueError, match=r'"deed" is no status \(did you mean "dead"\?\)'):
            harness.events(status="deed")
        with pytest.raises(ValueError, match="the clock never goes back"):
            harness.clock.advance(-1)


def test_what_does_not_come_from_outside_is_told(project: Project) -> None:
    with Harness(project(), patience=0.1) as harness, pytest.raises(TimeoutError, match='expected 1 events of type "line"'):
        harness.wait_for("line")


def test_a_real_source_is_called_while_the_harness_runs(project: Project, tmp_path: Path) -> None:
    config = '[sources.web]\nplugin = "http"\nlisten = "127.0.0.1:0"\n'
    with Harness(project(ORDERS, config), sources=["web"]) as harness:
        answer = httpx.post(f"{harness.address('web')}/events/order.placed?wait=5", json={"id": "7", "total": 2})
        assert answer.json() == {"order": "7", "charged": 2}
        harness.wait_for("order.charged")
    with Harness(tmp_path) as harness, pytest.raises(ValueError, match='found "web"; there are: none'):
        harness.address("web")


def test_nothing_is_left_when_it_ends(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    before = set(threading.enumerate())
    source = "import asyncio\nfrom runtime import function\ntasks = []\n\n@function(on='go')\nasync def work():\n"
    source += "    tasks.append(asyncio.create_task(asyncio.sleep(60)))\n"
    with caplog.at_level(logging.ERROR), Harness(project(source, CONFIG)) as harness:
        harness.emit("go")
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert "harness" not in left
    assert caplog.records == []


def test_several_run_one_after_the_other(project: Project) -> None:
    folder = project(ORDERS)
    for total in (1, 2, 3):
        with Harness(folder) as harness:
            assert harness.call("order.placed", {"id": "7", "total": total})["charged"] == total


def test_state_and_emissions_are_as_in_the_runtime(project: Project) -> None:
    source = """
from runtime import function

@function(on="seen")
def count(state, context):
    state["n"] = state.get("n", 0) + 1
    if state["n"] == 2:
        context.emit("twice", delay=30)
    return state["n"]
"""
    with Harness(project(source)) as harness:
        results: list[Any] = [harness.call("seen", key=key) for key in ("a", "b", "a")]
        assert results == [1, 1, 2]
        [twice] = harness.events("twice")
        assert (twice.key, twice.extensions["hops"]) == ("a", 1)


def test_a_batch_that_is_not_full_waits_for_the_clock(project: Project) -> None:
    batch = """
from runtime import function

@function(on="reading", batch=3, batch_wait=10, emits="mean")
def mean(readings: list[float]) -> list[float]:
    return [sum(readings) / len(readings)] * len(readings)
"""
    with Harness(project(batch)) as harness:
        for value in (1.0, 2.0):
            harness.emit("reading", value)
        assert harness.events("mean") == []
        harness.clock.advance(10)
        assert [event.data for event in harness.events("mean")] == [1.5, 1.5]
        for value in (1.0, 2.0, 6.0):
            harness.emit("reading", value)
        assert [event.data for event in harness.events("mean")][2:] == [3.0, 3.0, 3.0], "one that is full waits for nothing"
