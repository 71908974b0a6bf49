"""What clients know: which events were accepted, and what must be true of them whatever happened to the process."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from running import COMMAND, Running

CLIENTS = 64

FUNCTIONS = """
import os

from runtime import Context, Reject, function

TRACE = os.open("trace", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@function(on="load")
async def first(data: dict, context: Context) -> int:
    os.write(TRACE, f"{context.event.key} {data['number']}\\n".encode())
    return data["number"]


@function(after="first", backoff=0.02)
async def second(first: int, context: Context) -> int:
    if first % 7 == 3:
        raise Reject("never")
    if first % 7 == 5 and context.attempt == 1:
        raise OSError("not now")
    return first


@function(after=["first", "second"], emits="loaded")
async def third(first: int, second: int) -> int:
    assert first == second
    return first
"""

ADDRESSES = """
[sources.web]
plugin = "http"
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
"""

SINK = """
[sinks.out]
plugin = "jsonl"
path = "out.jsonl"
on = "loaded"
"""


def project(folder: Path, functions: str = FUNCTIONS, config: str = SINK) -> Path:
    """Write a project and return its folder."""
    (folder / "functions").mkdir(parents=True)
    (folder / "functions" / "load.py").write_text(functions)
    (folder / "runtime.toml").write_text(ADDRESSES + config)
    return folder


def plugin(folder: Path, name: str, text: str) -> None:
    """Write a plugin into a project."""
    (folder / "plugins").mkdir(exist_ok=True)
    (folder / "plugins" / f"{name}.py").write_text(text)


class Refused(Exception):
    """Raised when an event was not accepted; `retry_after` is what the answer says."""

    def __init__(self, status: int, retry_after: str | None) -> None:
        super().__init__(f"{status}, Retry-After: {retry_after}")
        self.status = status
        self.retry_after = retry_after


class Connection:
    """A connection that is kept open, for as little work a post as can be."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    @asynccontextmanager
    async def open(cls, web: str) -> AsyncIterator[Connection]:
        url = urlsplit(web)
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def post(self, id: str, type: str, data: Any, **more: object) -> None:
        """Post an event; raises `Refused` when the answer is not 202, and `OSError` or `EOFError` when there is none."""
        body = json.dumps(data).encode()
        headers = {"id": id, "type": type, "source": "clients", "specversion": "1.0", **more}
        lines = ["POST /events HTTP/1.1", "host: localhost", "content-type: application/json", f"content-length: {len(body)}"]
        lines += [f"ce-{name}: {value}" for name, value in headers.items()]
        self._writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await self._writer.drain()
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        answer = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        await self._reader.readexactly(int(answer.get("content-length", 0)))
        status = int(head.split()[1])
        if status != 202:
            raise Refused(status, answer.get("retry-after"))


def post(running: Running, *events: tuple[str, str]) -> None:
    """Post events of the given ids and types one after another, with the data 1."""

    async def post_all() -> None:
        async with Connection.open(running.web) as connection:
            for id, type in events:
                await connection.post(id, type, 1)

    asyncio.run(post_all())


class Ledger:
    """The log of 64 clients: each posts the events of one key, one after another, and repeats what was not answered."""

    def __init__(self) -> None:
        self.accepted: set[str] = set()
        self.refused: list[Refused] = []
        self._numbers = [1] * CLIENTS
        self._goal = 0
        self._reached = asyncio.Event()

    def accept(self, id: str) -> None:
        self.accepted.add(id)
        if len(self.accepted) >= self._goal:
            self._reached.set()

    async def _client(self, web: str, key: int) -> None:
        try:
            async with Connection.open(web) as connection:
                while True:
                    number = self._numbers[key]
                    await connection.post(f"{key}-{number}", "load", {"number": number}, partitionkey=f"key-{key}")
                    self.accept(f"{key}-{number}")
                    self._numbers[key] += 1
        except Refused as refused:
            self.refused.append(refused)
        except (OSError, EOFError):
            return

    async def load(self, running: Running, count: int, end: int = signal.SIGKILL, pause: float = 0.0) -> None:
        """Post until `count` more events are accepted and some seconds have passed, then send the process a signal; 0 sends none."""
        self._goal = len(self.accepted) + count
        self._reached = asyncio.Event()
        clients = [asyncio.create_task(self._client(running.web, key)) for key in range(CLIENTS)]
        ended = asyncio.create_task(asyncio.wait(clients))
        reached = asyncio.create_task(self._reached.wait())
        await asyncio.wait([ended, reached], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(pause)
        reached.cancel()
        if not end:
            for client in clients:
                client.cancel()
        elif running.process.poll() is None:
            os.killpg(running.process.pid, end)
        for result in await asyncio.gather(*clients, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
        await ended


def crash(folder: Path, ledger: Ledger, kills: int, dice: random.Random, command: Sequence[str] = COMMAND, most: int = 150) -> None:
    """Start the process, load it and kill it at a random moment, so many times."""
    for _ in range(kills):
        with Running(folder, command) as running:
            asyncio.run(ledger.load(running, dice.randint(20, most), pause=dice.random() * 0.02))


def until(is_so: Callable[[], bool], seconds: float = 20) -> None:
    """Return when something can be seen from outside to be so."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.01)


def drained(running: Running, seconds: float = 40) -> dict[str, Any]:
    """Return the counts when nothing waits any more."""
    stats: dict[str, Any] = {}

    def is_drained() -> bool:
        stats.update(running.api.get("/api/stats").json())
        return not (stats["queued"] or stats["running"] or stats["retrying"])

    try:
        until(is_drained, seconds)
    except AssertionError:
        raise AssertionError(f"not drained: {stats}") from None
    return stats


def event(running: Running, id: str) -> dict[str, Any]:
    """Return an event as the admin API shows it."""
    found: dict[str, Any] = running.api.get(f"/api/events/{id}").json()
    return found


def listing(running: Running, **query: str) -> list[dict[str, Any]]:
    """Return all events, the oldest first."""
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = running.api.get("/api/events", params={"limit": "1000", **query, **cursor}).json()
        found += page["events"]
        if page["cursor"] is None:
            return found[::-1]
        cursor = {"cursor": page["cursor"]}


def lost(running: Running, ledger: Ledger) -> set[str]:
    """Return which accepted events the journal knows nothing of."""
    return ledger.accepted - {event["id"] for event in listing(running, type="load")}


def check(running: Running, ledger: Ledger, others: Sequence[str] = ()) -> None:
    """See to it that every accepted event has ended as it should, once, and in the order of its key; `others` are further types."""
    missing = lost(running, ledger)
    assert not missing, f"{len(missing)} of {len(ledger.accepted)} accepted events are lost: {sorted(missing)[:10]}"
    stats = drained(running, 20)
    loads, loaded = listing(running, type="load"), listing(running, type="loaded")
    twice = [id for id, count in Counter(event["id"] for event in loads + loaded).items() if count > 1]
    assert not twice, f"accepted or emitted twice: {twice[:10]}"
    wrong = [(event["id"], event["status"], event["error"]) for event in loads if event["status"] != expected(event["id"])]
    assert not wrong, f"ended otherwise than they should: {wrong[:10]}"
    done = sum(event["status"] == "done" for event in loads)
    assert len(loaded) == done, f"{done} events are done, and have emitted {len(loaded)}"
    further = sum(len(listing(running, type=type)) for type in others)
    assert stats["accepted"] == len(loads) + len(loaded) + further
    assert stats["done"] + stats["dead"] == stats["accepted"]
    check_order(running.folder / "trace")
    check_sink(running.folder / "out.jsonl", {event["id"] for event in loaded})


def expected(id: str) -> str:
    return "dead" if int(id.partition("-")[2]) % 7 == 3 else "done"


def check_order(trace: Path) -> None:
    """See to it that the events of a key started in order; a crash may start the last one again."""
    last: dict[str, int] = {}
    for line in trace.read_text().splitlines():
        key, number = line.split()
        before = last.get(key, 0)
        assert int(number) in (before, before + 1), f"{key}: {number} started after {before}"
        last[key] = int(number)


def check_sink(path: Path, ids: set[str]) -> None:
    """See to it that every emitted event is at the sink; a kill may have cut a line, which was then written again."""
    found = set()
    for line in path.read_text().splitlines():
        try:
            found.add(json.loads(line)["id"])
        except ValueError:
            continue
    assert found == ids, f"{len(ids - found)} are not at the sink, {len(found - ids)} should not be"
