"""The source and the sink `nats`, against a real server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import count as counting
from typing import Any, ClassVar

import nats
import pytest
import pytest_asyncio
from nats.js.api import StreamConfig
from runtime_plugins.nats import NatsSink, NatsSource
from servers import USER, Server

from runtime import Event, Sink, Source, bindings
from runtime.testing import SinkSuite, SourceSuite

NAMES = counting(1)


class OnServer(SourceSuite):
    """What the suites need of a server."""

    bad_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "subject": {"url": "nats://127.0.0.1"},
        "durable": {"stream": "ORDERS", "durable": "a b"},
        "queue": {"stream": "ORDERS", "queue": "a"},
        "{topic}": {"subject": "a", "type": "{topic}"},
        "batch": {"subject": "a", "batch": 0},
        "acess": {"subject": "a", "acess": {}},
    }
    read_ahead = 100
    is_kept = False

    @pytest.fixture(autouse=True)
    def _place(self, nats_server: Server, guarded_nats_server: Server) -> None:
        nats_server.start()
        self.server, self.guarded = nats_server, guarded_nats_server
        self.name = f"s{next(NAMES)}"
        self.count = 0

    def make(self) -> tuple[type[Source], Mapping[str, Any]]:
        return NatsSource, self.options(self.server)

    def options(self, server: Server) -> dict[str, Any]:
        return {"url": server.url, "subject": f"{self.name}.>", "batch": 100, "type": "made"}

    def denied(self, secret: str) -> Mapping[str, Any]:
        return self.options(self.guarded) | {"access": {"user": USER, "password": secret}}

    async def send(self, bodies: list[bytes]) -> None:
        client = await nats.connect(self.server.url)
        for body in bodies:
            if self.is_kept:
                await client.jetstream().publish_async(f"{self.name}.made", body)
            else:
                await client.publish(f"{self.name}.made", body)
        if self.is_kept:
            await client.jetstream().publish_async_completed()
        await client.flush()
        await client.close()

    async def produce(self, count: int) -> list[Any]:
        made = [{"n": self.count + n} for n in range(count)]
        self.count += count
        await self.send([json.dumps(data).encode() for data in made])
        return made

    async def spoil(self) -> bytes:
        await self.send([b'{"n": '])
        return b'{"n": '

    async def fail(self) -> None:
        self.server.kill()

    async def recover(self) -> None:
        self.server.start()


class TestJetStream(OnServer):
    is_kept = True
    reorders = True  # the server puts what is handed back behind others, when it asks itself in between

    @pytest_asyncio.fixture(autouse=True)
    async def _stream(self, _place: None) -> None:
        client = await nats.connect(self.server.url)
        await client.jetstream().add_stream(StreamConfig(name=self.name, subjects=[f"{self.name}.>"]))
        await client.close()

    def options(self, server: Server) -> dict[str, Any]:
        return super().options(server) | {"stream": self.name, "ack_wait": 1.0, "redelivery": 0}

    async def flood(self, count: int, size: int) -> None:
        await self.send([json.dumps({"n": number, "text": "x" * size}).encode() for number in range(count)])


class OnSink(SinkSuite):
    connected = True
    bad_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "subject": {"subject": ""},
        "{topic}": {"subject": "{topic}"},
        "mode": {"mode": "x"},
    }
    mode: ClassVar[str] = "structured"

    @pytest_asyncio.fixture(autouse=True)
    async def _place(self, nats_server: Server, guarded_nats_server: Server) -> None:
        nats_server.start()
        self.server, self.guarded = nats_server, guarded_nats_server
        self.name = f"k{next(NAMES)}"
        client = await nats.connect(self.server.url)
        await client.jetstream().add_stream(StreamConfig(name=self.name, subjects=[f"{self.name}.>"]))
        await client.close()

    def make(self) -> tuple[type[Sink], Mapping[str, Any]]:
        return NatsSink, {"url": self.server.url, "subject": f"{self.name}.{{type}}", "mode": self.mode}

    def denied(self, secret: str) -> Mapping[str, Any]:
        return {"url": self.guarded.url, "access": {"user": USER, "password": secret}}

    async def received(self) -> list[Event]:
        read = bindings.Reader(bindings.NATS, "suite", type=None, usual="{subject}", names=("subject",))
        client = await nats.connect(self.server.url)
        context = client.jetstream()
        found: list[Event] = []
        count = (await context.stream_info(self.name)).state.messages
        pulled = await context.pull_subscribe(f"{self.name}.>", stream=self.name) if count else None
        while pulled is not None and len(found) < count:
            for message in await pulled.fetch(count - len(found), timeout=5):
                headers = {name.lower(): value for name, value in (message.headers or {}).items()}
                found.append(read(headers, message.data, id="", names={"subject": message.subject}))
        await client.close()
        return found

    async def fail(self) -> None:
        self.server.kill()

    async def recover(self) -> None:
        self.server.start()


class TestSink(OnSink):
    pass


class TestSinkJetStream(OnSink):
    def make(self) -> tuple[type[Sink], Mapping[str, Any]]:
        kind, options = super().make()
        return kind, {**options, "stream": self.name}


class TestSinkInHeaders(TestSinkJetStream):
    mode = "binary"
    lossless = False


class TestCore(OnServer):
    remembers = False
    replays = False
    holds = False
