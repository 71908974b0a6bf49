"""A sink is down, slow, or takes only some of what it is given: others go on, memory is bounded, and it catches up in order."""

from __future__ import annotations

import json
import subprocess
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest
from faults import broken
from faults.ledger import drained, event, listing, plugin, project, until
from running import COMMAND, Running

pytestmark = pytest.mark.timeout(60)

COUNT = 20_000
KEYS = 1000

FUNCTIONS = """
from runtime import function


@function(on="line")
async def take(data: dict) -> None: ...
"""

SINKS = '''
import asyncio
from pathlib import Path

import msgspec

from runtime import Event, PartialFailure, Sink, hookimpl


class Lines(Sink):
    """Writes the numbers of events, one write a line; before there is a file `open` it is `down`, or `slow`."""

    class Options(msgspec.Struct, forbid_unknown_fields=True):
        path: str
        how: str = ""

    async def open(self) -> None:
        self.file = (self.folder / self.options.path).open("a", buffering=1)
        self.seen = set()

    async def write(self, events: list[Event]) -> None:
        while self.options.how == "slow" and not (self.folder / "open").exists():
            await asyncio.sleep(0.01)
        if self.options.how == "down" and not (self.folder / "open").exists():
            raise OSError("down")
        print(*(event.data["number"] for event in events), file=self.file)
        if self.options.how == "picky":
            first = {event.id: "not yet" for event in events if event.id not in self.seen and event.data["number"] % 3 == 0}
            self.seen.update(first)
            if first:
                raise PartialFailure(first)


@hookimpl
def register_sinks():
    return {"lines": Lines}
'''

CONFIG = """
[sources.lines]
plugin = "jsonl"
path = "in.jsonl"
type = "line"
{source}

[sinks.well]
plugin = "lines"
path = "well"
on = "line"
batch = 100

[sinks.ill]
plugin = "lines"
path = "ill"
on = "line"
{sink}
"""


def lines_project(folder: Path, count: int, sink: str, source: str = "") -> Path:
    """Write a project in which so many events go to a function and two sinks, of which `ill` is configured by the test."""
    project(folder, FUNCTIONS, CONFIG.format(source=source, sink=sink))
    plugin(folder, "lines", SINKS)
    data = ({"number": number, "key": f"key-{number % KEYS}", "text": "x" * 20} for number in range(count))
    (folder / "in.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in data))
    return folder


def written(path: Path) -> list[int]:
    """Return the numbers a sink has written, in order."""
    return [int(word) for word in path.read_text().split()]


def memory(running: Running) -> int:
    """Return the MB of memory that the process holds."""
    return int(subprocess.check_output(["ps", "-o", "rss=", "-p", str(running.process.pid)])) // 1024


def pile_up(folder: Path, sink: str, source: str = "", *, command: Sequence[str] = COMMAND) -> list[int]:
    """Let many events pile up before a sink, open it, and return what it has written in the end."""
    with Running(lines_project(folder, COUNT, sink, source), command) as running:
        until(lambda: len(written(folder / "well")) > COUNT // 4)
        before = memory(running)
        until(lambda: len(written(folder / "well")) == COUNT)
        grown = memory(running) - before
        assert grown < 30, f"{grown} MB more are in use, with {COUNT} events waiting for a sink"
        return caught_up(running, COUNT)


def catch_up(folder: Path, sink: str, source: str = "", *, command: Sequence[str]) -> list[int]:
    """Do the same with fewer events, and without a look at the memory."""
    with Running(lines_project(folder, 2 * KEYS, sink, source), command) as running:
        until(lambda: len(written(folder / "well")) == 2 * KEYS)
        return caught_up(running, 2 * KEYS)


def caught_up(running: Running, count: int) -> list[int]:
    """Open the sink when all others are done, and return what it has written in the end."""
    until(lambda: running.api.get("/api/stats").json()["accepted"] == count)
    assert running.api.get("/api/stats").json()["done"] == 0
    (running.folder / "open").touch()
    assert drained(running)["done"] == count
    found = written(running.folder / "ill")
    assert sorted(found) == sorted(written(running.folder / "well")) == list(range(count))
    assert running.stop() == 0
    return found


def check_keys(found: list[int]) -> None:
    """See to it that the events of each key were written in order."""
    keys = defaultdict(list)
    for number in found:
        keys[number % KEYS].append(number)
    assert all(numbers == sorted(numbers) for numbers in keys.values()), "a key is out of order"


DOWN = 'how = "down"\nbatch = 20\nretries = 10_000\nbackoff = 0.2\nbackoff_max = 0.5'

SLOW = 'how = "slow"\nbatch = 100\nconcurrency = 1'


def test_a_sink_that_is_down_holds_up_nobody_and_no_memory_and_catches_up_in_order_of_its_keys(tmp_path: Path) -> None:
    check_keys(pile_up(tmp_path, DOWN, 'key = "key"'))


def test_a_slow_sink_holds_up_nobody_and_no_memory_and_catches_up_in_order(tmp_path: Path) -> None:
    assert pile_up(tmp_path, SLOW) == list(range(COUNT))


def test_memory_that_grows_with_what_waits_for_a_sink_would_be_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="MB more are in use"):
        pile_up(tmp_path, SLOW, command=broken.command("hoarding"))


def test_a_key_that_is_not_held_before_a_sink_would_be_noticed(tmp_path: Path) -> None:
    found = catch_up(tmp_path, DOWN, 'key = "key"', command=broken.command("loose"))
    with pytest.raises(AssertionError, match="a key is out of order"):
        check_keys(found)


def test_a_sink_that_is_given_what_came_last_first_would_be_noticed(tmp_path: Path) -> None:
    found = catch_up(tmp_path, SLOW, command=broken.command("jumbled"))
    assert found != sorted(found)


def fail_partly(folder: Path, command: Sequence[str] = COMMAND) -> None:
    sink = 'how = "picky"\nbatch = 10\nbackoff = 0.2'
    with Running(lines_project(folder, 100, sink), command) as running:
        assert drained(running)["done"] == 100
        times = Counter(written(folder / "ill"))
        assert times == {number: 1 + (number % 3 == 0) for number in range(100)}, "others than those that failed were written again"
        assert max(len(line.split()) for line in (folder / "ill").read_text().splitlines()) == 10
        for one in listing(running):
            steps = {step["function"]: step for step in event(running, one["uid"])["steps"]}
            number = event(running, one["uid"])["event"]["data"]["number"]
            assert (steps["ill"]["status"], steps["ill"]["attempts"]) == ("done", times[number])
            assert (steps["well"]["attempts"], steps["take"]["attempts"]) == (1, 1)
        assert running.stop() == 0


def test_of_a_batch_only_the_events_that_failed_are_written_again(tmp_path: Path) -> None:
    fail_partly(tmp_path)


def test_a_batch_that_fails_as_a_whole_would_be_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="others than those that failed"):
        fail_partly(tmp_path, broken.command("wholesale"))
