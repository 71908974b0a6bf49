"""The source and the sink `grpc`: `function_runtime.v1.Events` of `runtime/proto/function_runtime.proto`, served and called."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, NoReturn, TypeVar

import grpc
import msgspec
from google.protobuf.message import Message

from runtime import (
    Answer,
    Error,
    Event,
    Inlet,
    MalformedEvent,
    PartialFailure,
    Problem,
    Reject,
    Sink,
    Source,
    Unavailable,
    codec,
    hookimpl,
    problem_of,
    protobuf,
    redaction,
)

from ._tls import Tls

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)
Context = grpc.aio.ServicerContext[Any, Any]

SERVICE = "function_runtime.v1.Events"
PATIENCE = 10.0  # seconds that a server may take to be there, and to answer
GRACE = 60.0  # seconds for callers under way when the source closes; the runtime answers them before
PUSHBACK = "grpc-retry-pushback-ms"
STATUSES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ALREADY_EXISTS,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""What a caller over gRPC is told where one over HTTP is told the number; other 4xx are FAILED_PRECONDITION, 5xx INTERNAL."""

REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED)
FOR_GOOD = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)

Text = Annotated[str, msgspec.Meta(min_length=1)]


class ServerTls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Files in PEM: the certificate and its key, and with `ca` whose certificates callers have to show."""

    cert: str
    key: str
    ca: str | None = None


class SourceOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where to listen; `token` is asked for, `timeout` is how many seconds `Invoke` waits for a caller without a deadline."""

    listen: Annotated[str, msgspec.Meta(pattern=r"^.+:\d+$")] = "127.0.0.1:50051"
    tls: ServerTls | None = None
    token: Text | None = None
    max_body: Annotated[int, msgspec.Meta(ge=1)] = 1024 * 1024
    timeout: Annotated[float, msgspec.Meta(gt=0)] = 60.0


class GrpcSource(Source):
    """Serves `Events`: takes events from callers, and answers with their id or with the result of their run."""

    Options = SourceOptions
    finite = False

    def __init__(self, name: str, options: SourceOptions) -> None:
        super().__init__(name, options)
        self._inlet: Inlet | None = None
        self._address = ""

    async def open(self) -> None:
        """Listen.

        Raises:
            OSError: the address is in use or not of this machine, or the files of `tls` cannot be read.
        """
        options = self.options
        limits = [("grpc.max_receive_message_length", options.max_body), ("grpc.so_reuseport", 0)]
        self._server = grpc.aio.server(options=limits)
        methods = {
            "Publish": _method(self._serving(self._publish), protobuf.CloudEvent),
            "PublishBatch": _method(self._serving(self._publish_batch), protobuf.CloudEventBatch),
            "Invoke": _method(self._serving(self._invoke), protobuf.CloudEvent),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        try:
            if options.tls is None:
                port = self._server.add_insecure_port(options.listen)
            else:
                port = self._server.add_secure_port(options.listen, self._credentials(options.tls))
        except RuntimeError:
            raise OSError(f"`listen`: expected an address that is free, found {options.listen} in use or not of this machine") from None
        await self._server.start()
        self._address = f"{options.listen.rpartition(':')[0]}:{port}"

    def _credentials(self, tls: ServerTls) -> grpc.ServerCredentials:
        pair = ((self.folder / tls.key).read_bytes(), (self.folder / tls.cert).read_bytes())
        trusted = (self.folder / tls.ca).read_bytes() if tls.ca else None
        return grpc.ssl_server_credentials([pair], trusted, require_client_auth=trusted is not None)

    async def run(self, inlet: Inlet) -> None:
        """Serve until cancelled."""
        self._inlet = inlet
        try:
            await asyncio.get_running_loop().create_future()  # waiting for the server, cancelled, would break its stop
        finally:
            self._inlet = None

    async def close(self) -> None:
        """Stop listening; callers that wait for a result are answered first."""
        await self._server.stop(GRACE)

    def address(self) -> str:
        """Return host and port."""
        return self._address

    def _serving(self, answer: Callable[[Inlet, Any, Context], Awaitable[A]]) -> Callable[[Any, Context], Awaitable[A]]:
        """Return the handler of a method: who may call it, and what is told of errors."""

        async def handle(message: Any, context: Context) -> A:
            try:
                return await answer(self._admitted(context), message, context)
            except Problem as problem:
                await _refuse(context, problem)
            except Error as error:
                await _refuse(context, problem_of(error, public=True))

        return handle

    def _admitted(self, context: Context) -> Inlet:
        """Return the inlet for a caller who has the token."""
        given = dict(context.invocation_metadata() or ()).get("authorization", "")
        expected = f"Bearer {self.options.token}".encode()
        if self.options.token and not hmac.compare_digest(given if isinstance(given, bytes) else given.encode(), expected):
            raise Problem(401, "send the token of this service as metadata: authorization: Bearer …")
        if self._inlet is None:
            raise Problem(503, "the source is starting or stopping; try again in 1 s", retry_after="1")
        return self._inlet

    async def _publish(self, inlet: Inlet, message: protobuf.CloudEvent, _: Context) -> protobuf.Accepted:
        (id,) = await inlet.put(protobuf.event_of(message), wait=False)
        return protobuf.Accepted(id=id)

    async def _publish_batch(self, inlet: Inlet, batch: protobuf.CloudEventBatch, _: Context) -> protobuf.AcceptedBatch:
        return protobuf.AcceptedBatch(ids=await inlet.put([protobuf.event_of(one) for one in batch.events], wait=False))

    async def _invoke(self, inlet: Inlet, message: protobuf.CloudEvent, context: Context) -> protobuf.Result:
        left = context.time_remaining()
        timeout = self.options.timeout if left is None else max(0.0, left)
        result = await inlet.call(protobuf.event_of(message), timeout=timeout)
        if isinstance(result, Answer):
            if result.status >= 400:
                raise Problem(result.status, result.content.decode(errors="replace"))
            result = result.content
        return protobuf.Result(binary=result) if isinstance(result, bytes) else protobuf.Result(json=codec.to_json(result))


def _method(handler: Callable[[Any, Context], Awaitable[Message]], kind: type[Message]) -> grpc.RpcMethodHandler[Any, Any]:
    return grpc.unary_unary_rpc_method_handler(
        handler, request_deserializer=kind.FromString, response_serializer=lambda answer: answer.SerializeToString()
    )


async def _refuse(context: Context, problem: Problem) -> NoReturn:
    """Tell a caller what an HTTP caller is told."""
    code = STATUSES.get(problem.status) or (grpc.StatusCode.FAILED_PRECONDITION if problem.status < 500 else grpc.StatusCode.INTERNAL)
    pause = dict(problem.headers).get("retry-after")
    trailing = ((PUSHBACK, str(int(float(pause) * 1000))),) if pause else ()
    await context.abort(code, problem.detail, trailing)


class SinkOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the service is: `address` is HOST:PORT; `token` is sent, `tls` makes the connection one."""

    address: Annotated[str, msgspec.Meta(pattern=r"^.+:\d+$", examples=["127.0.0.1:50051"])]
    token: Text | None = None
    tls: Tls | None = None


class GrpcSink(Sink):
    """Publishes events to a service that serves `Events`, those of one write together."""

    Options = SinkOptions

    def __init__(self, name: str, options: SinkOptions) -> None:
        super().__init__(name, options)
        if options.tls is not None and not options.tls.verify:
            raise ValueError("`tls`: expected `verify = true`, found false, which gRPC does not know; give the `ca` of the server instead")
        self._metadata = (("authorization", f"Bearer {options.token}"),) if options.token else ()

    async def open(self) -> None:
        """Connect.

        Raises:
            ConnectionError: no server answers.
            OSError: a file of `tls` cannot be read.
        """
        self._channel = self._connect()
        self._one = self._method("Publish", protobuf.CloudEvent, protobuf.Accepted)
        self._several = self._method("PublishBatch", protobuf.CloudEventBatch, protobuf.AcceptedBatch)
        try:
            async with asyncio.timeout(PATIENCE):
                await self._reach()
        except TimeoutError:
            await self._channel.close()
            raise ConnectionError(f"no server answers at {self.options.address} within {PATIENCE:g} s") from None
        except BaseException:
            await self._channel.close()
            raise

    async def _reach(self) -> None:
        while (state := self._channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
            if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                raise ConnectionError(f"no server answers at {self.options.address}")
            await self._channel.wait_for_state_change(state)

    def _connect(self) -> grpc.aio.Channel:
        tls = self.options.tls
        options = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))  # one that was closed delays no other
        if tls is None:
            return grpc.aio.insecure_channel(self.options.address, options=options)
        ca, cert, key = (
            (self.folder / path).read_bytes() if path else None for path in (tls.ca, tls.cert, (tls.key or tls.cert) if tls.cert else None)
        )
        return grpc.aio.secure_channel(self.options.address, grpc.ssl_channel_credentials(ca, key, cert), options=options)

    def _method(self, name: str, kind: type[Q], answer: type[A]) -> grpc.aio.UnaryUnaryMultiCallable[Q, A]:
        return self._channel.unary_unary(
            f"/{SERVICE}/{name}", request_serializer=kind.SerializeToString, response_deserializer=answer.FromString
        )

    async def write(self, events: list[Event]) -> None:
        """Publish the events, and wait until the service has accepted them; when it refuses them together, one by one.

        Raises:
            ConnectionError: nobody answers, or it refuses to be called.
            PartialFailure: some were not accepted; each has the error that says why.
        """
        failures: dict[str, str | Exception] = {}
        messages: dict[str, protobuf.CloudEvent] = {}
        for event in events:
            try:
                messages[event.id] = protobuf.message_of(event)
            except MalformedEvent as error:
                failures[event.id] = Reject(str(error))
        if not await self._all_accepted(list(messages.values())):
            for id, message in messages.items():
                try:
                    await self._one(message, timeout=PATIENCE, metadata=self._metadata)
                except grpc.aio.AioRpcError as error:
                    failures[id] = self._refusal(error)
        if failures:
            raise PartialFailure(failures)

    async def _all_accepted(self, messages: list[protobuf.CloudEvent]) -> bool:
        """Return whether they were accepted together; a single one is not tried so."""
        if len(messages) < 2:
            return not messages
        try:
            await self._several(protobuf.CloudEventBatch(events=messages), timeout=PATIENCE, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            refusal = self._refusal(error)
            if not isinstance(refusal, Reject):
                raise refusal from None
            return False
        return True

    def _refusal(self, error: grpc.aio.AioRpcError) -> Exception:
        """Return the error for a status that is not OK; raises it when it is one of the connection."""
        code = error.code()
        details = redaction.shown(error.details() or "no more is said", [self.options.token or ""])
        told = f"expected the event to be accepted, found {code.name}: {details}"
        if code in FOR_GOOD:
            return Reject(told)
        pause = dict(error.trailing_metadata() or ()).get(PUSHBACK)
        if pause is not None:
            return Unavailable(told, float(pause) / 1000)
        if code in REFUSED or code is grpc.StatusCode.UNAVAILABLE:
            raise ConnectionError(told)
        return Unavailable(told)

    async def close(self) -> None:
        """Disconnect."""
        await self._channel.close()


@hookimpl
def register_sources() -> Mapping[str, type[Source]]:
    """Offer the source."""
    return {"grpc": GrpcSource}


@hookimpl
def register_sinks() -> Mapping[str, type[Sink]]:
    """Offer the sink."""
    return {"grpc": GrpcSink}
