"""What a reload costs: a real process with 200 files, a client that posts all the time, and a file saved every 300 ms."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

FILES = 200
STEADY = 10.0  # seconds without a save, and then
SAVES = 60
PAUSE = 0.3  # seconds between two saves
EVERY = 0.005  # seconds between two posts

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

CONFIG = """
[log]
level = "warning"
[sources.web]
plugin = "http"
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
"""


def text(number: int, version: int) -> str:
    """Return a file of 50 to 500 lines with three functions."""
    parts = 1 + number % 32
    body = "".join(BODY.format(number=number, part=part) for part in range(parts))
    return HEAD.format(number=number, version=version) + body + TAIL.format(number=number)


def project(folder: Path) -> None:
    """Write the project."""
    functions = folder / "functions"
    functions.mkdir()
    (folder / "runtime.toml").write_text(CONFIG)
    (functions / "_common.py").write_text("def half(value: float) -> float:\n    return value / 2\n")
    (functions / "steady.py").write_text(STEADY_FILE)
    for number in range(FILES):
        (functions / f"file{number}.py").write_text(text(number, 0))


class Client:
    """A connection that is kept open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, request: str, body: bytes = b"") -> bytes:
        """Send a request such as `GET /health` and return the body of the answer."""
        self._writer.write(f"{request} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next(int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length:"))
        answer = await self._reader.readexactly(length)
        assert head.split()[1] == "200", (head, answer)
        return answer


async def connect(address: str) -> Client:
    """Return a client of an address."""
    url = urlsplit(address)
    return Client(*await asyncio.open_connection(url.hostname, url.port))


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


async def save(admin: str, functions: Path, saves: int) -> list[float]:
    """Save files and return how many milliseconds each took to be live."""
    client = await connect(admin)
    dice = random.Random(1)
    taken = []
    for version in range(1, saves + 1):
        number = dice.randrange(FILES)
        before = await generation(client)
        began = time.perf_counter()
        (functions / f"file{number}.py").write_text(text(number, version))
        while await generation(client) == before:
            await asyncio.sleep(0.003)
        taken.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(max(0.0, PAUSE - (time.perf_counter() - began)))
    return taken


async def measure(folder: Path, web: str, admin: str) -> tuple[list[float], list[float], list[float]]:
    """Return the latencies without saves, those during saves, and what saves took, in milliseconds."""
    latencies: list[float] = []
    posting = asyncio.create_task(post(web, latencies))
    await asyncio.sleep(1.0)
    latencies.clear()
    await asyncio.sleep(STEADY)
    steady = latencies.copy()
    latencies.clear()
    taken = await save(admin, folder / "functions", SAVES)
    posting.cancel()
    return steady, latencies, taken


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the value that `percent` of the values do not exceed."""
    return statistics.quantiles(values, n=100)[percent - 1]


def reload() -> None:
    """Reload a folder of 200 files while events come: what events wait, and what a save waits for."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        project(folder)
        process = subprocess.Popen([sys.executable, "-m", "runtime", "run"], cwd=folder, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            banner: dict[str, str] = {}
            while "admin" not in banner:
                word, _, rest = process.stdout.readline().strip().partition(" ")
                banner[word] = rest.strip()
            steady, during, taken = asyncio.run(measure(folder, banner["web"], banner["admin"]))
        finally:
            process.kill()
            process.wait()
    for what, values in (("an event, steady", steady), ("an event, during reloads", during), ("a save until it is live", taken)):
        middle, late = percentile(values, 50), percentile(values, 99)
        print(f"reload: {what:50} {middle:12,.2f} ms        (p99 {late:,.2f}, max {max(values):,.2f}, {len(values):,} of them)", flush=True)
    rise = percentile(during, 99) - percentile(steady, 99)
    print(f"reload: {'p99 during reloads over p99 steady (goal < 20)':50} {rise:12,.2f} ms", flush=True)
