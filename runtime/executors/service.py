"""Calls functions that are remote services, over HTTP or gRPC.

The client of each kind is imported when the first function of that kind is called, and keeps its connections.
"""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Protocol

from runtime.contracts import Call, Clock
from runtime.settings import GrpcSettings


class Client(Protocol):
    """Calls services of one kind."""

    def call(self, call: Call) -> Awaitable[Any]:
        """Return the awaitable of one call; see `runtime.contracts.Executor`."""

    async def close(self) -> None:
        """Close the connections; what is under way fails."""


class Services:
    """The clients of remote services, by the kind of their target; `folder` is that of the configuration file."""

    def __init__(self, clock: Clock, folder: Path) -> None:
        self._clock = clock
        self._folder = folder
        self._clients: dict[type, Client] = {}

    def call(self, call: Call) -> Awaitable[Any]:
        """Return the awaitable of one call; see `runtime.contracts.Executor`."""
        kind = type(call.function.call)
        client = self._clients.get(kind)
        if client is None:
            client = self._clients[kind] = self._make(kind)
        return client.call(call)

    def _make(self, kind: type) -> Client:
        if kind is GrpcSettings:
            from runtime.executors.grpc import GrpcClient  # noqa: PLC0415 - needs an extra

            return GrpcClient(self._folder)
        from runtime.executors.post import HttpClient  # noqa: PLC0415 - needs an extra

        return HttpClient(self._clock)

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await client.close()
        self._clients.clear()
