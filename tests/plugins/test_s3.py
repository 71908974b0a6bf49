"""The source and the sink `s3`, against the server of moto and the local store of obstore."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Mapping
from itertools import count as counting
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import obstore
import pytest
from obstore.exceptions import GenericError
from runtime_plugins.s3 import S3Sink, S3Source, Store
from servers import Server

from runtime import Event, PartialFailure, Reject, Sink, Source, cloudevents
from runtime.testing import SinkSuite, SourceSuite
from runtime.testing.inlet import SuiteInlet

NAMES = counting(1)
SOURCE: Mapping[str, Any] = {"type": "made", "content": "json", "every": 0.05, "batch": 50}


def bucket(server: Server) -> dict[str, Any]:
    """Make a bucket, and return the options that name it."""
    name = f"bucket-{next(NAMES)}"
    urllib.request.urlopen(urllib.request.Request(f"{server.url}/{name}", method="PUT"), timeout=10).close()
    config = {"endpoint": server.url, "access_key_id": "me", "secret_access_key": "open-sesame", "region": "us-east-1"}
    return {"url": f"s3://{name}", "config": config}


class Objects:
    """What the suites need of a place for objects."""

    place: Mapping[str, Any]

    @property
    def store(self) -> Any:
        return Store(self.place["url"], self.place.get("config", {})).objects

    async def put(self, path: str, body: bytes) -> None:
        while True:
            try:
                await obstore.put_async(self.store, path, body)
            except GenericError:  # the server is down
                await asyncio.sleep(0.05)
            else:
                return

    async def lines(self) -> list[bytes]:
        paths = [one["path"] for one in await obstore.list(self.store).collect_async()]
        bodies = [bytes(await (await obstore.get_async(self.store, path)).bytes_async()) for path in paths]
        return [line for body in bodies for line in body.splitlines()]


class OnSource(Objects, SourceSuite):
    bad_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "type": {"url": "s3://a"},
        "url": {"url": "bucket", "type": "a"},
        "content": {"url": "s3://a", "type": "a", "content": "xml"},
        "batch": {"url": "s3://a", "type": "a", "batch": 0},
        "bukket": {"url": "s3://a", "type": "a", "bukket": "a"},
    }
    read_ahead = 50
    ordered = False  # times are of a second
    count = 0

    def make(self) -> tuple[type[Source], Mapping[str, Any]]:
        return S3Source, {**self.place, **SOURCE, "prefix": "in"}

    async def produce(self, count: int) -> list[Any]:
        made = [{"n": self.count + n} for n in range(count)]
        self.count += count
        for data in made:
            await self.put(f"in/{data['n']:05}.json", json.dumps(data).encode())
        return made

    async def spoil(self) -> bytes:
        await self.put("in/bad.json", b'{"n": ')
        return b'{"n": '


class TestLocalSource(OnSource):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.place = {"url": (tmp_path / "objects").as_uri()}

    async def flood(self, count: int, size: int) -> None:
        for number in range(count):
            await self.put(f"in/{number:05}.json", json.dumps({"n": number, "text": "x" * size}).encode())


class TestServerSource(OnSource):
    load = 200
    patience = 20.0

    @pytest.fixture(autouse=True)
    def _place(self, s3_server: Server, guarded_s3_server: Server) -> None:
        s3_server.start()
        self.server, self.guarded = s3_server, guarded_s3_server
        self.place = bucket(s3_server)

    def denied(self, secret: str) -> Mapping[str, Any]:
        return {**self.make()[1], "config": {"endpoint": self.guarded.url, "access_key_id": "me", "secret_access_key": secret}}

    async def fail(self) -> None:
        self.server.kill()

    async def recover(self) -> None:
        self.server.start()


class OnSink(Objects, SinkSuite):
    bad_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "{topic}": {"url": "s3://a", "path": "{topic}/{id}"},
        "{id}": {"url": "s3://a", "path": "{type}"},
        "objects": {"url": "s3://a", "objects": "x"},
    }
    ordered = False
    options: ClassVar[Mapping[str, Any]] = {}

    def make(self) -> tuple[type[Sink], Mapping[str, Any]]:
        return S3Sink, {**self.place, **self.options}

    async def received(self) -> list[Event]:
        return [cloudevents.decode(line) for line in await self.lines()]


class TestLocalSink(OnSink):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.place = {"url": (tmp_path / "objects").as_uri()}


class TestServerSink(OnSink):
    connected = True
    load = 100

    @pytest.fixture(autouse=True)
    def _place(self, s3_server: Server, guarded_s3_server: Server) -> None:
        s3_server.start()
        self.server, self.guarded = s3_server, guarded_s3_server
        self.place = bucket(s3_server)

    def denied(self, secret: str) -> Mapping[str, Any]:
        return {**self.make()[1], "config": {"endpoint": self.guarded.url, "access_key_id": "me", "secret_access_key": secret}}

    async def fail(self) -> None:
        self.server.kill()

    async def recover(self) -> None:
        self.server.start()


class TestServerSinkInBatches(TestServerSink):
    options: ClassVar[Mapping[str, Any]] = {"objects": "batch", "path": "{type}/{date}/{hour}/{id}.jsonl"}


# --- what stores have of their own --------------------------------------------------------------------


def source(url: str, **options: Any) -> S3Source:
    made = S3Source("in", msgspec.convert({"url": url, "type": "made", "every": 0.05, **options}, S3Source.Options))
    made.clock = SourceSuite.clock
    return made


async def brought(source: S3Source, inlet: SuiteInlet, count: int) -> list[Event]:
    await source.open()
    task = asyncio.create_task(source.run(inlet))
    async with asyncio.timeout(10):
        while len(inlet.events) + len(inlet.malformed) < count:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await source.close()
    return [*inlet.events, *inlet.malformed]


async def test_a_reference_tells_where_the_object_is_and_a_changed_one_comes_again(tmp_path: Path) -> None:
    url, inlet = tmp_path.as_uri(), SuiteInlet()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("one")
    (tmp_path / "inner.txt").write_text("not below the prefix")
    [event] = await brought(source(url, prefix="in"), inlet, 1)
    etag = event.data["etag"]
    assert event.data == {"url": f"{url}/in/a.txt", "path": "in/a.txt", "size": 3, "etag": etag}
    assert (event.type, event.source, event.subject) == ("made", "source/in", "in/a.txt")
    (tmp_path / "in" / "a.txt").write_text("another")
    assert [event.data["size"] for event in await brought(source(url, prefix="in"), inlet, 2)] == [3, 7]


async def test_what_is_older_than_the_overlap_is_forgotten_and_does_not_come_again(tmp_path: Path) -> None:
    import os

    inlet = SuiteInlet()
    for number in range(5):
        (tmp_path / f"{number}").write_text("x")
        os.utime(tmp_path / f"{number}", (1000 * number, 1000 * number))
    found = await brought(source(tmp_path.as_uri(), overlap=1500, batch=2), inlet, 5)
    assert [event.subject for event in found] == ["0", "1", "2", "3", "4"]
    assert len(inlet.cursor["taken"]) == 2
    (tmp_path / "late").write_text("x")
    os.utime(tmp_path / "late", (3500, 3500))
    inlet._ids.clear()
    assert [event.subject for event in (await brought(source(tmp_path.as_uri(), overlap=1500), inlet, 6))[5:]] == ["late"]


@pytest.mark.parametrize(("content", "data"), [("text", "ü"), ("bytes", "ü".encode())])
async def test_content_is_the_data(tmp_path: Path, content: str, data: object) -> None:
    (tmp_path / "a").write_text("ü")
    assert [event.data for event in await brought(source(tmp_path.as_uri(), content=content), SuiteInlet(), 1)] == [data]


async def test_an_object_that_is_too_large_is_set_aside(tmp_path: Path) -> None:
    inlet = SuiteInlet()
    (tmp_path / "a").write_text("four")
    await brought(source(tmp_path.as_uri(), content="text", max_bytes=3), inlet, 1)
    assert inlet.malformed[0].why == "a: expected at most 3 bytes, found 4; raise `max_bytes`, or take a reference"


async def test_a_bucket_that_is_not_there_is_told_without_the_secret(s3_server: Server) -> None:
    s3_server.start()
    made = source("s3://nowhere", config=bucket(s3_server)["config"])
    await made.open()
    with pytest.raises(ConnectionError, match="NoSuchBucket") as caught:
        await made.run(SuiteInlet())
    assert "open-sesame" not in str(caught.value)


async def test_a_configuration_that_is_none_is_told() -> None:
    with pytest.raises(ConnectionError, match=r"`url`, `config`: .*bukket"):
        await source("s3://a", config={"bukket": "a"}).open()


async def test_paths_are_made_of_attributes_and_batches_share_an_object(tmp_path: Path) -> None:
    options = {"url": tmp_path.as_uri(), "path": "{type}/{key}/{id}.jsonl", "objects": "batch"}
    sink = S3Sink("out", msgspec.convert(options, S3Sink.Options))
    await sink.open()
    events = [Event(type="a", source="s", id=f"{n}/x", key="k" if n < 3 else "..") for n in range(4)]
    with pytest.raises(PartialFailure) as caught:
        await sink.write([*events, Event(type="a", source="s", id="none")])
    assert {id: type(error) for id, error in caught.value.failures.items()} == {"none": Reject}
    found = [one["path"] for one in await obstore.list(Store(tmp_path.as_uri(), {}).objects).collect_async()]
    assert sorted(found) == ["a/%2E%2E/3%2Fx.jsonl", "a/k/0%2Fx.jsonl"]
    body = bytes(await (await obstore.get_async(Store(tmp_path.as_uri(), {}).objects, "a/k/0%2Fx.jsonl")).bytes_async())
    assert [cloudevents.decode(line) for line in body.splitlines()] == events[:3]
