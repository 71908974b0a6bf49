"""Far more events wait than are kept in memory when the process starts: order and priority are those of all of them."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from faults.ledger import Connection, drained, project, until
from running import Running

pytestmark = pytest.mark.timeout(60)

COUNT = 20_000

FUNCTIONS = """
import asyncio
import os
from pathlib import Path

from runtime import function

TRACE = os.open("trace", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@function(on="line", concurrency=1)
async def line(data: dict) -> None:
    while not Path("open").exists():
        await asyncio.sleep(0.01)
    os.write(TRACE, f"{data['number']}\\n".encode())
"""

CONFIG = """
[dispatch]
order = "priority"
aging = 0
[sources.lines]
plugin = "jsonl"
path = "in.jsonl"
type = "line"
"""


def test_a_long_backlog_is_worked_off_in_order_and_an_urgent_event_overtakes_it(tmp_path: Path) -> None:
    async def post_urgent() -> None:
        async with Connection.open(running.web) as connection:
            await connection.post("urgent", "line", {"number": -1}, priority=9)

    project(tmp_path, FUNCTIONS, CONFIG)
    (tmp_path / "in.jsonl").write_text("".join(f'{{"number": {number}}}\n' for number in range(COUNT)))
    with Running(tmp_path) as running:
        until(lambda: running.api.get("/api/stats").json()["accepted"] == COUNT)
        running.stop(signal.SIGKILL)
    with Running(tmp_path) as running:
        until(lambda: running.api.get("/api/stats").json()["running"] == 1)
        asyncio.run(post_urgent())
        (tmp_path / "open").touch()
        drained(running)
        assert list(map(int, (tmp_path / "trace").read_text().splitlines())) == [0, -1, *range(1, COUNT)]
        assert running.stop() == 0
