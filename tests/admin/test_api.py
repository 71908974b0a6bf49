"""The admin API over a real socket: the shapes of its answers, what it takes, and what it refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import ANY
from urllib.parse import quote

import httpx
import pytest

from runtime import config
from runtime.admin.server import make_server
from runtime.app import App

FUNCTIONS = """
import asyncio
from runtime import Reject, function

GATE = asyncio.Event()
STARTED = asyncio.Event()

@function(on="order.placed", emits="order.checked")
async def check(order: dict) -> dict:
    if order.get("total", 0) < 0:
        raise Reject("no negative totals", status=409)
    return order

@function(after="check", timeout=5, concurrency=2, rate=1000)
def charge(check: dict) -> float:
    return check["total"]

@function(on="slow")
async def slow(data):
    STARTED.set()
    await GATE.wait()
    return "done"

@function(on=["flaky", "shaky"], retries=0)
async def flaky(data):
    if not GATE.is_set():
        raise ValueError("not yet")
    return data

@function(on="again", backoff=3600, backoff_max=3600)
async def again(data):
    STARTED.set()
    raise ValueError("later")

@function(on="count")
async def count(number: int) -> int:
    return number

@function
async def by_name(data): ...
"""

CONFIG = """
[sinks.audit]
plugin = "jsonl"
path = "out/audit.jsonl"
on = "order.checked"
[admin]
listen = "127.0.0.1:0"
"""

WEB = """
[sources.web]
plugin = "http"
listen = "127.0.0.1:0"
[sources.web.routes."/orders"]
type = "order.placed"
"""

CLOUDEVENT = {"content-type": "application/cloudevents+json"}


class Api:
    """A client of the admin API, and the app behind it."""

    def __init__(self, app: App, client: httpx.AsyncClient) -> None:
        self.app = app
        self.client = client

    @property
    def functions(self) -> ModuleType:
        return self.app.generation.modules.table["functions.shop"]

    async def get(self, path: str, expect: int = 200, /, **parameters: Any) -> Any:
        return self.read(await self.client.get(path, params=parameters), expect)

    async def post(self, path: str, body: Any = None, status: int = 200, headers: dict[str, str] | None = None) -> Any:
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return self.read(await self.client.post(path, content=content, headers=headers), status)

    @staticmethod
    def read(answer: httpx.Response, status: int) -> Any:
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == ("application/json" if status < 400 else "application/problem+json")
        body = answer.json()
        if status >= 400:
            assert (body["status"], body["type"]) == (status, "about:blank")
        return body if status < 400 else body["detail"]

    async def emit(self, type: str, data: Any = None, *, id: str, status: int = 202, query: str = "", **more: Any) -> Any:
        event = {"specversion": "1.0", "id": id, "source": "test", "type": type, "data": data, **more}
        return await self.post(f"/api/events{query}", event, status, CLOUDEVENT)

    async def emit_all(self, type: str, *ids: str, data: Any = None) -> None:
        """Send events and return when they have ended."""
        for id in ids:
            await self.emit(type, data, id=id)
        await self.app.finished()

    async def ids(self, **parameters: Any) -> list[str]:
        return [event["id"] for event in (await self.get("/api/events", **parameters))["events"]]


@asynccontextmanager
async def running(folder: Path, settings: str) -> AsyncIterator[App]:
    """Run an app in this process."""
    (folder / "functions").mkdir()
    (folder / "functions" / "shop.py").write_text(FUNCTIONS)
    (folder / "runtime.toml").write_text(settings)
    app = App(config.load(folder / "runtime.toml"))
    await app.start()
    try:
        yield app
    finally:
        await app.stop(0.0)


@pytest.fixture
async def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    """The API without a socket, which takes a while to close."""
    monkeypatch.chdir(tmp_path)
    async with running(tmp_path, CONFIG + "[sources]\n") as app:
        transport = httpx.ASGITransport(make_server(app)._app)
        async with httpx.AsyncClient(base_url="http://127.0.0.1", transport=transport) as client:
            yield Api(app, client)


@asynccontextmanager
async def serving(folder: Path, settings: str) -> AsyncIterator[Api]:
    """Run an app and serve its API."""
    async with running(folder, settings) as app:
        server = make_server(app)
        await server.start()
        async with httpx.AsyncClient(base_url=server.address, timeout=20) as client:
            yield Api(app, client)
        await server.stop()


@pytest.fixture
async def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    """The API on a socket."""
    monkeypatch.chdir(tmp_path)
    async with serving(tmp_path, CONFIG + WEB) as api:
        yield api


# --- what it tells ------------------------------------------------------------------------------------


async def test_health_is_ok_and_names_what_is_wrong_until_it_is_mended(api: Api, tmp_path: Path) -> None:
    assert await api.get("/health") == {"status": "ok", "generation": 1, "faults": []}
    path = tmp_path / "functions" / "shop.py"
    path.write_text("def broken(:\n")
    async with asyncio.timeout(10):
        while (health := await api.get("/health"))["status"] == "ok":
            await asyncio.sleep(0.01)
    assert health == {"status": "degraded", "generation": 1, "faults": [{"where": "functions/shop.py:1", "message": ANY}]}
    assert health["faults"][0]["message"].startswith("SyntaxError: ")


async def test_stats_count_events_by_status(api: Api) -> None:
    assert await api.get("/api/stats") == {
        "accepted": 0,
        "queued": 0,
        "running": 0,
        "retrying": 0,
        "done": 0,
        "dead": 0,
        "discarded": 0,
        "unrouted": 0,
        "duplicates": 0,
        "blocked": 0,
        "uptime": ANY,
    }
    await api.emit_all("order.placed", "1", "1", data={"total": 5})
    await api.emit_all("flaky", "2")
    await api.emit_all("nobody", "3")
    await api.emit("slow", id="4")
    await api.functions.STARTED.wait()
    stats = await api.get("/api/stats")
    assert stats["uptime"] > 0
    assert {name: count for name, count in stats.items() if count and name != "uptime"} == {
        "accepted": 5,
        "running": 1,
        "done": 2,
        "dead": 1,
        "unrouted": 1,
        "duplicates": 1,
    }


async def test_functions_are_listed_with_their_options_and_where_they_stand(api: Api) -> None:
    functions = {function["name"]: function for function in (await api.get("/api/functions"))["functions"]}
    assert set(functions) == {"check", "charge", "slow", "flaky", "again", "count", "by_name"}
    assert functions["check"] == {
        "name": "check",
        "on": ["order.placed"],
        "after": [],
        "emits": "order.checked",
        "file": "functions/shop.py",
        "line": 9,
        "executor": "loop",
        "generation": 1,
        "retries": 3,
        "backoff": 1.0,
        "backoff_max": 300.0,
        "timeout": 60.0,
        "concurrency": 64,
        "rate": None,
        "resources": [],
        "batch": 1,
        "hanging": [],
        "escalated": False,
    }
    charge = functions["charge"]
    assert (charge["on"], charge["after"], charge["emits"], charge["executor"]) == ([], ["check"], None, "thread")
    assert (charge["timeout"], charge["concurrency"], charge["rate"]) == (5, 2, 1000)
    assert functions["flaky"]["on"] == ["flaky", "shaky"]


async def test_the_graph_has_nodes_of_every_kind_edges_and_the_topological_order(served: Api) -> None:
    graph = await served.get("/api/graph")
    assert graph.keys() == {"nodes", "edges", "order"}
    nodes = [(node["kind"], node["name"]) for node in graph["nodes"]]
    assert len(nodes) == len(set(nodes))
    assert {("source", "web"), ("type", "order.placed"), ("function", "check"), ("type", "order.checked"), ("sink", "audit")} <= set(nodes)
    assert {kind for kind, _ in nodes} == {"function", "sink", "source", "type"}
    for edge in (
        ["web", "order.placed"],
        ["order.placed", "check"],
        ["check", "charge"],
        ["check", "order.checked"],
        ["order.checked", "audit"],
    ):
        assert edge in graph["edges"]
    assert graph["order"].index("check") < graph["order"].index("charge")
    assert sorted(graph["order"]) == sorted(function["name"] for function in (await served.get("/api/functions"))["functions"])


async def test_generations_are_listed_with_their_files(api: Api) -> None:
    (generation,) = (await api.get("/api/generations"))["generations"]
    assert generation == {
        "number": 1,
        "time": ANY,
        "files": {"shop.py": ANY},
        "added": ["again", "by_name", "charge", "check", "count", "flaky", "slow"],
        "changed": [],
        "removed": [],
        "seconds": ANY,
    }
    assert generation["time"].endswith("Z")
    assert len(generation["files"]["shop.py"]) == 64
    assert generation["seconds"] > 0


async def test_sources_and_sinks_are_listed_and_how_they_stand(served: Api) -> None:
    await served.emit_all("order.placed", "1", data={"total": 5})
    (source,) = (await served.get("/api/sources"))["sources"]
    assert source == {"name": "web", "plugin": "http", "state": "running", "detail": "", "events": 0, "rate": 0}
    (sink,) = (await served.get("/api/sinks"))["sinks"]
    assert sink == {"name": "audit", "plugin": "jsonl", "state": "running", "detail": "", "events": 1, "rate": ANY, "waiting": 0}


async def test_an_event_is_told_with_its_steps_and_what_it_caused(api: Api) -> None:
    await api.emit("order.placed", {"total": 5}, id="7", partitionkey="ann", priority=9, subject="tea", time="2026-01-01T12:00:00+02:00")
    await api.app.finished()
    event = await api.get("/api/events/7")
    effect = event["effects"][0]
    assert event == {
        "uid": ANY,
        "id": "7",
        "type": "order.placed",
        "source": "test",
        "time": "2026-01-01T10:00:00Z",
        "key": "ann",
        "priority": 9,
        "status": "done",
        "waited": ANY,
        "waits": ANY,
        "crashes": 0,
        "attempts": 1,
        "error": None,
        "reason": None,
        "accepted": ANY,
        "due": None,
        "ended": ANY,
        "event": {
            "specversion": "1.0",
            "id": "7",
            "source": "test",
            "type": "order.placed",
            "time": ANY,
            "subject": "tea",
            "data": {"total": 5},
            "partitionkey": "ann",
            "priority": 9,
        },
        "causation": None,
        "effects": [effect],
        "steps": [
            {
                "function": name,
                "status": "done",
                "attempts": 1,
                "generation": 1,
                "started": ANY,
                "finished": ANY,
                "due": None,
                "result": result,
                "reason": None,
                "error": None,
            }
            for name, result in (("check", {"total": 5}), ("charge", 5))
        ],
        "others": [],
    }
    assert await api.get(f"/api/events/{event['uid']}") == event
    caused = await api.get(f"/api/events/{quote(effect, safe='')}")
    assert (caused["type"], caused["source"], caused["causation"], caused["key"], caused["priority"]) == (
        "order.checked",
        "function/check",
        "7",
        "ann",
        9,
    )
    assert [(step["function"], step["status"]) for step in caused["steps"]] == [("audit", "done")]


async def test_a_dead_letter_tells_its_error_and_what_was_skipped_for_it(api: Api) -> None:
    await api.emit_all("order.placed", "1", data={"total": -1})
    event = await api.get("/api/events/1")
    assert (event["status"], event["attempts"]) == ("dead", 1)
    assert event["error"] == {"function": "check", "type": "Reject", "message": "no negative totals"}
    failed, skipped = event["steps"]
    assert (failed["status"], skipped["status"], skipped["reason"]) == ("failed", "skipped", '"check" failed')
    assert failed["error"] == {"type": "Reject", "message": "no negative totals", "traceback": ANY}
    assert failed["error"]["traceback"].startswith("Traceback (most recent call last):")
    assert (await api.get("/api/events"))["events"][0]["error"] == event["error"]


async def test_steps_that_nobody_has_tried_are_pending_while_the_event_is_open(api: Api) -> None:
    await api.emit("slow", id="1")
    await api.functions.STARTED.wait()
    event = await api.get("/api/events/1")
    assert event["status"] == "running"
    assert [(step["function"], step["status"], step["started"]) for step in event["steps"]] == [("slow", "pending", None)]


async def test_of_several_events_with_one_id_the_newest_is_told_and_the_others_named(api: Api) -> None:
    await api.emit("count", 1, id="1", source="a")
    await api.emit("count", 2, id="1", source="b")
    await api.app.finished()
    newest = await api.get("/api/events/1")
    assert newest["source"] == "b"
    (other,) = newest["others"]
    assert (await api.get(f"/api/events/{other}"))["source"] == "a"


async def test_an_id_may_hold_anything(served: Api) -> None:
    for id in ("a/b", "/", "a/retry", "a b", "50%", "100%25", "größe", "a?b#c", "..", "a//b", "/api/events"):
        await served.emit_all("flaky", id)
        path = f"/api/events/{quote(id, safe='').replace('.', '%2E')}"  # so that nobody resolves the dots
        assert (await served.get(path))["id"] == id
        assert await served.post(f"{path}/discard") == {"discarded": 1, "uid": ANY, "id": id}


# --- lists --------------------------------------------------------------------------------------------


async def test_events_are_listed_newest_first_a_page_at_a_time(api: Api) -> None:
    await api.emit_all("count", *map(str, range(5)), data=1)
    first = await api.get("/api/events", limit=2)
    assert [event["id"] for event in first["events"]] == ["4", "3"]
    await api.emit_all("count", "5", data=1)
    second = await api.get("/api/events", limit=2, cursor=first["cursor"])
    assert [event["id"] for event in second["events"]] == ["2", "1"]
    third = await api.get("/api/events", limit=2, cursor=second["cursor"])
    assert [event["id"] for event in third["events"]] == ["0"]
    assert third["cursor"] is None
    assert (await api.get("/api/events", limit=6))["cursor"] is None


async def test_an_event_in_a_list_has_the_fields_of_the_contract(api: Api) -> None:
    await api.emit_all("count", "1", data=1)
    (event,) = (await api.get("/api/events"))["events"]
    whole = await api.get("/api/events/1")
    assert {"uid", "id", "type", "source", "time", "key", "priority", "status", "attempts", "error"} <= event.keys()
    assert event.items() <= whole.items()
    assert (event["key"], event["priority"]) == (None, 4)


async def test_events_are_found_by_status_as_they_stand_now(api: Api) -> None:
    await api.emit_all("count", "done", data=1)
    await api.emit_all("flaky", "dead")
    await api.emit_all("nobody", "unrouted")
    await api.emit("again", id="retrying")
    await api.functions.STARTED.wait()
    await api.app.engine.outcomes.settled()
    api.functions.STARTED.clear()
    await api.emit("slow", id="running", partitionkey="k")
    await api.functions.STARTED.wait()
    await api.emit("slow", id="queued", partitionkey="k")
    for status in ("done", "dead", "unrouted", "retrying", "running", "queued"):
        assert await api.ids(status=status) == [status]
    assert await api.ids(status="dead,done") == ["dead", "done"]
    assert await api.ids(status="running,queued,retrying") == ["queued", "running", "retrying"]
    assert await api.ids(status="running,queued,retrying", limit=2) == ["queued", "running"]
    assert await api.ids(status="discarded") == []
    assert len(await api.ids()) == 6
    found = await api.get("/api/events/retrying")
    assert (found["status"], found["attempts"], found["error"]) == (
        "retrying",
        1,
        {"function": "again", "type": "ValueError", "message": "later"},
    )


async def test_events_are_found_by_type_and_function(api: Api) -> None:
    await api.emit_all("order.placed", "1", data={"total": 5})
    await api.emit_all("flaky", "2")
    assert await api.ids(type="order.placed") == ["1"]
    assert len(await api.ids(type="order.*")) == 2
    assert await api.ids(type=">", status="dead") == ["2"]
    assert await api.ids(function="charge") == ["1"]
    assert await api.ids(function="flaky", status="done") == []


@pytest.mark.parametrize(
    ("parameters", "detail"),
    [
        ({"limit": "0"}, 'limit: "0" is not allowed; it is a whole number from 1 to 1000'),
        ({"limit": "1001"}, 'limit: "1001" is not allowed; it is a whole number from 1 to 1000'),
        ({"limit": "-1"}, 'limit: "-1" is not allowed; it is a whole number from 1 to 1000'),
        ({"limit": "ten"}, 'limit: "ten" is not allowed; it is a whole number from 1 to 1000'),
        ({"limit": "٣"}, 'limit: "٣" is not allowed; it is a whole number from 1 to 1000'),
        ({"cursor": "x"}, 'cursor: "x" is not allowed; it is the cursor of an earlier answer'),
        ({"cursor": "9" * 30}, f'cursor: "{"9" * 30}" is not allowed; it is the cursor of an earlier answer'),
        ({"type": "a..b"}, 'type: "a..b" is not a pattern of event types: no token of a pattern is empty'),
        ({"state": "dead"}, 'unknown parameter "state" (did you mean "status"?); allowed: status, type, function, error, limit, cursor'),
        (
            {"status": "dea"},
            'status: "dea" is not one (did you mean "dead"?); allowed: queued, running, retrying, done, dead, discarded, unrouted',
        ),
    ],
    ids=str,
)
async def test_a_wrong_parameter_is_told_with_what_is_allowed(api: Api, parameters: dict[str, str], detail: str) -> None:
    assert await api.get("/api/events", 400, **parameters) == detail


async def test_the_bounds_of_limit_are_allowed(api: Api) -> None:
    assert await api.ids(limit=1) == await api.ids(limit=1000) == []


# --- events in ----------------------------------------------------------------------------------------


async def test_an_event_is_accepted_and_its_id_answered(served: Api) -> None:
    assert await served.emit("count", 5, id="7") == {"id": "7"}
    headers = {"ce-specversion": "1.0", "ce-id": "8", "ce-source": "t", "ce-type": "count", "content-type": "application/json"}
    assert await served.post("/api/events", b"5", 202, headers) == {"id": "8"}
    batch = [{"specversion": "1.0", "id": id, "source": "t", "type": "count", "data": 1} for id in "ab"]
    assert await served.post("/api/events", batch, 202, {"content-type": "application/cloudevents-batch+json"}) == {"ids": ["a", "b"]}
    await served.app.finished()
    assert (await served.get("/api/stats"))["done"] == 4


async def test_who_waits_is_given_the_result_as_it_is(api: Api) -> None:
    assert await api.emit("count", 5, id="1", status=200, query="?wait=5") == 5
    assert await api.emit("order.placed", {"total": 2}, id="2", status=200, query="?wait=5") == 2
    assert await api.emit("count", 6, id="1", status=200, query="?wait=5") == 5


async def test_who_waits_is_told_why_there_is_no_result(api: Api) -> None:
    assert await api.emit("nobody", id="1", status=404, query="?wait=5") == 'no result for "nobody": no function handles it'
    misfit = await api.emit("count", "five", id="2", status=422, query="?wait=5")
    assert misfit == 'parameter "number" of "count" does not fit: Expected `int`, got `str`'
    rejected = await api.emit("order.placed", {"total": -1}, id="3", status=409, query="?wait=5")
    assert rejected == 'event 3: "check" failed: Reject: no negative totals'
    failed = await api.emit("flaky", id="4", status=500, query="?wait=5")
    assert failed == 'event 4: "flaky" failed: ValueError: not yet'
    assert await api.emit("slow", id="5", status=504, query="?wait=0.01") == "event 5: no result after 0.01 s; it goes on"
    assert (await api.get("/api/stats"))["accepted"] == 3


@pytest.mark.parametrize("wait", ["0", "-1", "soon", "nan", "inf", "86401", ""])
async def test_a_wait_is_a_number_of_seconds(api: Api, wait: str) -> None:
    detail = await api.emit("count", 5, id="1", status=400, query=f"?wait={wait}")
    assert detail == f'wait: "{wait}" is not allowed; it is a number of seconds above 0, at most 86400'
    assert (await api.get("/api/stats"))["accepted"] == 0


async def test_a_batch_has_no_one_result_to_wait_for(api: Api) -> None:
    batch = [{"specversion": "1.0", "id": id, "source": "t", "type": "count", "data": 1} for id in "ab"]
    detail = await api.post("/api/events?wait=1", batch, 400, {"content-type": "application/cloudevents-batch+json"})
    assert detail == "`wait` takes one event, found a batch of 2"


async def test_what_is_no_event_is_refused(served: Api) -> None:
    await served.post("/api/events", b"{not json", 400, CLOUDEVENT)
    await served.post("/api/events", {"specversion": "1.0", "source": "t", "type": "count"}, 400, CLOUDEVENT)
    await served.post("/api/events", {"total": 1}, 415, {"content-type": "application/json"})
    await served.post("/api/events", b"[" * 200_000, 400, CLOUDEVENT)
    assert await served.post("/api/events", b" " * (1024 * 1024 + 1), 413, CLOUDEVENT) == "the body is larger than 1048576 bytes"
    assert (await served.get("/api/stats"))["accepted"] == 0


async def test_when_the_runtime_is_full_a_sender_is_told_to_come_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with serving(tmp_path, CONFIG + "[sources]\n[journal]\nmax_backlog = 1\n") as api:
        await api.emit("slow", id="1", partitionkey="k")
        await api.functions.STARTED.wait()
        await api.emit("slow", id="2", partitionkey="k")
        assert await api.emit("slow", id="3", status=503) == "1 events are waiting and max_backlog is 1; try again in 1 s"
        answer = await api.client.post(
            "/api/events", json={"specversion": "1.0", "id": "3", "source": "t", "type": "slow"}, headers=CLOUDEVENT
        )
        assert answer.headers["retry-after"] == "1"


# --- retry and discard --------------------------------------------------------------------------------


async def test_a_dead_letter_is_retried_from_the_step_that_failed(api: Api) -> None:
    await api.emit_all("flaky", "1", data=5)
    api.functions.GATE.set()
    assert await api.post("/api/events/1/retry") == {"retried": 1, "uid": ANY, "id": "1"}
    await api.app.finished()
    event = await api.get("/api/events/1")
    assert (event["status"], event["error"], event["steps"][0]["result"]) == ("done", None, 5)


async def test_a_discarded_dead_letter_stays_readable(api: Api) -> None:
    await api.emit_all("flaky", "1")
    assert await api.post("/api/events/1/discard") == {"discarded": 1, "uid": ANY, "id": "1"}
    assert (await api.get("/api/events/1"))["status"] == "discarded"
    stats = await api.get("/api/stats")
    assert (stats["dead"], stats["discarded"]) == (0, 1)
    assert await api.post("/api/events/1/retry", status=409) == "event 1 is discarded; only dead or unrouted ones can be retried"


async def test_only_dead_letters_are_retried_or_discarded(api: Api) -> None:
    await api.emit_all("count", "1", data=1)
    await api.emit_all("nobody", "2")
    await api.emit("slow", id="3")
    await api.functions.STARTED.wait()
    assert await api.post("/api/events/1/retry", status=409) == "event 1 is done; only dead or unrouted ones can be retried"
    assert await api.post("/api/events/1/discard", status=409) == "event 1 is done; only dead ones can be discarded"
    detail = 'event 2 stays unrouted: no function and no sink takes events of type "nobody"'
    assert await api.post("/api/events/2/retry", status=409) == detail
    assert await api.post("/api/events/3/retry", status=409) == "event 3 is running; only dead or unrouted ones can be retried"


async def test_an_event_that_is_not_there_is_not_found(api: Api) -> None:
    detail = 'there is no event "7": it never was, or finished longer ago than the journal keeps'
    assert await api.get("/api/events/7", 404) == detail
    assert await api.post("/api/events/7/retry", status=404) == detail
    assert await api.post("/api/events/7/discard", status=404) == detail


async def test_all_that_a_filter_means_are_retried_or_discarded(api: Api) -> None:
    await api.emit_all("flaky", "1", "2", "3")
    await api.emit_all("shaky", "4", "5")
    await api.emit_all("order.placed", "6", data={"total": -1})
    assert await api.post("/api/discard", {"type": "order.>"}) == {"discarded": 1}
    assert await api.post("/api/discard", {"function": "charge"}) == {"discarded": 0}
    api.functions.GATE.set()
    assert await api.post("/api/retry", {"type": "shaky", "function": "flaky"}) == {"retried": 2}
    assert await api.post("/api/retry", {"error": "ValueError"}) == {"retried": 3}
    await api.app.finished()
    assert await api.post("/api/retry", b"") == {"retried": 0}
    stats = await api.get("/api/stats")
    assert (stats["done"], stats["dead"], stats["discarded"]) == (5, 0, 1)


async def test_more_than_a_page_of_dead_letters_is_retried_at_once(api: Api) -> None:
    batch = [{"specversion": "1.0", "id": str(number), "source": "t", "type": "flaky"} for number in range(2100)]
    await api.post("/api/events", batch, 202, {"content-type": "application/cloudevents-batch+json"})
    await api.app.finished()
    assert await api.post("/api/retry") == {"retried": 2100}


@pytest.mark.parametrize("path", ["/api/retry", "/api/discard"])
@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ([], "the body is a JSON object with any of function, type, error, status"),
        ({"fuction": "a"}, 'unknown field "fuction" (did you mean "function"?); allowed: function, type, error, status'),
        ({"function": 5}, "function: expected a text, found int"),
        ({"function": ""}, "function: expected a text that is not empty; leave it out to mean all"),
        ({"type": ""}, "type: expected a text that is not empty; leave it out to mean all"),
        ({"type": "a*"}, 'type: "a*" is not a pattern of event types: "*" and ">" stand for whole tokens'),
    ],
    ids=str,
)
async def test_a_wrong_filter_is_told_and_changes_nothing(api: Api, path: str, body: Any, detail: str) -> None:
    await api.emit_all("flaky", "1")
    assert await api.post(path, body, 400) == detail
    assert (await api.get("/api/stats"))["dead"] == 1


async def test_only_what_can_be_retried_or_discarded_is_a_status_of_the_filter(api: Api) -> None:
    assert await api.post("/api/retry", {"status": "done"}, 400) == 'status: "done" is not allowed here; allowed: dead, unrouted'
    assert await api.post("/api/discard", {"status": "unrouted"}, 400) == 'status: "unrouted" is not allowed here; allowed: dead'


async def test_a_body_that_is_no_json_is_malformed(api: Api) -> None:
    assert (await api.post("/api/retry", b"{", 400)).startswith("the body is not JSON: ")
    assert (await api.post("/api/retry", b"\xff", 400)).startswith("the body is not JSON: ")
    assert (await api.post("/api/retry", b"[" * 200_000, 400)).startswith("the body is not JSON: ")


# --- what is not there --------------------------------------------------------------------------------


async def test_other_paths_and_methods_are_refused_as_problems(api: Api) -> None:
    assert await api.get("/api/nothing", 404) == "there is no /api/nothing"
    assert await api.post("/api/stats", status=405) == "POST is not allowed here"
    answer = await api.client.delete("/api/events/1")
    assert (answer.status_code, answer.json()["detail"]) == (405, "DELETE is not allowed here")
    assert "GET" in answer.headers["allow"]


async def test_a_mistake_of_the_runtime_is_a_problem_that_tells_no_more_than_its_type(served: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail() -> None:
        raise KeyError("secret")

    monkeypatch.setattr(served.app, "stats", fail)
    assert await served.get("/api/stats", 500) == "the runtime made a mistake: KeyError; its log tells more"
