"""How long an event takes on SQLite at a steady 20,000 a second: sent to accepted (fsync), and sent to recorded as done.

Another process sends the moments by a pipe, each that of one event, so that nothing here decides when an event comes. An
event that has to wait because the loop is busy is charged that.
"""

from __future__ import annotations

import asyncio
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks import bare
from benchmarks.children import run
from benchmarks.ours import SQLITE, project, running
from benchmarks.sheet import Sheet
from runtime import Event, Inlet

RATE = 20_000
TICKS = 1000  # a second
WARM = 1.0  # seconds that are not counted

SENDER = """
import os, struct, sys, time
rate, ticks, seconds = map(float, sys.argv[1:])
each = int(rate / ticks)
began = time.monotonic()
for tick in range(int(seconds * ticks)):
    time.sleep(max(0.0, began + tick / ticks - time.monotonic()))
    os.write(1, struct.pack("d", time.monotonic()) * each)
"""

ENDS = """
from runtime import hookimpl
from benchmarks.subjects.latency import DONE
import time

@hookimpl
def run_finished(event, status):
    DONE.append((event.data["sent"], time.monotonic()))
"""

Moments = list[tuple[float, float]]
ACCEPTED: Moments = []  # when it was sent, and when it was there
DONE: Moments = []


async def receive(stream: asyncio.StreamReader, inlet: Inlet) -> None:
    """Put an event for each moment that is sent, each by a task of its own; return when all are accepted."""

    async def put(sent: float) -> None:
        await inlet.put(Event(type="go", source="bench", data={"sent": sent}))
        ACCEPTED.append((sent, time.monotonic()))

    async with asyncio.TaskGroup() as puts:
        rest = b""
        while data := await stream.read(2**16):
            data = rest + data
            whole = len(data) // 8 * 8
            rest = data[whole:]
            for (sent,) in struct.iter_unpack("d", data[:whole]):
                puts.create_task(put(sent))


def late(moments: Moments) -> list[float]:
    """Return the 50th and 99th percentile in milliseconds, without those of the first second."""
    begin = moments[0][0] + WARM
    taken = [1000 * (there - sent) for sent, there in moments if sent >= begin]
    cuts = statistics.quantiles(taken, n=100)
    return [cuts[49], cuts[98]]


async def ours(rate: int, seconds: float) -> list[float]:
    """Return what `late` returns, of accepted and of done."""
    with project(SQLITE, plugins={"ends.py": ENDS}) as folder:
        async with running(folder) as app:
            words = ("-c", SENDER, str(rate), str(TICKS), str(seconds + WARM))
            sender = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=subprocess.PIPE)
            assert sender.stdout is not None
            await receive(sender.stdout, app.inlet("bench"))
            await sender.wait()
            await app.finished()
            count = int((seconds + WARM) * TICKS) * (rate // TICKS)
            assert len(ACCEPTED) == len(DONE) == count, (len(ACCEPTED), len(DONE), count)
            return [*late(ACCEPTED), *late(DONE)]


def measure(sheet: Sheet) -> None:
    """See above."""
    seconds = 10.0 if sheet.full else 3.0
    names = ("accepted, p50", "accepted, p99", "done, p50", "done, p99")
    rounds = [(run(bare.sync, 500), run(ours, RATE, seconds)) for _ in range(sheet.rounds)]
    sheet.add("fdatasync of 4 KiB, median", [disk for disk, _ in rounds], "ms")
    columns: Sequence[list[float]] = [list(column) for column in zip(*(late for _, late in rounds), strict=True)]
    for name, values in zip(names, columns, strict=True):
        sheet.add(name, values, "ms")
    sheet.ratio("accepted, p99", "fdatasync of 4 KiB, median", "≤ 20")
    sheet.ratio("done, p99", "fdatasync of 4 KiB, median", "≤ 40")
