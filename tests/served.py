"""The source `http` over real sockets, wired to the real flow."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
from runtime_plugins import http
from support import Bench

from runtime import Event, Inlet, Reject, function

PATIENCE = 20.0  # seconds until a test gives up on an answer
PEM = Path(__file__).parent / "plugins" / "webhook.pem"  # a certificate for 127.0.0.1, and its key


class Order(msgspec.Struct):
    id: str
    total: float = 0.0


def declare() -> None:
    @function(on="order.placed")
    async def validate(order: Order) -> Order:
        return order

    @function(on="echo")
    async def echo(data: Any) -> Any:
        return data

    @function(on="broken")
    async def fail(data: Any) -> None:
        raise RuntimeError("the password is swordfish")

    @function(on="refused")
    async def refuse(data: Any) -> None:
        raise Reject(data["why"], status=data["status"])


def make(routes: Mapping[str, Any] | None = None, **options: Any) -> http.Http:
    given = {"listen": "127.0.0.1:0", "routes": routes or {}, **options}
    return http.Http("web", msgspec.convert(given, http.Http.Options))


class Served(msgspec.Struct):
    bench: Bench
    source: http.Http
    client: httpx.AsyncClient

    async def accepted(self) -> int:
        await self.bench.settled()
        return (await self.bench.journal.counts()).accepted

    async def event(self, id: str) -> Event:
        return (await self.bench.journal.find(id))[0].event

    async def status(self, id: str) -> str:
        await self.bench.settled()
        return (await self.bench.journal.find(id))[0].status

    async def raw(self, request: bytes) -> bytes:
        """Send bytes as they are, and return all that comes until the server closes."""
        reader, writer = await self.connect()
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(), PATIENCE)
        writer.close()
        return answer

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", httpx.URL(self.source.address()).port)


@asynccontextmanager
async def running(source: http.Http, inlet: Inlet) -> AsyncIterator[httpx.AsyncClient]:
    """Run a source with a client, which believes it only with the certificate of the tests."""
    await source.open()
    task = asyncio.create_task(source.run(inlet))
    await asyncio.sleep(0)
    try:
        address = source.address()
        path = address.removeprefix("unix:")
        transport = httpx.AsyncHTTPTransport(uds=path) if path != address else None
        url, trusted = "http://localhost" if transport else address, ssl.create_default_context(cafile=PEM)
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, transport=transport, verify=trusted) as client:
            yield client
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await source.close()


@asynccontextmanager
async def serving(
    routes: Mapping[str, Any] | None = None,
    *,
    functions: Callable[[], object] = declare,
    bench: Mapping[str, Any] | None = None,
    folder: Path = Path(),
    **options: Any,
) -> AsyncIterator[Served]:
    async with Bench(functions, **(bench or {})) as flow:
        source = make(routes, **options)
        source.clock = flow.clock
        source.folder = folder
        async with running(source, flow.inlet("web")) as client:
            yield Served(flow, source, client)


def detail(answer: httpx.Response, status: int) -> str:
    """Return what a problem says, once it is sure that it is one."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    problem = answer.json()
    assert (problem["status"], problem["type"]) == (status, "about:blank")
    return str(problem["detail"])
