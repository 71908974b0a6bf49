"""Every sink passes the suite, and the suite finds a sink that breaks its contract."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
import pytest_asyncio
from aiohttp import web
from runtime_plugins.console import Console
from runtime_plugins.jsonl import JsonlSink
from runtime_plugins.webhook import Webhook

from runtime import Event, PartialFailure, Sink, cloudevents
from runtime.testing import SinkSuite


class TestJsonl(SinkSuite):
    bad_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {"path": {"path": ""}, "paht": {"path": "a", "paht": "b"}}

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.place = tmp_path / "out"

    def make(self) -> tuple[type[Sink], Mapping[str, Any]]:
        return JsonlSink, {"path": "out/events.jsonl"}

    async def received(self) -> list[Event]:
        return [cloudevents.decode(line) for line in (self.place / "events.jsonl").read_bytes().splitlines()]

    async def fail(self) -> None:
        self.place.rename(self.folder / "aside")
        self.place.write_text("no folder any more")

    async def recover(self) -> None:
        self.place.unlink()
        shutil.move(self.folder / "aside", self.place)


class TestConsole(SinkSuite):
    load = 100  # what a pipe takes without a reader
    bad_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {"color": {"color": True}}

    @pytest.fixture(autouse=True)
    def _place(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        out, into = os.pipe()
        os.set_blocking(out, False)
        self.out, self.text = out, b""
        with os.fdopen(into, "w") as stdout:
            self.stdout = stdout
            self.patch = monkeypatch
            yield
        os.close(out)

    def make(self) -> tuple[type[Sink], Mapping[str, Any]]:
        self.patch.setattr(sys, "stdout", self.stdout)  # later than the fixture, behind which pytest sets its own
        return Console, {}

    async def received(self) -> list[Event]:
        try:
            while part := os.read(self.out, 65536):
                self.text += part
        except BlockingIOError:
            pass
        return [cloudevents.decode(line) for line in self.text.splitlines()]

    async def fail(self) -> None:
        self.patch.setattr(sys, "stdout", None)

    async def recover(self) -> None:
        self.patch.setattr(sys, "stdout", self.stdout)


class TestWebhook(SinkSuite):
    bad_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {"url": {"url": "nowhere"}, "mode": {"url": "http://localhost", "mode": "x"}}
    mode = "structured"

    @pytest_asyncio.fixture(autouse=True)
    async def _place(self) -> AsyncIterator[None]:
        self.events: list[Event] = []
        self.status = 202
        app = web.Application()
        app.router.add_post("/", self.take)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        self.url = f"http://{host}:{port}/"
        yield
        await runner.cleanup()

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self.status == 202:
            found = cloudevents.from_http({name.lower(): value for name, value in request.headers.items()}, body)
            self.events += found if isinstance(found, list) else [found]
        return web.Response(status=self.status)

    def make(self) -> tuple[type[Sink], Mapping[str, Any]]:
        return Webhook, {"url": self.url, "mode": self.mode}

    async def received(self) -> list[Event]:
        return self.events

    async def fail(self) -> None:
        self.status = 503

    async def recover(self) -> None:
        self.status = 202


class TestWebhookInBatches(TestWebhook):
    mode = "batch"


class TestWebhookInHeaders(TestWebhook):
    mode = "binary"
    lossless = False  # headers are text: numbers and truth values come back as such


# --- the suite itself ---------------------------------------------------------------------------------


class Shelf(Sink):
    """Puts events on a shelf that all instances share; while it is full nothing goes on it."""

    shelf: ClassVar[list[Event]] = []
    full: ClassVar[list[bool]] = [False]

    async def write(self, events: list[Event]) -> None:
        if self.full[0]:
            raise OSError("the shelf is full")
        await self.put(events)

    async def put(self, events: list[Event]) -> None:
        self.shelf.extend(events)


class Late(Shelf):
    """Is done before the events are safe."""

    async def put(self, events: list[Event]) -> None:
        asyncio.get_running_loop().call_later(0.01, self.shelf.extend, events)


class Lossy(Shelf):
    """Loses extensions."""

    async def put(self, events: list[Event]) -> None:
        self.shelf.extend(msgspec.structs.replace(event, extensions={}) for event in events)


class Backwards(Shelf):
    """Writes the last first."""

    async def put(self, events: list[Event]) -> None:
        self.shelf.extend(reversed(events))


class Silent(Shelf):
    """Says nothing of what it could not write."""

    async def write(self, events: list[Event]) -> None:
        if not self.full[0]:
            self.shelf.extend(events)


class Slanderous(Shelf):
    """Says that events have failed which it was not given."""

    async def write(self, events: list[Event]) -> None:
        if self.full[0]:
            raise PartialFailure({"nobody": "failed"})
        self.shelf.extend(events)


class Picky(Shelf):
    """Takes an event only the first time it sees it."""

    def __init__(self, name: str, options: Any) -> None:
        super().__init__(name, options)
        self.seen: set[str] = set()

    async def write(self, events: list[Event]) -> None:
        new = [event for event in events if event.id not in self.seen]
        self.seen |= {event.id for event in events}
        await asyncio.sleep(0)
        await super().write(new)


class Fresh(Shelf):
    """Clears the shelf when it opens."""

    async def open(self) -> None:
        self.shelf.clear()


class Mixing(Shelf):
    """Lets writes at the same time get among each other."""

    async def put(self, events: list[Event]) -> None:
        await asyncio.sleep(0)
        for event in reversed(events):
            self.shelf.append(event)
            await asyncio.sleep(0)


class Single(Shelf):
    """Cannot be closed without a write."""

    file: Any = None

    async def put(self, events: list[Event]) -> None:
        self.file = True
        await super().put(events)

    async def close(self) -> None:
        assert self.file is not None


class TestShelf(SinkSuite):
    """The sink that the broken ones are made of keeps the contract."""

    kind: ClassVar[type[Shelf]] = Shelf

    @pytest.fixture(autouse=True)
    def _place(self) -> None:
        self.clear()

    def clear(self) -> None:
        Shelf.shelf.clear()
        Shelf.full[0] = False

    def make(self) -> tuple[type[Sink], Mapping[str, Any]]:
        return self.kind, {}

    async def received(self) -> list[Event]:
        return list(Shelf.shelf)

    async def fail(self) -> None:
        Shelf.full[0] = True

    async def recover(self) -> None:
        Shelf.full[0] = False


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (Late, "test_what_is_written_is_there_when_write_returns"),
        (Lossy, "test_events_of_all_kinds_arrive_as_they_were"),
        (Backwards, "test_what_is_written_is_there_when_write_returns"),
        (Silent, "test_a_write_that_fails_says_so_and_is_made_good"),
        (Slanderous, "test_a_write_that_fails_says_so_and_is_made_good"),
        (Picky, "test_a_write_that_fails_says_so_and_is_made_good"),
        (Picky, "test_a_write_that_is_cancelled_harms_no_other"),
        (Fresh, "test_what_an_instance_before_has_written_is_still_there"),
        (Mixing, "test_writes_at_the_same_time_do_not_mix"),
        (Single, "test_it_opens_and_closes_without_a_write_and_again"),
    ],
)
async def test_the_suite_finds_a_sink_that_breaks_its_contract(broken: type[Shelf], test: str) -> None:
    suite = type("Suite", (TestShelf,), {"kind": broken})()
    suite.clear()
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        await getattr(suite, test)()
