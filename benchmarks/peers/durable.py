"""Queues and workflows that survive the process, on SQLite: events per second from the first call to the last recorded end."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.peers.queues import Countdown


def through_huey(queue: Any, count: int) -> float:
    """Return events per second through a huey and its consumer of one thread."""
    last = Countdown(count)

    @queue.task()
    def nothing(data: dict[str, Any]) -> None:
        last.tick()

    consumer = queue.create_consumer(workers=1, initial_delay=0.001, max_delay=0.001, check_worker_health=False)
    consumer.start()
    began = time.perf_counter()
    for number in range(count):
        nothing({"n": number})
    last.wait()
    rate = count / (time.perf_counter() - began)
    consumer.stop()
    return rate


def huey(count: int) -> float:
    """Use `SqliteHuey` with an fsync at each commit."""
    from huey import SqliteHuey

    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        return through_huey(SqliteHuey(filename=str(Path(folder) / "huey.db"), fsync=True), count)


def litequeue(count: int) -> float:
    """Put, take and end messages of litequeue, which has no worker: one after another, as it comes (no fsync at each commit)."""
    from litequeue import LiteQueue

    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        queue = LiteQueue(str(Path(folder) / "queue.db"))
        began = time.perf_counter()
        for _ in range(count):
            queue.put('{"n": 1}')
        for _ in range(count):
            queue.done(queue.pop().message_id)
        return count / (time.perf_counter() - began)


def persistqueue(count: int) -> float:
    """Put, take and acknowledge items of the `SQLiteAckQueue` of persist-queue, which has no worker either."""
    from persistqueue import SQLiteAckQueue

    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        queue = SQLiteAckQueue(folder, auto_commit=True)
        began = time.perf_counter()
        for _ in range(count):
            queue.put({"n": 1})
        for _ in range(count):
            queue.ack(queue.get())
        return count / (time.perf_counter() - began)


def dbos(count: int, steps: int) -> float:
    """Run workflows of so many steps on SQLite, all started before the first is waited for."""
    from dbos import DBOS

    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        DBOS(config={"name": "bench", "system_database_url": f"sqlite:///{folder}/dbos.db", "log_level": "ERROR"})

        @DBOS.step()
        def step(data: dict[str, Any]) -> dict[str, Any]:
            return data

        @DBOS.workflow()
        def chain(data: dict[str, Any]) -> dict[str, Any]:
            for _ in range(steps):
                data = step(data)
            return data

        DBOS.launch()
        began = time.perf_counter()
        for handle in [DBOS.start_workflow(chain, {"n": number}) for number in range(count)]:
            handle.get_result()
        rate = count / (time.perf_counter() - began)
        DBOS.destroy()
        return rate
