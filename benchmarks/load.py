"""Load for a web server: POSTs of a small JSON object on 64 connections that are kept open, by `wrk` or, without it, by Python."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from benchmarks.children import ChildError, run

CONNECTIONS = 64
BODY = '{"n": 1}'
TYPE = "application/json"
LUA = f"""wrk.method = "POST"\nwrk.body = '{BODY}'\nwrk.headers["content-type"] = "{TYPE}"\n"""


def generator() -> str:
    """Return by what the load is made."""
    return "wrk" if shutil.which("wrk") else "a client in Python, which may be slower than the server"


def requests_per_second(url: str, seconds: float) -> float:
    """Return how many requests a second a server answers well.

    Raises:
        ChildError: some were not.
    """
    if not shutil.which("wrk"):
        return float(run(client, url, seconds))
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        script.write_text(LUA)
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "-s", str(script), url]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Requests/sec:\s*([\d.]+)", said)
    if found is None or "Non-2xx" in said or "Socket errors" in said:
        raise ChildError(f"failed: {url} did not answer well: {said}")
    return float(found[1])


class Client(asyncio.Protocol):
    """One connection: the next request when the last is answered."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._said = b""
        self.count = 0
        self.bad = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast("asyncio.Transport", transport)  # that of uvloop is none by its class
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Send the next request."""
        self._said += data
        head, _, body = self._said.partition(b"\r\n\r\n")
        length = re.search(rb"content-length:\s*(\d+)", head, re.IGNORECASE)
        if length is None or len(body) < int(length[1]):
            return
        if not head.split()[1].startswith(b"2"):
            self.bad = self._said
            return
        self._said = b""
        self.count += 1
        self._transport.write(self._request)


async def client(url: str, seconds: float) -> float:
    """Be the client in Python, in a process of its own.

    Raises:
        RuntimeError: a request was not answered well.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    head = f"POST {parts.path or '/'} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: {TYPE}\r\ncontent-length: {len(BODY)}\r\n\r\n"
    loop = asyncio.get_running_loop()
    request = head.encode() + BODY.encode()
    made = [await loop.create_connection(lambda: Client(request), host, port) for _ in range(CONNECTIONS)]
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    taken = time.perf_counter() - began
    for transport, _ in made:
        transport.abort()
    if bad := next((one.bad for _, one in made if one.bad), None):
        raise RuntimeError(f"{url} did not answer well: {bad!r}")
    return sum(one.count for _, one in made) / taken
