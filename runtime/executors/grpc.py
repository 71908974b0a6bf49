"""Calls services over gRPC: `Functions` of `runtime/proto/function_runtime.proto`, on one channel for each address.

What the status says decides: INVALID_ARGUMENT and its like are for good, as what is not implemented or not allowed;
all others mean that the attempt is repeated, and not before the time that `grpc-retry-pushback-ms` asks for.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import grpc
from google.protobuf.message import Message

from runtime.codec import read_json
from runtime.contracts import Call
from runtime.errors import MalformedEvent, Reject, Skip, StepTimeout, Unavailable
from runtime.executors.batch import Batch
from runtime.executors.remote import LARGEST, outgoing
from runtime.proto.function_runtime_pb2 import CloudEvent, CloudEventBatch, Result, ResultBatch
from runtime.protobuf import message_of
from runtime.redaction import parts_of, shown
from runtime.settings import GrpcSettings

A = TypeVar("A", bound=Message)

INVOKE = "/function_runtime.v1.Functions/Invoke"
INVOKE_BATCH = "/function_runtime.v1.Functions/InvokeBatch"
BAD_GATEWAY = 502  # what a caller is told of a service that is at fault, or of how it is configured
FOR_GOOD = {
    grpc.StatusCode.INVALID_ARGUMENT: 422,
    grpc.StatusCode.OUT_OF_RANGE: 422,
    grpc.StatusCode.FAILED_PRECONDITION: 422,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.UNAUTHENTICATED: BAD_GATEWAY,
    grpc.StatusCode.PERMISSION_DENIED: BAD_GATEWAY,
    grpc.StatusCode.UNIMPLEMENTED: BAD_GATEWAY,
}
"""The statuses that another attempt would not change, and what a caller over HTTP is told."""

OPTIONS = (
    ("grpc.max_receive_message_length", LARGEST),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),  # of itself it looks again after two minutes, and fails all calls until then
    ("grpc.enable_http_proxy", 0),
)


class GrpcClient:
    """Calls services over gRPC; channels are kept. `folder` is the one that paths are relative to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._channels: dict[tuple[str, str | None], grpc.aio.Channel] = {}

    async def call(self, call: Call) -> Any:
        """Return what the service answers; to a batch a list of that, with errors in place of results.

        Raises:
            Skip: it says so.
            Reject: it refuses for good, or its answer is no result.
            StepTimeout: the deadline has passed.
            Unavailable: it is to be called again.
        """
        function = call.function
        try:
            if isinstance(call, Batch):
                return await self._call_batch(call)
            (payload,), _ = function.parameters.bind(call)
            return _result(call, await self._send(call, INVOKE, _message(call, payload), Result))
        except grpc.aio.AioRpcError as error:
            raise _refusal(function.name, function.timeout, function.call, error) from None
        except MalformedEvent as error:
            raise Reject(f'"{function.name}": {error}', BAD_GATEWAY) from None

    async def _call_batch(self, batch: Batch) -> list[Any]:
        (payloads,), _ = batch.function.parameters.bind(batch)
        messages = [_message(call, payload) for call, payload in zip(batch.calls, payloads, strict=True)]
        answer = await self._send(batch, INVOKE_BATCH, CloudEventBatch(events=messages), ResultBatch)
        if len(answer.results) != len(batch.calls):
            text = f"expected {len(batch.calls)} results for as many events, found {len(answer.results)}; see to the service"
            raise Reject(f'"{batch.function.name}": {text}', BAD_GATEWAY)
        return [_share(call, result) for call, result in zip(batch.calls, answer.results, strict=True)]

    async def _send(self, call: Call, method: str, request: Message, answer: type[A]) -> A:
        function, target = call.function, call.function.call
        send = self._channel(target).unary_unary(
            method, request_serializer=type(request).SerializeToString, response_deserializer=answer.FromString
        )
        metadata = (("function", quote(function.name)), *target.metadata.items())
        return await send(request, timeout=function.timeout, metadata=metadata)

    def _channel(self, target: GrpcSettings) -> grpc.aio.Channel:
        key = (target.grpc, target.ca)
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = self._connect(target)
        return channel

    def _connect(self, target: GrpcSettings) -> grpc.aio.Channel:
        if target.ca is None:
            return grpc.aio.insecure_channel(target.grpc, options=OPTIONS)
        trusted = grpc.ssl_channel_credentials((self._folder / target.ca).read_bytes())
        return grpc.aio.secure_channel(target.grpc, trusted, options=OPTIONS)

    async def close(self) -> None:
        """Close the channels."""
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()


def _message(call: Call, payload: Any) -> CloudEvent:
    """Return the message for one call."""
    message = message_of(outgoing(call, payload))
    message.attributes["idempotencykey"].ce_string = call.context.idempotency_key
    return message


def _share(call: Call, result: Result) -> Any:
    """Return the result for one event of a batch, or the error that is its."""
    try:
        return _result(call, result)
    except MalformedEvent as error:
        return Reject(f'"{call.function.name}": {error}', BAD_GATEWAY)
    except (Skip, Reject, ValueError) as error:
        return error


def _result(call: Call, result: Result) -> Any:
    """Return the result that an answer holds, and emit what it says."""
    outcome = result.WhichOneof("outcome")
    if outcome == "skip":
        raise Skip(result.skip.reason)
    if outcome == "reject":
        status = result.reject.status
        raise Reject(result.reject.reason, status if 400 <= status < 600 else 422)
    for one in result.emissions:
        optional = {name: getattr(one, name) for name in ("key", "priority", "id", "subject") if one.HasField(name)}
        data = read_json(f'the data of "{one.type}" that the service emits', one.json) if one.json else None
        call.context.emit(one.type, data, delay=one.delay, **optional)
    if outcome == "binary":
        return result.binary
    return read_json("the result of the service", result.json) if result.json else None


def _refusal(name: str, timeout: float, target: GrpcSettings, error: grpc.aio.AioRpcError) -> Exception:
    """Return the error for a status that is not OK."""
    code = error.code()
    details = shown(error.details() or "", parts_of(target.metadata.values())) or "no more is said"
    told = f'"{name}": expected a result, found {code.name}: {details}'
    if code in FOR_GOOD:
        return Reject(told, FOR_GOOD[code])
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return StepTimeout(f'"{name}": expected a result within {timeout:g} s, found {code.name}: {details}; see to the service')
    pause = 0.0
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-retry-pushback-ms":
            with suppress(ValueError):
                pause = float(value) / 1000
    return Unavailable(f"{told}; see to the service", pause)
