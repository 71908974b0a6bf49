"""The source and the sink `grpc`: one is called with a client that protoc has made, the other calls a server of the test."""

from __future__ import annotations

import asyncio
import importlib
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, cast

import grpc
import msgspec
import pytest
from running import Running
from runtime_plugins.grpc import SERVICE, GrpcSink, GrpcSource
from servers import PASSWORD, free_port

from runtime import (
    Answer,
    Event,
    Full,
    Inlet,
    JournalError,
    MalformedEvent,
    NotRouted,
    PartialFailure,
    Reject,
    RunFailed,
    Sink,
    Unavailable,
)
from runtime import ResultTimeout as Late
from runtime import Stopping as Ending
from runtime.errors import DataError, Error
from runtime.proto import function_runtime_pb2 as proto
from runtime.protobuf import event_of, message_of
from runtime.testing import SinkSuite, SourceSuite
from runtime.testing.inlet import SuiteInlet

PROTO = Path(proto.__file__).with_name("function_runtime.proto")
PEM = Path(__file__).with_name("webhook.pem")  # a certificate for this machine, and its key


@pytest.fixture(scope="session")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the client that protoc makes of the service."""
    folder = tmp_path_factory.mktemp("stubs")
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO.parent}", f"--grpc_python_out={folder}", PROTO.name]
    subprocess.run(command, check=True)
    made = folder / "function_runtime_pb2_grpc.py"
    made.write_text(made.read_text().replace("import function_runtime_pb2", "from runtime.proto import function_runtime_pb2"))
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("function_runtime_pb2_grpc")
    finally:
        sys.path.remove(str(folder))


class Suite(SuiteInlet):
    """Which answers a call as it is told."""

    answer: Any = None
    waited: float | None = None

    async def call(self, event: Event, *, timeout: float | None = None, retries: int = 0) -> Any:  # noqa: ASYNC109 - as the contract says
        self.waited = timeout
        await self.put(event)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@asynccontextmanager
async def serving(inlet: SuiteInlet, folder: Path = Path(), **options: Any) -> AsyncIterator[GrpcSource]:
    source = GrpcSource("in", msgspec.convert({"listen": "127.0.0.1:0", **options}, GrpcSource.Options))
    source.folder = folder
    await source.open()
    task = asyncio.create_task(source.run(cast("Inlet", inlet)))
    await asyncio.sleep(0)
    try:
        yield source
    finally:
        await source.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class TestSource(SourceSuite):
    """Callers try again what is not accepted; nothing is kept for them."""

    remembers = False
    replays = False
    holds = False
    bad_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "listen": {"listen": "here"},
        "max_body": {"max_body": 0},
        "key": {"tls": {"cert": "a"}},
        "tokn": {"tokn": "a"},
    }

    @pytest.fixture(autouse=True)
    def _place(self, stubs: Any) -> None:
        self.stubs, self.port, self.count = stubs, free_port(), 0

    def make(self) -> tuple[type[GrpcSource], Mapping[str, Any]]:
        return GrpcSource, {"listen": f"127.0.0.1:{self.port}"}

    async def produce(self, count: int) -> list[Any]:
        made = [{"n": self.count + n} for n in range(count)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            client = self.stubs.EventsStub(channel)
            for n, data in enumerate(made, self.count):
                event = message_of(Event(type="made", source="suite", id=str(n), data=data))
                while True:
                    try:
                        assert (await client.Publish(event, wait_for_ready=True)).id == str(n)
                        break
                    except grpc.aio.AioRpcError as error:
                        if error.code() is not grpc.StatusCode.UNAVAILABLE:
                            raise
                        await asyncio.sleep(0.01)
        self.count += count
        return made


class Receiver:
    """A server of the test, that notes what it is sent; `refuses` says by event what it does not take."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.events: list[Event] = []
        self.refuses: dict[str, grpc.StatusCode] = {}
        self.pause = ""
        self.metadata: Mapping[str, Any] = {}

    async def start(self) -> None:
        self.server = grpc.aio.server()
        one = grpc.unary_unary_rpc_method_handler(self._one, proto.CloudEvent.FromString, proto.Accepted.SerializeToString)
        batch = grpc.unary_unary_rpc_method_handler(self._batch, proto.CloudEventBatch.FromString, proto.AcceptedBatch.SerializeToString)
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {"Publish": one, "PublishBatch": batch}
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        self.port = self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self.server.start()

    async def _one(self, message: proto.CloudEvent, context: Any) -> proto.Accepted:
        return proto.Accepted(id=(await self._take([message], context))[0])

    async def _batch(self, batch: proto.CloudEventBatch, context: Any) -> proto.AcceptedBatch:
        return proto.AcceptedBatch(ids=await self._take(list(batch.events), context))

    async def _take(self, messages: list[proto.CloudEvent], context: Any) -> list[str]:
        self.metadata = dict(context.invocation_metadata())
        for message in messages:
            if message.id in self.refuses:
                trailing = (("grpc-retry-pushback-ms", self.pause),) if self.pause else ()
                await context.abort(self.refuses[message.id], "no, says open-sesame", trailing)
        if self.metadata.get("authorization", "Bearer open-sesame") != f"Bearer {PASSWORD}":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, f"found {self.metadata['authorization']}")
        self.events += map(event_of, messages)
        return [message.id for message in messages]


class TestSink(SinkSuite):
    connected = True
    lossless = False  # JSON gets the content type that it has
    bad_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "address": {"address": "here"},
        "verify": {"address": "a:1", "tls": {"verify": False}},
        "token": {"address": "a:1", "token": ""},
    }

    @pytest.fixture(autouse=True)
    async def _receiver(self) -> AsyncIterator[None]:
        self.receiver = Receiver(0)
        await self.receiver.start()
        yield
        await self.receiver.server.stop(None)

    def make(self) -> tuple[type[Sink], Mapping[str, Any]]:
        return GrpcSink, {"address": f"127.0.0.1:{self.receiver.port}"}

    def denied(self, secret: str) -> Mapping[str, Any]:
        return {**self.make()[1], "token": secret}

    async def received(self) -> list[Event]:
        return list(self.receiver.events)

    async def fail(self) -> None:
        await self.receiver.server.stop(None)

    async def recover(self) -> None:
        await self.receiver.start()


# --- the source ---------------------------------------------------------------------------------------


def sent(id: str = "1", **more: Any) -> proto.CloudEvent:
    return message_of(Event(type="t", source="s", id=id, **more))


async def test_an_event_comes_as_it_was_sent_alone_and_in_a_batch(stubs: Any) -> None:
    inlet = Suite()
    events = [
        Event(type="t", source="s", id="1", data={"n": 1}, key="k", priority=9, datacontenttype="application/json", extensions={"n": 3}),
        Event(type="t", source="s", id="2", data=b"\x00"),
        Event(type="t", source="s", id="3", data="text", datacontenttype="text/plain"),
    ]
    async with serving(inlet) as source, grpc.aio.insecure_channel(source.address()) as channel:
        client = stubs.EventsStub(channel)
        assert (await client.Publish(message_of(events[0]))).id == "1"
        assert list((await client.PublishBatch(proto.CloudEventBatch(events=map(message_of, events[1:])))).ids) == ["2", "3"]
    assert inlet.events == events


async def test_an_event_that_is_malformed_refuses_its_batch(stubs: Any) -> None:
    inlet = Suite()
    batch = proto.CloudEventBatch(events=[sent("1"), proto.CloudEvent(id="2", source="s", spec_version="1.0")])
    odd = sent("3")
    odd.attributes["type"].ce_string = "other"
    broken = sent("4", data={"n": 1})
    broken.text_data = "{"
    async with serving(inlet) as source, grpc.aio.insecure_channel(source.address()) as channel:
        client = stubs.EventsStub(channel)
        for call, message, word in [
            (client.PublishBatch, batch, "type"),
            (client.Publish, odd, "type"),
            (client.Publish, broken, "text_data"),
        ]:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(message)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert word in (caught.value.details() or "")
    assert inlet.events == []


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        ({"cents": 5}, proto.Result(json=b'{"cents":5}')),
        (None, proto.Result(json=b"null")),
        (b"\x00", proto.Result(binary=b"\x00")),
        (Answer(status=200, body="hi"), proto.Result(binary=b"hi")),
    ],
)
async def test_invoke_answers_the_result(stubs: Any, answer: Any, result: proto.Result) -> None:
    inlet = Suite()
    inlet.answer = answer
    async with serving(inlet, timeout=7) as source, grpc.aio.insecure_channel(source.address()) as channel:
        client = stubs.EventsStub(channel)
        assert await client.Invoke(sent()) == result
        assert inlet.waited == 7
        await client.Invoke(sent(), timeout=100)
        assert inlet.waited is not None
        assert 50 < inlet.waited < 105


@pytest.mark.parametrize(
    ("error", "code", "details"),
    [
        (MalformedEvent("odd"), "INVALID_ARGUMENT", "odd"),
        (DataError("misfit"), "INVALID_ARGUMENT", "misfit"),
        (NotRouted("t"), "NOT_FOUND", 'no result for "t": no function handles it'),
        (NotRouted("t", removed=True), "UNAVAILABLE", ""),
        (Full(5, 5, 2.0), "UNAVAILABLE", ""),
        (JournalError("secret"), "UNAVAILABLE", ""),
        (Ending("1"), "UNAVAILABLE", ""),
        (Late("1", 5), "DEADLINE_EXCEEDED", "event 1: no result after 5 s; it goes on"),
        (RunFailed("1", "f", "ValueError", "secret"), "INTERNAL", ""),
        (RunFailed("1", "f", "Reject", "why", status=422, rejected=True), "INVALID_ARGUMENT", ""),
        (RunFailed("1", "f", "Reject", "why", status=409, rejected=True), "ALREADY_EXISTS", ""),
        (RunFailed("1", "f", "Reject", "why", status=418, rejected=True), "FAILED_PRECONDITION", ""),
    ],
)
async def test_an_error_has_the_status_that_http_has(stubs: Any, error: Error, code: str, details: str) -> None:
    inlet = Suite()
    inlet.answer = error
    async with serving(inlet) as source, grpc.aio.insecure_channel(source.address()) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.EventsStub(channel).Invoke(sent())
    assert caught.value.code().name == code
    assert details in (caught.value.details() or "")
    assert "secret" not in (caught.value.details() or "")
    pushed = dict(caught.value.trailing_metadata() or ()).get("grpc-retry-pushback-ms")
    assert pushed == (None if code != "UNAVAILABLE" else "2000" if isinstance(error, Full) else "5000")


async def test_a_runtime_that_is_full_says_when_to_come_again(stubs: Any) -> None:
    inlet = Suite()
    inlet.room.clear()
    async with serving(inlet) as source, grpc.aio.insecure_channel(source.address()) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.EventsStub(channel).Publish(sent())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert dict(caught.value.trailing_metadata() or ())["grpc-retry-pushback-ms"] == "1000"


async def test_only_those_with_the_token_may_call(stubs: Any) -> None:
    inlet = Suite()
    async with serving(inlet, token=PASSWORD) as source, grpc.aio.insecure_channel(source.address()) as channel:
        client = stubs.EventsStub(channel)
        for metadata in ((), (("authorization", "Bearer no"),), (("authorization", PASSWORD),)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.Publish(sent(), metadata=metadata)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        await client.Publish(sent(), metadata=(("authorization", f"Bearer {PASSWORD}"),))
    assert len(inlet.events) == 1


async def test_a_message_that_is_too_large_is_refused(stubs: Any) -> None:
    async with serving(Suite(), max_body=1000) as source, grpc.aio.insecure_channel(source.address()) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.EventsStub(channel).Publish(sent(data="x" * 1000))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_an_address_that_is_in_use_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match=f"expected an address that is free, found {listen} in use"):
            async with serving(Suite(), listen=listen):
                pass


async def test_the_sink_sends_to_the_source_by_tls_with_a_token() -> None:
    inlet = Suite()
    tls = {"cert": PEM.name, "key": PEM.name}
    async with serving(inlet, PEM.parent, tls=tls, token=PASSWORD) as source:
        given = {"address": source.address(), "token": PASSWORD, "tls": {"ca": PEM.name}}
        sink = GrpcSink("out", msgspec.convert(given, GrpcSink.Options))
        sink.folder = PEM.parent
        await sink.open()
        await sink.write([Event(type="t", source="s", id=str(number), data=number) for number in range(3)])
        await sink.write([Event(type="t", source="s", id="3", data=3)])
        await sink.close()
    assert [event.data for event in inlet.events] == [0, 1, 2, 3]


# --- the sink -----------------------------------------------------------------------------------------


async def write(refuses: Mapping[str, grpc.StatusCode], pause: str, *ids: str) -> tuple[Receiver, Exception]:
    receiver = Receiver(0)
    receiver.refuses, receiver.pause = dict(refuses), pause
    await receiver.start()
    sink = GrpcSink("out", GrpcSink.Options(address=f"127.0.0.1:{receiver.port}", token=PASSWORD))
    await sink.open()
    with pytest.raises(Exception) as caught:
        await sink.write([Event(type="t", source="s", id=id) for id in ids])
    await sink.close()
    await receiver.server.stop(None)
    return receiver, caught.value


async def test_what_is_refused_for_good_fails_for_itself_alone() -> None:
    receiver, error = await write({"2": grpc.StatusCode.INVALID_ARGUMENT}, "", "1", "2", "3")
    assert isinstance(error, PartialFailure)
    assert {id: (type(why), str(why)) for id, why in error.failures.items()} == {
        "2": (Reject, "expected the event to be accepted, found INVALID_ARGUMENT: no, says ***")
    }
    assert [event.id for event in receiver.events] == ["1", "3"]


async def test_what_is_to_come_again_later_comes_again_later() -> None:
    _, error = await write({"1": grpc.StatusCode.UNAVAILABLE}, "1500", "1", "2")
    assert isinstance(error, Unavailable)
    assert error.retry_after == 1.5
    _, error = await write({"1": grpc.StatusCode.UNAVAILABLE}, "1500", "1")
    assert isinstance(error, PartialFailure)
    assert isinstance(error.failures["1"], Unavailable)


async def test_one_that_may_not_call_has_lost_its_connection() -> None:
    _, error = await write({"1": grpc.StatusCode.PERMISSION_DENIED}, "", "1")
    assert isinstance(error, ConnectionError)


# --- a runtime ----------------------------------------------------------------------------------------

FUNCTIONS = """
import os
import signal

import msgspec

from runtime import Reject, function


class Order(msgspec.Struct):
    total: float


@function(on="order")
def bill(order: Order) -> float:
    if order.total < 0:
        raise Reject("less than nothing", status=409)
    return order.total * 2


@function(on="crash")
def crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
"""


async def test_a_runtime_that_is_killed_before_it_answers_is_sent_the_event_again(tmp_path: Path, stubs: Any) -> None:
    listen = f"127.0.0.1:{free_port()}"
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "all.py").write_text(FUNCTIONS)
    (tmp_path / "runtime.toml").write_text(f'[admin]\nlisten = "127.0.0.1:0"\n[sources.calls]\nplugin = "grpc"\nlisten = "{listen}"\n')
    async with grpc.aio.insecure_channel(listen) as channel:
        client = stubs.EventsStub(channel)

        async def invoke(type: str, data: Any) -> Any:
            event = message_of(Event(type=type, source="s", id=f"{type}-{data}", data=data))
            try:
                return (await client.Invoke(event, timeout=20, wait_for_ready=True)).json
            except grpc.aio.AioRpcError as error:
                return error.code().name, error.details()

        with Running(tmp_path):
            assert await invoke("order", {"total": 5}) == b"10.0"
            assert await invoke("order", {"total": -1}) == ("ALREADY_EXISTS", "less than nothing")
            assert (await invoke("order", {"total": "x"}))[0] == "INVALID_ARGUMENT"
            assert await invoke("nothing", 1) == ("NOT_FOUND", 'no result for "nothing": no function handles it')
            assert (await invoke("crash", 1))[0] == "UNAVAILABLE"
        (tmp_path / "functions" / "all.py").write_text(FUNCTIONS.replace("os.kill(os.getpid(), signal.SIGKILL)", "pass"))
        with Running(tmp_path) as again:
            assert await invoke("crash", 1) == b"null"
            assert await asyncio.to_thread(again.stop) == 0
