"""Requests per second: a POST of a small JSON object on 64 connections, beside a bare ASGI app on the same uvicorn and others."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path

from benchmarks import load
from benchmarks.children import ChildError
from benchmarks.ours import ADMIN, MEMORY, SQLITE, WEB, project, serving
from benchmarks.peers import web
from benchmarks.sheet import Sheet

ROUTE = '[sources.web.routes."/"]\ntype = "go"\nreply = "{reply}"\n'
ECHO = """
from runtime import function

@function(on="go")
async def echo(data): return data
"""
UVICORN = ("-m", "uvicorn", "--no-access-log", "--log-level", "warning", "--lifespan", "off")
Making = Callable[[], AbstractContextManager[tuple[str, str]]]

FRAMEWORK = ("-m", "functions_framework", "--target", "echo", "--source", "main.py")


@contextmanager
def ours(journal: str, reply: str) -> Iterator[tuple[str, str]]:
    """Give the address of a route, and that of the admin API."""
    with project(journal + WEB + ROUTE.format(reply=reply) + ADMIN, ECHO) as folder, serving(folder) as served:
        yield served.banner["web"] + "/", served.banner["admin"]


@contextmanager
def server(package: str, *command: str) -> Iterator[tuple[str, str]]:
    """Give the address of a server that is started by this command and `--port`; it has no admin API.

    Raises:
        ChildError: its package is not installed, or it does not listen within half a minute.
    """
    if importlib.util.find_spec(package) is None:
        raise ChildError("not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with project("", {"main.py": web.FUNCTION}) as folder:
        words = [sys.executable, *command, "--host", "127.0.0.1", "--port", str(port)]
        where = folder / "functions" if package == "functions_framework" else Path(__file__).parents[2]
        process = subprocess.Popen(words, cwd=where, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait_for(port)
            yield f"http://127.0.0.1:{port}/", ""
        finally:
            process.terminate()
            process.wait()


def _wait_for(port: int) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise ChildError("failed: it does not listen")


def loaded(stack: ExitStack, make: Making, seconds: float) -> Callable[[], float]:
    """Start a server, and return how it is measured; one that does not start fails then."""
    try:
        url, admin = stack.enter_context(make())
    except ChildError as error:
        return partial(_fail, error)

    def measured(seconds: float = seconds) -> float:
        rate = load.requests_per_second(url, seconds)
        while admin and busy(admin):  # what was accepted is not to be done while another one is measured
            time.sleep(0.05)
        return rate

    measured(1)
    return measured


def _fail(error: ChildError) -> float:
    raise error


def busy(admin: str) -> bool:
    """Return whether anything waits or runs."""
    stats = json.loads(urllib.request.urlopen(f"{admin}/api/stats").read())
    return bool(stats["queued"] or stats["running"])


def measure(sheet: Sheet) -> None:
    """See above; all servers are up from the beginning, and each is loaded in turn."""
    seconds = 5 if sheet.full else 2
    servers: Sequence[tuple[str, Making]] = (
        ('`reply = "result"`, memory journal', lambda: ours(MEMORY, "result")),
        ("202 on SQLite with fsync", lambda: ours(SQLITE, "accepted")),
        ("bare ASGI app", lambda: server("uvicorn", *UVICORN, "benchmarks.bare:web")),
        ("FastAPI with a pydantic model", lambda: server("fastapi", *UVICORN, "--factory", "benchmarks.peers.web:fastapi")),
        ("functions-framework", lambda: server("functions_framework", *FRAMEWORK)),
    )
    with ExitStack() as stack:
        sheet.compare("requests/s", {name: loaded(stack, make, seconds) for name, make in servers})
    result, accepted = servers[0][0], servers[1][0]
    sheet.ratio(result, "bare ASGI app", "≥ 0.85")
    sheet.ratio(result, "functions-framework", "≥ 20")
    sheet.ratio(result, "FastAPI with a pydantic model", "≥ 4")
    sheet.ratio(accepted, "bare ASGI app", "≥ 0.5")
    sheet.ratio("bare ASGI app", "functions-framework")  # what is left for us
    sheet.ratio("bare ASGI app", "FastAPI with a pydantic model")
    sheet.add(f"load by {load.generator()}, connections", [load.CONNECTIONS], "")
