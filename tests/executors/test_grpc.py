"""Services over gRPC: what they are sent, what becomes of what they answer, and what is told when they do not."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from faults.ledger import until
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from running import Running, run

from runtime import protobuf
from runtime.clock import SystemClock
from runtime.contracts import Executor
from runtime.errors import Reject, Skip, StepTimeout, Unavailable
from runtime.event import Event
from runtime.executors.batch import Batch, shares_of
from runtime.executors.remote import LARGEST
from runtime.executors.service import Services
from runtime.function import Emission
from runtime.proto import function_runtime_pb2 as proto
from runtime.settings import FunctionSettings, GrpcSettings
from runtime.specs import FunctionSpec, make_external
from runtime.testing.executors import ExecutorSuite, SuiteCall

PROTO = Path(proto.__file__).with_name("function_runtime.proto")
PEM = Path(__file__).parent.parent / "plugins" / "webhook.pem"  # a certificate for this machine, and its key

Context = grpc.aio.ServicerContext[proto.CloudEvent, proto.Result]
Handler = Callable[[proto.CloudEvent, Context], Awaitable[proto.Result]]


@asynccontextmanager
async def serving(handler: Handler, address: str = "127.0.0.1:0", trusted: grpc.ServerCredentials | None = None) -> AsyncIterator[str]:
    """Serve `Functions` with one handler, and give the address."""
    server = grpc.aio.server()
    invoke = grpc.unary_unary_rpc_method_handler(
        handler, request_deserializer=proto.CloudEvent.FromString, response_serializer=proto.Result.SerializeToString
    )

    async def each(batch: proto.CloudEventBatch, context: Context) -> proto.ResultBatch:
        return proto.ResultBatch(results=[await handler(event, context) for event in batch.events])

    invoke_batch = grpc.unary_unary_rpc_method_handler(
        each, request_deserializer=proto.CloudEventBatch.FromString, response_serializer=proto.ResultBatch.SerializeToString
    )
    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {"Invoke": invoke, "InvokeBatch": invoke_batch}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("function_runtime.v1.Functions", methods),))
    port = server.add_secure_port(address, trusted) if trusted else server.add_insecure_port(address)
    await server.start()
    try:
        yield f"{address.rpartition(':')[0]}:{port}"
    finally:
        await server.stop(None)


def service_function(
    name: str, address: str, *, ca: str | None = None, metadata: dict[str, str] | None = None, **options: Any
) -> FunctionSpec:
    given = {"on": "go"} if "after" not in options else {}
    target = GrpcSettings(grpc=address, metadata=metadata or {}, ca=ca)
    return make_external(name, FunctionSettings(overrides={**given, **options}, target=target), f"runtime.toml [functions.{name}]", 1)


@asynccontextmanager
async def opened(folder: Path = Path()) -> AsyncIterator[Services]:
    services = Services(SystemClock(), folder)
    try:
        yield services
    finally:
        await services.close()


async def called(handler: Handler, **options: Any) -> tuple[Any, list[Emission]]:
    """Return what one call of a service with this handler returns and emits."""
    async with serving(handler) as address, opened() as services:
        call = SuiteCall(service_function("price", address, **options))
        return await services.call(call), list(call.context.emitted)


def answering(**fields: Any) -> Handler:
    async def handle(event: proto.CloudEvent, context: Context) -> proto.Result:
        return proto.Result(**fields)

    return handle


def refusing(code: grpc.StatusCode, details: str = "because", trailing: tuple[tuple[str, str], ...] = ()) -> Handler:
    async def handle(event: proto.CloudEvent, context: Context) -> proto.Result:
        await context.abort(code, details, trailing)
        return proto.Result()

    return handle


# --- the suite ----------------------------------------------------------------------------------------


async def behave(event: proto.CloudEvent, context: Context) -> proto.Result:
    """Behave as the suite asks for, by the name of the function."""
    name = dict(context.invocation_metadata() or ())["function"]
    data: Any = json.loads(event.text_data) if event.WhichOneof("data") else None
    match name:
        case "emit":
            noted = [proto.Emission(type="noted", json=json.dumps({"n": n}).encode(), key="k", priority=7, delay=5) for n in data]
            return proto.Result(emissions=noted)
        case "fail":
            raise ValueError("no luck")
        case "large":
            return proto.Result(json=json.dumps("x" * data).encode())
        case "hang":
            await asyncio.sleep(60)
        case "wait":
            while not Path(data).exists():
                await asyncio.sleep(0.01)
            return proto.Result(json=b'"old"')
    return ANSWERS.get(str(name)) or proto.Result(json=event.text_data.encode())


async def replaced(event: proto.CloudEvent, context: Context) -> proto.Result:
    return proto.Result(json=b'"new"')


ANSWERS = {
    "skip": proto.Result(skip=proto.Skip(reason="not needed")),
    "reject": proto.Result(reject=proto.Reject(reason="not you", status=409)),
}


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.close()


class TestGrpcServices(ExecutorSuite):
    tracebacks = typed = generators = contexts = states = resources = False

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Executor]:
        dying = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        async with serving(behave) as address, serving(replaced) as other, opened() as services:
            self.addresses = {"die": f"127.0.0.1:{dying.sockets[0].getsockname()[1]}", "replaced": other}
            self.address = address
            yield services.call
        dying.close()

    def function(self, behaviour: str) -> FunctionSpec:
        options: dict[str, Any] = {"after": "first"} if behaviour == "after" else {}
        name = "wait" if behaviour == "replaced" else behaviour
        return service_function(name, self.addresses.get(behaviour, self.address), **options)


# --- what is sent -------------------------------------------------------------------------------------


def test_the_messages_are_what_the_proto_says(tmp_path: Path) -> None:
    made = tmp_path / "made"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO.parent}", f"--descriptor_set_out={made}", PROTO.name]
    subprocess.run(command, check=True)
    (said,) = FileDescriptorSet.FromString(made.read_bytes()).file
    known = FileDescriptorProto()
    proto.DESCRIPTOR.CopyToProto(known)
    for one in (said, known):
        for message in one.message_type:
            for field in [*message.field, *(inner for nested in message.nested_type for inner in nested.field)]:
                field.ClearField("json_name")  # which only one of the two tells
    assert known == said


async def test_a_service_gets_the_event_and_of_what_call_it_is() -> None:
    seen: list[proto.CloudEvent] = []
    metadata: list[dict[str, Any]] = []
    left: list[float | None] = []

    async def note(event: proto.CloudEvent, context: Context) -> proto.Result:
        seen.append(event)
        metadata.append(dict(context.invocation_metadata() or ()))
        left.append(context.time_remaining())
        return proto.Result(json=b'{"cents": 5}')

    async with serving(note) as address, opened() as services:
        call = SuiteCall(service_function("preis ü", address, metadata={"authorization": "Bearer sesame"}, timeout=9))
        call.event = Event(
            type="order.placed", source="shop/1", id="1", data={"id": "ü"}, key="ada", time=datetime(2026, 1, 31, 12, tzinfo=UTC),
            priority=7, dataschema="urn:x", extensions={"correlationid": "0", "urgent": True},
        )  # fmt: skip
        assert await services.call(call) == {"cents": 5}
    (event,) = seen
    assert (event.id, event.source, event.type, event.spec_version) == ("1", "shop/1", "order.placed", "1.0")
    assert json.loads(event.text_data) == {"id": "ü"}
    told = {name: (value.WhichOneof("value"), getattr(value, value.WhichOneof("value") or "")) for name, value in event.attributes.items()}
    moment = told.pop("time")[1]
    assert moment.ToDatetime(UTC) == call.event.time
    assert told == {
        "partitionkey": ("ce_string", "ada"),
        "priority": ("ce_integer", 7),
        "dataschema": ("ce_uri", "urn:x"),
        "datacontenttype": ("ce_string", "application/json"),
        "correlationid": ("ce_string", "0"),
        "urgent": ("ce_boolean", True),
        "idempotencykey": ("ce_string", "suite-1/preis ü"),
    }
    assert metadata[0]["function"] == "preis%20%C3%BC"
    assert metadata[0]["authorization"] == "Bearer sesame"
    assert left[0] is not None
    assert 0 < left[0] < 10


@pytest.mark.parametrize(
    ("data", "kind", "field", "value"),
    [
        (b"\x00\xff", "image/png", "binary_data", b"\x00\xff"),
        ("plain", "text/plain", "text_data", "plain"),
        ("quoted", None, "text_data", '"quoted"'),
        (0, "application/json", "text_data", "0"),
        (None, None, None, None),
    ],
)
def test_data_is_said_as_its_content_type_asks_for(data: Any, kind: str | None, field: str | None, value: Any) -> None:
    message = protobuf.message_of(Event(type="t", source="s", id="1", data=data, datacontenttype=kind))
    assert message.WhichOneof("data") == field
    assert field is None or getattr(message, field) == value


# --- what it answers ----------------------------------------------------------------------------------


async def test_what_is_answered_is_the_result() -> None:
    assert await called(answering(json=b"[1, null]")) == ([1, None], [])
    assert await called(answering(binary=b"\x00")) == (b"\x00", [])
    assert await called(answering()) == (None, [])
    assert await called(answering(json=b"1", emissions=[proto.Emission(type="noted")])) == (1, [Emission("noted")])


async def test_a_rejection_without_a_status_of_a_refusal_has_that_of_one() -> None:
    with pytest.raises(Reject) as caught:
        await called(answering(reject=proto.Reject(reason="no", status=200)))
    assert (caught.value.reason, caught.value.status) == ("no", 422)


async def test_an_answer_that_is_no_result_says_so() -> None:
    with pytest.raises(Reject, match=r'^"price": the result of the service: expected JSON') as caught:
        await called(answering(json=b"<html>"))
    assert caught.value.status == 502


@pytest.mark.parametrize(
    ("code", "status"),
    [("INVALID_ARGUMENT", 422), ("FAILED_PRECONDITION", 422), ("NOT_FOUND", 404), ("ALREADY_EXISTS", 409), ("UNAUTHENTICATED", 502)],
)
async def test_a_refusal_is_for_good(code: str, status: int) -> None:
    with pytest.raises(Reject) as caught:
        await called(refusing(grpc.StatusCode[code]))
    assert str(caught.value) == f'"price": expected a result, found {code}: because'
    assert caught.value.status == status


@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "ABORTED", "INTERNAL", "UNKNOWN"])
async def test_other_statuses_may_be_tried_again(code: str) -> None:
    with pytest.raises(Unavailable) as caught:
        await called(refusing(grpc.StatusCode[code], trailing=(("grpc-retry-pushback-ms", "2500"),)))
    assert str(caught.value) == f'"price": expected a result, found {code}: because; see to the service'
    assert caught.value.retry_after == 2.5


async def test_a_service_that_does_not_know_the_method_says_so() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with opened() as services:
        with pytest.raises(Reject, match="found UNIMPLEMENTED"):
            await services.call(SuiteCall(service_function("price", f"127.0.0.1:{port}")))
    await server.stop(None)


async def test_a_service_that_is_slow_is_told_when_its_time_is_up() -> None:
    gone = asyncio.Event()

    async def hang(event: proto.CloudEvent, context: Context) -> proto.Result:
        try:
            await asyncio.sleep(60)
        finally:
            gone.set()
        return proto.Result()

    async with serving(hang) as address, opened() as services:
        with pytest.raises(
            StepTimeout, match=r'^"price": expected a result within 0\.1 s, found DEADLINE_EXCEEDED: .+; see to the service$'
        ):
            await services.call(SuiteCall(service_function("price", address, timeout=0.1)))
        await gone.wait()


async def test_an_answer_that_is_too_large_is_an_error() -> None:
    with pytest.raises(Unavailable, match=r"RESOURCE_EXHAUSTED: .+ larger than max"):
        await called(answering(binary=b"x" * (LARGEST + 1)))


async def test_a_service_that_was_down_is_found_soon_after_it_is_back() -> None:
    async with serving(answering(json=b"1")) as address:
        pass
    async with opened() as services:
        call = SuiteCall(service_function("price", address))
        for _ in range(3):
            with pytest.raises(Unavailable, match=r'^"price": expected a result, found UNAVAILABLE: .+; see to the service$'):
                await services.call(call)
        async with serving(answering(json=b"1"), address):
            while True:
                try:
                    assert await services.call(call) == 1
                except Unavailable:
                    await asyncio.sleep(0.05)
                else:
                    break


async def test_metadata_is_not_shown_when_a_service_repeats_it() -> None:
    with pytest.raises(Reject) as caught:
        await called(refusing(grpc.StatusCode.PERMISSION_DENIED, "no: Bearer sesame, sesame"), metadata={"authorization": "Bearer sesame"})
    assert str(caught.value) == '"price": expected a result, found PERMISSION_DENIED: no: ***, ***'


async def test_certificates_are_trusted_that_ca_names_relative_to_the_configuration() -> None:
    raw = PEM.read_bytes()
    key, certificate = raw[raw.index(b"-----BEGIN PRIV") :], raw[raw.index(b"-----BEGIN CERT") :]
    async with (
        serving(answering(json=b"1"), trusted=grpc.ssl_server_credentials([(key, certificate)])) as address,
        opened(PEM.parent) as services,
    ):
        assert await services.call(SuiteCall(service_function("price", address, ca=PEM.name))) == 1
        with pytest.raises(Unavailable, match="UNAVAILABLE"):
            await services.call(SuiteCall(service_function("price", address)))


# --- batches ------------------------------------------------------------------------------------------


def batch_of(address: str, *data: Any, **options: Any) -> Batch:
    calls = [SuiteCall(service_function("price", address, batch=10, **options), one, results={"first": one}) for one in data]
    return Batch(calls, [[get(call) for call in calls] for get in calls[0].function.parameters.each])


async def one_by_one(event: proto.CloudEvent, context: Context) -> proto.Result:
    match json.loads(event.text_data):
        case "skip":
            return ANSWERS["skip"]
        case "reject":
            return ANSWERS["reject"]
        case "junk":
            return proto.Result(json=b"<html>")
        case "emit":
            return proto.Result(emissions=[proto.Emission(type="noted")])
        case "wrong":
            return proto.Result(emissions=[proto.Emission(type="")])
    return proto.Result(json=event.text_data.encode())


async def test_each_event_of_a_batch_has_its_own_result_or_error() -> None:
    async with serving(one_by_one) as address, opened() as services:
        batch = batch_of(address, 1, "skip", "reject", "junk", "emit", "wrong", {"a": 2}, after="first")
        one, skip, reject, junk, emit, wrong, last = await services.call(batch)
    assert (one, emit, last) == (1, None, {"a": 2})
    assert (type(skip), type(reject), type(junk), type(wrong)) == (Skip, Reject, Reject, ValueError)
    assert [len(call.context.emitted) for call in batch.calls] == [0, 0, 0, 0, 1, 0, 0]
    assert shares_of(batch, [one, skip, reject, junk, emit, wrong, last])[:2] == [(1, None), (None, skip)]


async def test_a_batch_that_is_answered_with_too_few_results_fails_for_good() -> None:
    server = grpc.aio.server()

    async def few(batch: proto.CloudEventBatch, context: Context) -> proto.ResultBatch:
        return proto.ResultBatch(results=[proto.Result()])

    handler = grpc.unary_unary_rpc_method_handler(
        few, request_deserializer=proto.CloudEventBatch.FromString, response_serializer=proto.ResultBatch.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("function_runtime.v1.Functions", {"InvokeBatch": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with opened() as services:
        with pytest.raises(Reject, match=r'^"price": expected 2 results for as many events, found 1; see to the service$'):
            await services.call(batch_of(f"127.0.0.1:{port}", 1, 2))
    await server.stop(None)


# --- in a project -------------------------------------------------------------------------------------

FUNCTIONS = """
from runtime import function

@function(on="order.placed")
def validate(data):
    return data

@function(after="price")
def total(price):
    return price * 2

@function(on="noted")
def note(data):
    return data

@function(after="many")
def end(many):
    return many + 1
"""

TOML = """
[sources.web]
plugin = "http"
listen = "127.0.0.1:0"

[admin]
listen = "127.0.0.1:0"

[functions.price]
grpc = "{address}"
after = "validate"
backoff = 0.01

[functions.many]
grpc = "{address}"
on = "number.*"
batch = 10
batch_wait = 0.5
"""


async def test_services_and_functions_form_one_graph(tmp_path: Path) -> None:
    tried: list[str] = []

    async def price(event: proto.CloudEvent, context: Context) -> proto.Result:
        if event.type.startswith("number."):
            return proto.Result(json=event.text_data.encode())
        tried.append(event.attributes["idempotencykey"].ce_string)
        if len(tried) == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        data = json.loads(event.text_data)
        return proto.Result(json=b"%d" % (data["pieces"] * 250), emissions=[proto.Emission(type="noted", json=b'"here"')])

    def talk() -> None:
        with Running(tmp_path) as running:
            id = running.api.post(f"{running.web}/events/order.placed", json={"pieces": 3}).json()["id"]
            until(lambda: running.api.get(f"/api/events/{id}").json()["status"] == "done")
            steps = running.api.get(f"/api/events/{id}").json()["steps"]
            assert {step["function"]: step["result"] for step in steps} == {"validate": {"pieces": 3}, "price": 750, "total": 1500}
            noted = running.api.get("/api/events?type=noted").json()["events"]
            assert [one["source"] for one in noted] == ["function/price"]
            together = [{"specversion": "1.0", "type": "number.one", "source": "test", "id": f"n{n}", "data": n} for n in range(5)]
            headers = {"content-type": "application/cloudevents-batch+json"}
            running.api.post(f"{running.web}/events", content=json.dumps(together), headers=headers)
            until(lambda: {running.api.get(f"/api/events/n{n}").json()["status"] for n in range(5)} == {"done"})
            for n in range(5):
                steps = running.api.get(f"/api/events/n{n}").json()["steps"]
                assert {step["function"]: step["result"] for step in steps} == {"many": n, "end": n + 1}
            assert running.stop() == 0

    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "orders.py").write_text(FUNCTIONS)
    async with serving(price) as address:
        (tmp_path / "runtime.toml").write_text(TOML.format(address=address))
        await asyncio.to_thread(talk)
        assert len(tried) == 2
        assert len(set(tried)) == 1
        done = await asyncio.to_thread(run, tmp_path, "invoke", "price", "--data", '{"pieces": 1}')
    assert (done.returncode, json.loads(done.stdout)) == (0, 250), done.stderr
    assert "noted" in done.stderr


def test_what_is_missing_is_told_where_the_service_is_declared(tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    (tmp_path / "runtime.toml").write_text('[functions.price]\ngrpc = "127.0.0.1:1"\non = "a"\nca = "ca.pem"\n')
    done = run(tmp_path, "check")
    assert done.returncode == 2
    assert (
        "runtime.toml [functions.price]: `ca`: expected certificates in PEM at ca.pem, found FileNotFoundError" in done.stderr + done.stdout
    )
    (tmp_path / "grpc.py").write_text('raise ImportError("No module named grpc")')
    done = run(tmp_path, "check")
    assert "run: pip install 'function-runtime[grpc]'" in done.stderr + done.stdout
