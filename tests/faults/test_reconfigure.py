"""The configuration and a plugin are saved under load: no event is lost or written twice, and no connection is dropped."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import httpx
import pytest
from faults import broken
from faults.ledger import ADDRESSES, Connection, drained, listing, plugin, project, until
from running import COMMAND, Running

pytestmark = pytest.mark.timeout(60)

KEYS = 8
SWAPS = 6

FUNCTIONS = """
from runtime import function


@function(on="line")
async def take(data: int) -> int:
    return data
"""

PLUGIN = '''
import asyncio

import msgspec

from runtime import Event, Sink, hookimpl


class Slow(Sink):
    """Writes the key and the number of each event in a moment, and when it is opened and closed, all with its name."""

    class Options(msgspec.Struct, forbid_unknown_fields=True):
        path: str
        name: str

    def note(self, *words: object) -> None:
        with (self.folder / self.options.path).open("a") as file:
            print(*words, self.options.name, file=file)

    async def open(self) -> None:
        self.note("open")

    async def write(self, events: list[Event]) -> None:
        await asyncio.sleep(0.01)
        for event in events:
            self.note(event.key, event.data)

    async def close(self) -> None:
        self.note("close")


@hookimpl
def register_sinks():
    return {"slow": Slow}
'''

SINK = '\n[sinks.out]\nplugin = "slow"\npath = "out"\nname = "%s"\non = "line"\nconcurrency = 4\nbatch = 3\nbatch_wait = 0\n'

HEAD = b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1\r\n\r\n7"


def save(folder: Path, config: str) -> None:
    (folder / "runtime.toml").write_text(ADDRESSES + config)


def lines(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "out").read_text().splitlines()]


def is_open(folder: Path, number: int) -> bool:
    return ["open", str(number)] in lines(folder)


async def load(web: str, stop: asyncio.Event, key: int) -> int:
    """Post the numbers of a key one after another, and return how many were accepted."""
    number = 0
    async with Connection.open(web) as connection:
        while not stop.is_set():
            number += 1
            await connection.post(f"{key}-{number}", "line", number, partitionkey=str(key))
    return number


async def swap_under_load(running: Running) -> list[int]:
    """Save another sink again and again while clients post, and return how many events of each key were accepted."""
    stop = asyncio.Event()
    clients = [asyncio.create_task(load(running.web, stop, key)) for key in range(KEYS)]
    for number in range(1, SWAPS + 1):
        save(running.folder, SINK % number)
        await asyncio.to_thread(until, partial(is_open, running.folder, number))
    stop.set()
    return await asyncio.gather(*clients)


def check_swaps(folder: Path, command: Sequence[str] = COMMAND) -> None:
    plugin(folder, "slow", PLUGIN)
    with Running(project(folder, FUNCTIONS, SINK % 0), command) as running:
        accepted = asyncio.run(swap_under_load(running))
        assert drained(running)["done"] == sum(accepted)
        written: defaultdict[int, list[int]] = defaultdict(list)
        turns: list[list[str]] = []
        for line in lines(folder):
            if line[0] in ("open", "close"):
                turns.append(line)
            else:
                assert turns[-1] == ["open", line[2]], f"{line[2]} wrote after {turns[-1]}"
                written[int(line[0])].append(int(line[1]))
        assert turns == [[word, str(number)] for number in range(SWAPS + 1) for word in ("open", "close")][:-1]
        doubled = [number for numbers in written.values() for number, count in Counter(numbers).items() if count > 1]
        assert not doubled, f"{len(doubled)} were written twice"
        assert written == {key: list(range(1, count + 1)) for key, count in enumerate(accepted)}, "lost, or out of order"
        assert running.stop() == 0


def test_a_sink_that_is_swapped_under_load_loses_nothing_and_writes_nothing_twice(tmp_path: Path) -> None:
    check_swaps(tmp_path)


def test_a_sink_that_is_swapped_without_waiting_for_its_writes_would_be_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"\d wrote after"):
        check_swaps(tmp_path, broken.command("impatient"))


def test_a_kill_in_the_middle_of_swaps_loses_nothing(tmp_path: Path) -> None:
    plugin(tmp_path, "slow", PLUGIN)
    accepted = [0] * KEYS

    async def client(web: str, key: int) -> None:
        try:
            async with Connection.open(web) as connection:
                while True:
                    number = accepted[key] + 1
                    await connection.post(f"{key}-{number}", "line", number, partitionkey=str(key))
                    accepted[key] = number
        except (OSError, EOFError):
            return

    async def swap(running: Running) -> None:
        clients = [asyncio.create_task(client(running.web, key)) for key in range(KEYS)]
        for number in range(2):
            save(tmp_path, SINK % f"{running.process.pid}-{number}")
            await asyncio.sleep(0.15)
        running.stop(signal.SIGKILL)
        await asyncio.gather(*clients)

    project(tmp_path, FUNCTIONS, SINK % "first")
    for _ in range(3):
        with Running(tmp_path) as running:
            asyncio.run(swap(running))
    with Running(tmp_path) as running:
        stats = drained(running)
        assert stats["dead"] == stats["unrouted"] == 0
        there = {(int(line[0]), int(line[1])) for line in lines(tmp_path) if line[0] not in ("open", "close")}
        assert {(key, number) for key, count in enumerate(accepted) for number in range(1, count + 1)} <= there


def test_a_connection_that_is_kept_sees_its_routes_change_and_a_mistake_changes_nothing(tmp_path: Path) -> None:
    routes = '\n[sources.web.routes."/%s"]\ntype = "line"\nreply = "result"\n'
    folder = project(tmp_path, FUNCTIONS, routes % "a")
    with Running(folder) as running:

        async def talk() -> None:
            async with Connection.open(running.web) as connection:

                async def status(path: bytes) -> int:
                    connection._writer.write(HEAD % path)
                    head = (await connection._reader.readuntil(b"\r\n\r\n")).decode().lower()
                    await connection._reader.readexactly(int(head.partition("content-length: ")[2].split()[0]))
                    return int(head.split()[1])

                async def becomes(path: bytes, wanted: int) -> None:
                    async with asyncio.timeout(20):
                        while await status(path) != wanted:
                            await asyncio.sleep(0.01)

                assert (await status(b"/a"), await status(b"/b")) == (200, 404)
                save(folder, routes % "b")
                await becomes(b"/b", 200)
                assert await status(b"/a") == 404
                save(folder, routes % "c" + "metods = []\n")
                await asyncio.to_thread(until, lambda: bool(health(running)))
                assert [(one["where"], "unknown key" in one["message"]) for one in health(running)] == [
                    ('runtime.toml [sources.web.routes."/c"] metods', True)
                ]
                assert (await status(b"/b"), await status(b"/c")) == (200, 404)
                save(folder, routes % "c")
                await becomes(b"/c", 200)
                assert health(running) == []

        asyncio.run(talk())
        assert running.log.count("unknown key") == 1
        assert running.stop() == 0


def health(running: Running) -> list[dict[str, str]]:
    faults: list[dict[str, str]] = running.api.get("/health").json()["faults"]
    return faults


def test_what_is_logged_and_how_changes_at_once_and_an_address_that_is_taken_is_told(tmp_path: Path) -> None:
    folder = project(tmp_path, FUNCTIONS, "")
    with Running(folder) as running:
        save(folder, '[log]\nformat = "json"\n')
        until(lambda: '"level":"info"' in running.log)
        line = json.loads(next(line for line in running.log.splitlines() if line.startswith("{")))
        assert line["message"] == "runtime.toml: changed [log] format"
        taken = httpx.URL(running.banner["admin"]).port
        save(folder, f'[sources.second]\nplugin = "http"\nlisten = "127.0.0.1:{taken}"\n')
        until(lambda: bool(health(running)))
        assert [one["where"] for one in health(running)] == ["sources.second"]
        assert "Address already in use" in health(running)[0]["message"]
        save(folder, "")
        until(lambda: not health(running))
        assert listing(running) == []
        assert running.stop() == 0
