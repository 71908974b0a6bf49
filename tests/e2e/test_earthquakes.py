"""A week of earthquakes through the real process: all accounted for, typed, in order, and a save in the middle."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from running import Running, run

DATA = Path(__file__).parent.parent / "data" / "earthquakes.jsonl"

FUNCTIONS = """
import asyncio
from pathlib import Path

import msgspec

from runtime import function

VERSION = 1


class Properties(msgspec.Struct):
    mag: float
    place: str
    time: int
    updated: int
    type: str


class Quake(msgspec.Struct):
    id: str
    properties: Properties


@function(on="quake", concurrency=LIMIT)
async def classify(quake: Quake) -> Quake:
    while not Path("open").exists():
        await asyncio.sleep(0.01)
    return quake


@function(after="classify", emits="quake.classified")
async def report(classify: Quake) -> dict:
    assert isinstance(classify, Quake)
    return {"id": classify.id, "mag": classify.properties.mag, "time": classify.properties.time, "version": VERSION}
"""

CONFIG = """
[dispatch]
{dispatch}
{source}
[sinks.out]
plugin = "jsonl"
path = "out/quakes.jsonl"
on = "quake.classified"
[admin]
listen = "127.0.0.1:0"
"""

WEB = """
[sources.web]
plugin = "http"
listen = "127.0.0.1:0"
[sources.web.routes."/quakes"]
type = "quake"
"""


@pytest.fixture(scope="module")
def quakes() -> list[dict[str, Any]]:
    features = [json.loads(line) for line in DATA.read_text().splitlines()]
    assert len(features) == 1707
    return features


def project(folder: Path, source: str, dispatch: str = "", limit: int = 64, *, opened: bool = True) -> Path:
    (folder / "functions").mkdir()
    (folder / "functions" / "quakes.py").write_text(FUNCTIONS.replace("LIMIT", str(limit)))
    (folder / "runtime.toml").write_text(CONFIG.format(source=source, dispatch=dispatch))
    if opened:
        (folder / "open").touch()
    return folder


def at_sink(folder: Path) -> list[dict[str, Any]]:
    """Return the data of the whole lines that the sink has written."""
    path = folder / "out" / "quakes.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line)["data"] for line in text.splitlines(keepends=True) if line.endswith("\n")]


def until(folder: Path, count: int, seconds: float = 40) -> list[dict[str, Any]]:
    end = time.monotonic() + seconds
    while len(found := at_sink(folder)) < count:
        assert time.monotonic() < end, f"only {len(found)} of {count} at the sink"
        time.sleep(0.02)
    return found


def batches(features: list[dict[str, Any]], **extensions: Any) -> Iterator[bytes]:
    """Yield CloudEvents batches of 100 features."""
    for start in range(0, len(features), 100):
        yield json.dumps(
            [
                {"specversion": "1.0", "type": "quake", "source": "usgs", "id": one["id"], "data": one}
                | {name: value(one) for name, value in extensions.items()}
                for one in features[start : start + 100]
            ]
        ).encode()


def post_batches(running: Running, features: list[dict[str, Any]], **extensions: Any) -> None:
    headers = {"content-type": "application/cloudevents-batch+json"}
    with httpx.Client(base_url=running.web, headers=headers, timeout=30) as client:
        for body in batches(features, **extensions):
            answer = client.post("/events", content=body)
            assert answer.status_code == 202, answer.text
            assert answer.json()["ids"] == [one["id"] for one in json.loads(body)]


def test_a_file_of_quakes_arrives_whole_typed_and_in_order(tmp_path: Path, quakes: list[dict[str, Any]]) -> None:
    folder = project(tmp_path, f'[sources.lines]\nplugin = "jsonl"\ntype = "quake"\npath = "{DATA}"')
    done = run(folder, "run", "--once")
    assert done.returncode == 0, done.stderr
    found = at_sink(folder)
    assert [one["id"] for one in found] == [one["id"] for one in quakes]
    assert all(isinstance(one["mag"], float) and isinstance(one["time"], int) for one in found)


def test_quakes_by_http_arrive_in_order_and_every_one_can_be_looked_up(tmp_path: Path, quakes: list[dict[str, Any]]) -> None:
    with Running(project(tmp_path, WEB)) as running:
        post_batches(running, quakes)
        found = until(tmp_path, len(quakes))
        assert [one["id"] for one in found] == [one["id"] for one in quakes]
        post_batches(running, quakes[:100])  # the same again joins the first
        stats = running.api.get("/api/stats").json()
        assert (stats["accepted"], stats["duplicates"], stats["dead"]) == (2 * len(quakes), 100, 0)
        event = running.api.get(f"/api/events/{quakes[5]['id']}").json()
        assert (event["status"], [step["status"] for step in event["steps"]]) == ("done", ["done", "done"])
        assert event["event"]["data"] == quakes[5]
        assert running.stop() == 0


def test_in_priority_mode_quakes_arrive_by_magnitude_class(tmp_path: Path, quakes: list[dict[str, Any]]) -> None:
    def level(one: dict[str, Any]) -> int:
        return max(0, min(9, int(one["properties"]["mag"]) + 1))

    folder = project(tmp_path, WEB, 'order = "priority"\naging = 0', limit=1, opened=False)
    with Running(folder) as running:
        post_batches(running, quakes, priority=level)
        (folder / "open").touch()  # all have waited together, but for the one that started when only the first batch was there
        found = until(folder, len(quakes))
        first = max(quakes[:100], key=level)
        rest = [one for one in quakes if one is not first]
        expected = [first, *sorted(rest, key=lambda one: -level(one))]
        assert [one["id"] for one in found] == [one["id"] for one in expected]
        assert running.stop() == 0


def test_a_save_in_the_middle_loses_nothing_and_does_nothing_twice(tmp_path: Path, quakes: list[dict[str, Any]]) -> None:
    folder = project(tmp_path, WEB)
    file = folder / "functions" / "quakes.py"
    with Running(folder) as running:
        saved, refused = threading.Event(), list[str]()

        def feed() -> None:
            with httpx.Client(base_url=running.web, timeout=30) as client:
                for count, quake in enumerate(quakes):
                    answer = client.post("/quakes", json=quake, headers={"ce-id": quake["id"]})
                    if answer.status_code != 202:
                        refused.append(answer.text)
                    if count == len(quakes) // 2:
                        saved.wait(30)  # so that some come before the save is live, and some after

        feeding = threading.Thread(target=feed)
        feeding.start()
        until(folder, 200)
        file.write_text(file.read_text().replace("VERSION = 1", "VERSION = 2"))
        while running.api.get("/health").json()["generation"] == 1:
            time.sleep(0.01)
        saved.set()
        feeding.join()
        found = until(folder, len(quakes))
        assert refused == []
        assert sorted(one["id"] for one in found) == sorted(one["id"] for one in quakes)
        versions = [one["version"] for one in found]
        assert {1, 2} == set(versions)
        assert versions == sorted(versions), "no run on old code after one on new"
        assert running.stop() == 0
        assert len(at_sink(folder)) == len(quakes)
