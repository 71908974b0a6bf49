"""Somebody reads the journal for long: the log grows meanwhile, and nothing fails, stalls or stays large."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults.ledger import SINK, Connection, drained, listing, project
from running import Running

from runtime.journal.sqlite.journal import SMALL

pytestmark = pytest.mark.timeout(60)

MB = 1024 * 1024
PIECE = "x" * 250_000
CLIENTS = 8

BULK = """
from runtime import function


@function(on="bulk")
async def bulk(data: str) -> int:
    return len(data)
"""

READ = """
import sys, apsw

connection = apsw.Connection(sys.argv[1], flags=apsw.SQLITE_OPEN_READONLY)
connection.execute("BEGIN")
print(connection.execute("SELECT count(*) FROM events").fetchone(), flush=True)
sys.stdin.read()
"""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Hold a read transaction in another process."""
    with subprocess.Popen([sys.executable, "-c", READ, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        assert reader.stdin is not None
        assert reader.stdout.readline()
        yield
        reader.stdin.close()


class Bulk:
    """Posts large events and tells how long it took."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self.count = 0

    def post(self, megabytes: int) -> float:
        """Post so much; return the seconds."""

        async def client(share: int) -> None:
            async with Connection.open(self._running.web) as connection:
                for _ in range(share):
                    self.count += 1
                    await connection.post(f"bulk-{self.count}", "bulk", PIECE)

        async def all_clients() -> None:
            await asyncio.gather(*(client(megabytes * MB // len(PIECE) // CLIENTS) for _ in range(CLIENTS)))

        began = time.monotonic()
        asyncio.run(all_clients())
        return time.monotonic() - began

    def check(self) -> None:
        """See to it that all has been done."""
        assert drained(self._running)["done"] == self.count
        assert len(listing(self._running, type="bulk")) == self.count


def config_of(folder: Path) -> tuple[Path, Path]:
    project(folder, BULK, "[journal]\nkeep = 86400\n" + SINK)
    journal = folder / ".runtime" / "journal.db"
    return journal, journal.with_name("journal.db-wal")


def test_a_long_reader_makes_the_log_grow_stalls_nothing_and_it_is_cut_afterwards(tmp_path: Path) -> None:
    journal, log = config_of(tmp_path)
    with Running(tmp_path) as running:
        bulk = Bulk(running)
        alone = bulk.post(48)
        assert log.stat().st_size < SMALL
        with reading(journal):
            beside = bulk.post(48) + bulk.post(48)
            drained(running)
            assert log.stat().st_size > SMALL + 16 * MB
            later = bulk.post(16)
        assert beside < 2 * 5 * alone + 1
        assert later < 5 * alone + 1
        for _ in range(3):
            bulk.post(2)
            drained(running)
        assert log.stat().st_size <= SMALL
        assert journal.stat().st_size > 150 * MB
        bulk.check()
        assert running.stop() == 0
    assert not log.exists()


def test_those_who_look_all_the_time_do_not_make_the_log_grow(tmp_path: Path) -> None:
    _, log = config_of(tmp_path)
    ended = threading.Event()
    looks = 0

    def look() -> None:
        nonlocal looks
        while not ended.is_set():
            assert running.api.get("/api/events", params={"limit": "20"}).status_code == 200
            looks += 1

    with Running(tmp_path) as running:
        lookers = [threading.Thread(target=look) for _ in range(2)]
        for looker in lookers:
            looker.start()
        try:
            bulk = Bulk(running)
            largest = 0
            for _ in range(8):
                bulk.post(16)
                largest = max(largest, log.stat().st_size)
        finally:
            ended.set()
            for looker in lookers:
                looker.join()
        assert looks > 10
        assert largest < 2.75 * SMALL  # without being cut it is more than three times as much
        bulk.check()
        assert running.stop() == 0
