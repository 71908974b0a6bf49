"""What surrounds the process: signals under load, few descriptors, streams that are closed or full, a clock that jumps."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from faults import broken
from faults.ledger import FUNCTIONS, SINK, Connection, Ledger, check, drained, event, listing, lost, project, until
from running import COMMAND, Running, environment

pytestmark = pytest.mark.timeout(60)

MANY = 10**9  # events, so that the load lasts as long as the process

HELD = (
    "import asyncio\n"
    + FUNCTIONS
    + """

@function(on="held", concurrency=4, timeout=600)
async def held(data: int, context: Context) -> int:
    with open("attempts", "a") as file:
        file.write(f"{context.event.id} {context.attempt}\\n")
    while not os.path.exists("open"):
        await asyncio.sleep(0.01)
    return data
"""
)

HALF = b"POST /events/load HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"
CHUNKED = b"POST /events/load HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"


# --- signals ------------------------------------------------------------------------------------------


@asynccontextmanager
async def bystanders(web: str) -> AsyncIterator[None]:
    """Hold idle connections, requests that stand still in the middle of their body, and one whose body never ends."""
    url = urlsplit(web)

    async def stream(writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while True:
                writer.write(b"1\r\n \r\n")
                await writer.drain()
                await asyncio.sleep(0.02)

    writers = [(await asyncio.open_connection(url.hostname, url.port))[1] for _ in range(30)]
    for writer in writers[10:29]:
        writer.write(HALF)
    writers[29].write(CHUNKED)
    streaming = asyncio.create_task(stream(writers[29]))
    try:
        yield
    finally:
        streaming.cancel()
        for writer in writers:
            writer.close()


async def call(web: str, id: str) -> int:
    """Send an event of the type `held`, wait for its result, and return the status of the answer; 0 without one."""
    headers = {"ce-id": id, "ce-type": "held", "ce-source": "clients", "ce-specversion": "1.0"}
    async with httpx.AsyncClient(timeout=60) as client:
        try:
            return (await client.post(f"{web}/events?wait=50", json=1, headers=headers)).status_code
        except httpx.TransportError:
            return 0


async def load_and_hold(running: Running, ledger: Ledger, count: int, stop: int) -> list[int]:
    """Load the process in all ways at once until `count` events are accepted, send a signal, and return what waiting callers were told."""
    async with bystanders(running.web):
        callers = [asyncio.create_task(call(running.web, f"held-{number}")) for number in range(12)]
        while running.api.get("/api/stats").json()["accepted"] < 12:
            await asyncio.sleep(0.01)
        await ledger.load(running, count, end=stop)
        statuses = await asyncio.gather(*callers)
        await asyncio.to_thread(running.process.wait, 40)
        return statuses


def attempts(folder: Path) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for line in (folder / "attempts").read_text().splitlines():
        id, number = line.split()
        found.setdefault(id, []).append(int(number))
    return found


def check_resumed(folder: Path, ledger: Ledger) -> None:
    """See to it that a new process goes on with all that was accepted, and that nothing was charged an attempt."""
    (folder / "open").touch()
    with Running(folder) as running:
        check(running, ledger, others=("held",))
        assert {event["status"] for event in listing(running, type="held")} == {"done"}
        assert running.stop() == 0
    found = attempts(folder)
    assert set(found) == {f"held-{number}" for number in range(12)}
    assert {number for numbers in found.values() for number in numbers} == {1}
    assert sorted(map(len, found.values())) == [1] * 8 + [2] * 4


def test_sigterm_under_load_ends_within_grace_and_nothing_is_lost_or_charged(tmp_path: Path) -> None:
    ledger = Ledger()
    project(tmp_path, HELD, SINK + "[runtime]\ngrace = 1\n")
    with Running(tmp_path) as running:
        statuses = asyncio.run(load_and_hold(running, ledger, 200, signal.SIGTERM))
        assert running.stop() == 0
        assert set(statuses) == {503}
        assert "Traceback" not in running.log
    check_resumed(tmp_path, ledger)


def test_what_ends_within_grace_is_answered(tmp_path: Path) -> None:
    async def hold_then_open() -> list[int]:
        async with bystanders(running.web):
            callers = [asyncio.create_task(call(running.web, f"held-{number}")) for number in range(4)]
            while not (tmp_path / "attempts").exists() or len(attempts(tmp_path)) < 4:
                await asyncio.sleep(0.01)
            running.process.terminate()
            with suppress(OSError):
                while True:  # until it listens no more: it has taken the signal
                    async with Connection.open(running.web):
                        await asyncio.sleep(0.01)
            (tmp_path / "open").touch()
            return await asyncio.gather(*callers)

    project(tmp_path, HELD, SINK + "[runtime]\ngrace = 50\n")
    with Running(tmp_path) as running:
        assert asyncio.run(hold_then_open()) == [200] * 4
        assert running.process.wait(20) == 0


def test_a_second_sigterm_under_load_ends_it_at_once_and_nothing_is_lost(tmp_path: Path) -> None:
    async def signal_until_it_ends() -> None:
        while len(ledger.accepted) < 100:
            await asyncio.sleep(0.01)
        while running.process.poll() is None:
            running.process.terminate()
            await asyncio.sleep(0.005)

    async def load() -> list[int]:
        ending = asyncio.create_task(signal_until_it_ends())
        statuses = await load_and_hold(running, ledger, MANY, 0)
        await ending
        return statuses

    ledger = Ledger()
    project(tmp_path, HELD, SINK + "[runtime]\ngrace = 50\n")
    with Running(tmp_path) as running:
        assert set(asyncio.run(load())) <= {0, 503}
        assert running.process.wait(10) == 1
    check_resumed(tmp_path, ledger)


# --- descriptors --------------------------------------------------------------------------------------


@pytest.fixture
def crowd() -> Iterator[list[socket.socket]]:
    connections: list[socket.socket] = []
    yield connections
    for connection in connections:
        connection.close()


def is_answered(connection: socket.socket, id: str) -> bool | None:
    """Post an event over a connection; return whether it was accepted, None when the connection was closed instead."""
    head = f"POST /events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1\r\nce-id: {id}\r\n"
    try:
        connection.sendall(f"{head}ce-type: idle\r\nce-source: clients\r\nce-specversion: 1.0\r\n\r\n1".encode())
        answer = connection.recv(4096)
    except ConnectionError:
        return None
    return answer.startswith(b"HTTP/1.1 202 ") if answer else None


def seconds_of(process: int) -> float:
    """Return the seconds of CPU that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted in /proc")
def test_more_connections_than_descriptors_are_closed_and_all_else_goes_on(tmp_path: Path, crowd: list[socket.socket]) -> None:
    project(tmp_path, config=SINK + '[sinks.idle]\nplugin = "jsonl"\npath = "idle.jsonl"\non = "idle"\n')
    with Running(tmp_path, ("prlimit", "--nofile=64", *COMMAND)) as running:
        url = urlsplit(running.web)
        assert running.api.get("/api/stats").json()["accepted"] == 0  # over a connection that stays
        crowd += [socket.create_connection((url.hostname, url.port), timeout=10) for _ in range(200)]
        answers = {f"idle-{number}": is_answered(connection, f"idle-{number}") for number, connection in enumerate(crowd)}
        accepted = {id for id, answer in answers.items() if answer}
        assert 10 < len(accepted) < 64
        assert set(answers.values()) == {True, None}
        assert len(list(Path(f"/proc/{running.process.pid}/fd").iterdir())) == 64
        until(lambda: "files cannot be looked at" in running.log)  # the folder, which is not taken for empty
        assert {one["id"] for one in listing(running, type="idle")} == accepted
        before, began = seconds_of(running.process.pid), time.monotonic()
        until(lambda: time.monotonic() > began + 1)
        assert seconds_of(running.process.pid) - before < 0.7
        for connection in crowd:
            connection.close()
        ledger = Ledger()
        until(lambda: bool(asyncio.run(can_connect(running.web))))
        asyncio.run(ledger.load(running, 100, end=0))
        check(running, ledger, others=("idle",))
        health = running.api.get("/health").json()
        assert (health["status"], health["generation"]) == ("ok", 1)
        assert running.stop() == 0


async def can_connect(web: str) -> bool:
    try:
        async with Connection.open(web) as connection:
            await connection.post("again", "idle", 1)
    except (OSError, EOFError):
        return False
    return True


# --- streams ------------------------------------------------------------------------------------------

PRINTS = """
from runtime import Context, function


@function(on="say")
async def say(data: int, context: Context) -> int:
    print("printed")
    context.log.warning("logged")
    return data
"""

STREAMS = [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full", ">/dev/full 2>/dev/full"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("streams", STREAMS)
def test_streams_that_are_closed_or_full_do_not_matter(tmp_path: Path, streams: str) -> None:
    port = free_port()
    project(tmp_path, PRINTS, "")
    config = f'[sources.web]\nplugin = "http"\nlisten = "127.0.0.1:{port}"\n[admin]\nlisten = "127.0.0.1:0"\n'
    (tmp_path / "runtime.toml").write_text(config)
    with subprocess.Popen(["sh", "-c", f'exec "$@" {streams}', "sh", *COMMAND], cwd=tmp_path, env=environment()) as process:
        until(lambda: is_up(port) or process.poll() is not None)
        for number in range(20):
            answer = httpx.post(f"http://127.0.0.1:{port}/events/say?wait=10", json=number)
            assert (answer.status_code, answer.json()) == (200, number)
        process.terminate()
        assert process.wait(20) == 0
    assert (tmp_path / ".runtime" / "journal.db.lock").read_text() == str(process.pid)  # nothing was printed into a file
    with Running(tmp_path) as running:
        assert drained(running)["done"] == 20


def is_up(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


# --- the clock ----------------------------------------------------------------------------------------

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
needs_faketime = pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed")

LATER = """

@function(on="later")
async def later(data: int, context: Context) -> None:
    with open("began", "a") as file:
        file.write(f"{context.event.id}\\n")
"""

LATE_SINK = """
[sinks.late]
plugin = "jsonl"
path = "later.jsonl"
on = "later"
"""


class Jumper:
    """The wall clock of a process started by `command`."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.seconds = 0
        self.to(0)

    def command(self, command: tuple[str, ...] = COMMAND) -> tuple[str, ...]:
        """Return a command that lives by this clock."""
        fakes = (f"LD_PRELOAD={FAKETIME}", f"FAKETIME_TIMESTAMP_FILE={self._file}", "FAKETIME_NO_CACHE=1")
        return ("env", *fakes, "FAKETIME_DONT_FAKE_MONOTONIC=1", "DONT_FAKE_MONOTONIC=1", *command)

    def to(self, seconds: int) -> None:
        """Set the clock so many seconds before or after the true time."""
        self.seconds = seconds
        next_file = self._file.with_name("clock.next")
        next_file.write_text(f"{seconds:+d}\n")
        next_file.replace(self._file)

    def after(self, seconds: float) -> str:
        """Return the time in so many seconds by the true clock."""
        return datetime.fromtimestamp(time.time() + seconds, UTC).isoformat()


@pytest.mark.soak  # each look at this clock reads a file
@needs_faketime
def test_a_clock_that_jumps_under_load_changes_no_order_and_loses_nothing(tmp_path: Path) -> None:
    ledger, clock = Ledger(), Jumper(tmp_path)
    project(tmp_path, config=SINK + "[journal]\ndedupe = 86400\n")
    with Running(tmp_path, clock.command()) as running:
        for seconds in (3600, -3600, 60):
            clock.to(seconds)
            asyncio.run(ledger.load(running, 30, end=0, pause=0.3))
        check(running, ledger)
        uids = [one["uid"] for one in listing(running)]
        assert len(set(uids)) == len(uids)
        assert all(event(running, uid)["uid"] == uid for uid in uids[::50])
        assert running.api.get("/api/stats").json()["uptime"] > 0
        assert running.stop() == 0
    with Running(tmp_path) as running:
        assert lost(running, ledger) == set()


def post_due(running: Running, id: str, due: str) -> None:
    async def post_one() -> None:
        async with Connection.open(running.web) as connection:
            await connection.post(id, "later", 1, due=due)

    asyncio.run(post_one())


def ended(running: Running, *ids: str) -> bool:
    """Return whether these events alone have been run and written."""
    written, began = running.folder / "later.jsonl", running.folder / "began"
    ran = began.read_text().split() if began.exists() else []
    seen = {json.loads(line)["id"] for line in written.read_text().splitlines()} if written.exists() else set()
    assert set(ran) | seen <= set(ids)
    return set(ran) == seen == set(ids)


@needs_faketime
def test_a_delayed_event_keeps_to_the_wall_clock_whatever_that_does(tmp_path: Path) -> None:
    clock = Jumper(tmp_path)
    project(tmp_path, FUNCTIONS + LATER, LATE_SINK)
    with Running(tmp_path, clock.command()) as running:
        post_due(running, "near", clock.after(1.5))
        post_due(running, "behind", clock.after(110))
        post_due(running, "far", clock.after(3000))
        clock.to(-3600)
        until(lambda: time.time() > began_at(running, "near"))
        assert ended(running)
        clock.to(0)
        until(lambda: ended(running, "near"))
        clock.to(3600)
        until(lambda: ended(running, "near", "behind", "far"))
        assert running.stop() == 0


def began_at(running: Running, id: str) -> float:
    """Return a moment after the one at which an event is due by the true clock."""
    due = event(running, id)["event"]["due"]
    return datetime.fromisoformat(due).timestamp() + 0.3


@needs_faketime
def test_a_timer_that_trusts_the_first_look_at_the_clock_would_be_noticed(tmp_path: Path) -> None:
    clock = Jumper(tmp_path)
    project(tmp_path, FUNCTIONS + LATER)
    with Running(tmp_path, clock.command(broken.command("trusting"))) as running:
        post_due(running, "behind", clock.after(60))
        clock.to(3600)
        with pytest.raises(AssertionError, match="it never came to be"):
            until(lambda: event(running, "behind")["status"] == "done", seconds=3)
