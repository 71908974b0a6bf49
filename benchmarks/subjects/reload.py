"""What a reload costs: a real process with 200 files, a client that posts all the time, and a file saved every 300 ms."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.client import Client, connect
from benchmarks.ours import ADMIN, SQLITE, WEB, project, serving
from benchmarks.sheet import Sheet

FILES = 200
PAUSE = 0.3  # seconds between two saves
EVERY = 0.005  # seconds between two posts
DICE = random.Random(1)

HEAD = """
from runtime import function
from functions._common import half
import msgspec

VERSION = {version}


class Order{number}(msgspec.Struct):
    id: str
    total: float
"""

BODY = """

def price_{number}_{part}(lines: list[dict], rate: float = 0.19) -> float:
    total = 0.0
    for line in lines:
        if not line.get("quantity"):
            continue
        amount = line["quantity"] * line["price"]
        if line.get("discount"):
            amount -= amount * line["discount"] / 100
        total += amount
    return round(total * (1 + rate), 2)

"""

TAIL = """

@function(on="order{number}")
async def first{number}(order: Order{number}) -> float:
    return half(order.total)


@function(after="first{number}")
def second{number}(first{number}: float) -> float:
    return first{number} + VERSION


@function(after=["first{number}", "second{number}"], emits="priced{number}")
async def third{number}(first{number}: float, second{number}: float) -> dict:
    return {{"first": first{number}, "second": second{number}}}
"""

STEADY_FILE = """
from runtime import function


@function(on="steady")
async def steady(data: int) -> int:
    return data
"""

CONFIG = SQLITE + WEB + ADMIN


def text(number: int, version: int) -> str:
    """Return a file of 50 to 500 lines with three functions."""
    parts = 1 + number % 32
    body = "".join(BODY.format(number=number, part=part) for part in range(parts))
    return HEAD.format(number=number, version=version) + body + TAIL.format(number=number)


def files() -> dict[str, str]:
    """Return the files of the functions, by name."""
    many = {f"file{number}.py": text(number, 0) for number in range(FILES)}
    return {"_common.py": "def half(value: float) -> float:\n    return value / 2\n", "steady.py": STEADY_FILE, **many}


async def post(web: str, latencies: list[float]) -> None:
    """Post events for ever and note how many milliseconds each took, from post to result."""
    client = await connect(web)
    while True:
        began = time.perf_counter()
        await client.ask("POST /events/steady?wait=10", b"1")
        latencies.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(EVERY)


async def generation(client: Client) -> int:
    """Return the number of the present generation."""
    health = json.loads(await client.ask("GET /health"))
    assert health["status"] == "ok", health
    return int(health["generation"])


async def save(client: Client, functions: Path, version: int) -> float:
    """Save a file and return how many milliseconds it took to be live."""
    number = DICE.randrange(FILES)
    before = await generation(client)
    began = time.perf_counter()
    (functions / f"file{number}.py").write_text(text(number, version))
    while await generation(client) == before:
        await asyncio.sleep(0.003)
    taken = time.perf_counter() - began
    await asyncio.sleep(max(0.0, PAUSE - taken))
    return taken * 1000


class Round(msgspec.Struct):
    """The milliseconds of events without saves and during saves, and those of saves."""

    quiet: list[float]
    during: list[float]
    saves: list[float]

    @property
    def rise(self) -> float:
        """How much later the 99th percentile is during saves."""
        return percentile(self.during, 99) - percentile(self.quiet, 99)


async def reload(folder: Path, web: str, admin: str, rounds: int, saves: int) -> list[Round]:
    """Return rounds, each of some seconds without saves and as many with."""
    latencies: list[float] = []
    posting = asyncio.create_task(post(web, latencies))
    client = await connect(admin)
    await asyncio.sleep(1.0)
    found = []
    for number in range(rounds):
        latencies.clear()
        await asyncio.sleep(saves * PAUSE)
        quiet = latencies.copy()
        latencies.clear()
        taken = [await save(client, folder / "functions", number * saves + count) for count in range(1, saves + 1)]
        found.append(Round(quiet, latencies.copy(), taken))
    posting.cancel()
    return found


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the value that `percent` of the values do not exceed."""
    return statistics.quantiles(values, n=100)[percent - 1]


def measure(sheet: Sheet) -> None:
    """See above."""
    with project(CONFIG, files()) as folder, serving(folder) as served:
        work = reload(folder, served.banner["web"], served.banner["admin"], sheet.rounds, 40 if sheet.full else 12)
        rounds = asyncio.run(work)
    sheet.add("an event, steady: p99", [percentile(one.quiet, 99) for one in rounds], "ms")
    sheet.add("an event, while a file is saved every 0.3 s: p99", [percentile(one.during, 99) for one in rounds], "ms")
    sheet.add("the rise of that p99 by reloads", [one.rise for one in rounds], "ms", "≤ 20")
    sheet.add("the longest event while files are saved", [max(one.during) for one in rounds], "ms")
    sheet.add(f"a save among {FILES} files until it is live, p50", [statistics.median(one.saves) for one in rounds], "ms", "< 100")
