"""Task queues in memory: events per second from the first call to the last end, of a task that does nothing."""

from __future__ import annotations

import threading
import time
from typing import Any


async def taskiq(count: int) -> float:
    """Use the `InMemoryBroker`: a task of the loop for each call."""
    from taskiq import InMemoryBroker

    broker = InMemoryBroker()

    @broker.task
    async def nothing(data: dict[str, Any]) -> None: ...

    await broker.startup()
    began = time.perf_counter()
    for number in range(count):
        await nothing.kiq({"n": number})
    await broker.wait_all()
    rate = count / (time.perf_counter() - began)
    await broker.shutdown()
    return rate


def huey(count: int) -> float:
    """Use `MemoryHuey` with a consumer of one thread."""
    from huey import MemoryHuey

    from benchmarks.peers.durable import through_huey

    return through_huey(MemoryHuey(), count)


def dramatiq(count: int) -> float:
    """Use the `StubBroker` with a worker of one thread."""
    import dramatiq as module
    from dramatiq.brokers.stub import StubBroker

    broker = StubBroker()
    module.set_broker(broker)
    last = Countdown(count)

    @module.actor
    def nothing(data: dict[str, Any]) -> None:
        last.tick()

    worker = module.Worker(broker, worker_threads=1)
    worker.start()
    began = time.perf_counter()
    for number in range(count):
        nothing.send({"n": number})
    last.wait()
    rate = count / (time.perf_counter() - began)
    worker.stop()
    return rate


def celery(count: int) -> float:
    """Use the transport in memory with a worker of one thread."""
    from celery import Celery
    from celery.contrib.testing.worker import start_worker

    app = Celery(broker="memory://", set_as_current=False)
    app.conf.task_ignore_result = True
    last = Countdown(count)

    @app.task
    def nothing(data: dict[str, Any]) -> None:
        last.tick()

    with start_worker(app, pool="solo", perform_ping_check=False, loglevel="error"):
        began = time.perf_counter()
        for number in range(count):
            nothing.delay({"n": number})
        last.wait()
        return count / (time.perf_counter() - began)


class Countdown:
    """Tells when a task has been called so often; called by one thread."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._done = threading.Event()

    def tick(self) -> None:
        """Count one call."""
        self._left -= 1
        if not self._left:
            self._done.set()

    def wait(self) -> None:
        """Return when it has been called so often.

        Raises:
            TimeoutError: it was not within a minute.
        """
        if not self._done.wait(60):
            raise TimeoutError(f"{self._left} calls are still missing")
