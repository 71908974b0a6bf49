"""What the source and the sink `redis` have in common: how they connect, and how they ask."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from redis.asyncio import connection
from redis.exceptions import ReadOnlyError, RedisError, ResponseError

from runtime import redaction

from ._tls import Tls

BLOCK = 5.0  # seconds that the server holds a question while there is nothing
PATIENCE = 10.0  # seconds that an answer may take beyond that

Text = Annotated[str, msgspec.Meta(min_length=1)]
Part = str | bytes | int | float

_URL = {"connection_class", "host", "port", "path", "db", "username", "password"}


class Server(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the server is, and who one is: `redis://`, with TLS `rediss://`, or `unix://`; `/1` chooses a database."""

    url: Annotated[str, msgspec.Meta(examples=["redis://127.0.0.1:6379"])] = "redis://127.0.0.1:6379"
    user: str | None = None
    password: str | None = None
    tls: Tls | None = None

    def __post_init__(self) -> None:
        scheme = self.url.partition("://")[0]
        if scheme not in ("redis", "rediss", "unix") or self.parts().keys() - _URL:
            raise ValueError("`url`: expected redis://HOST:PORT/DATABASE, rediss:// or unix://PATH, found another; correct it")
        if self.tls is not None and scheme != "rediss":
            raise ValueError("`tls`: expected an `url` of rediss:// beside it, found another; correct it")

    def parts(self) -> dict[str, Any]:
        """Return the `url` taken apart."""
        return dict(connection.parse_url(self.url))


class Connection:
    """A connection of its own; when it is lost it stays so, until it is opened again."""

    def __init__(self, name: str, server: Server, folder: Path) -> None:
        self._name = "runtime-" + re.sub(r"[^!-~]+", "-", name)  # what Redis allows
        self._server = server
        self._folder = folder
        parts = server.parts()
        self._secrets = [word for word in (server.password, parts.get("password")) if word]
        self._client: connection.AbstractConnection | None = None

    async def open(self) -> None:
        """Connect.

        Raises:
            ConnectionError: the server does not answer, or refuses; the text says why.
        """
        parts = self._server.parts()
        kind = parts.pop("connection_class", connection.Connection)
        parts |= {"username": self._server.user} if self._server.user else {}
        parts |= {"password": self._server.password} if self._server.password else {}
        self._client = client = kind(**parts, client_name=self._name, socket_timeout=None, socket_connect_timeout=PATIENCE, protocol=2)
        try:
            if self._server.tls is not None:
                client.ssl_context.context = self._server.tls.context(self._folder)
            async with asyncio.timeout(PATIENCE):
                await client.connect()
        except (RedisError, OSError) as error:
            await self.close()
            raise self._lost(error) from None
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Let go."""
        client, self._client = self._client, None
        if client is not None:
            await client.disconnect(nowait=True)

    async def ask(self, *command: Part) -> Any:
        """Return what the server answers.

        Raises:
            ConnectionError: the connection is lost, or it refuses; the text says why.
        """
        [answer] = await self.ask_all([command])
        if isinstance(answer, ResponseError):
            raise self._refused(answer)
        return answer

    async def ask_all(self, commands: Sequence[Sequence[Part]]) -> list[Any]:
        """Return what the server answers to each; an error stands in the place of its answer.

        Raises:
            ConnectionError: the connection is lost, or leads to a server that does not write any more.
        """
        client = self._connected()
        try:
            async with asyncio.timeout(BLOCK + PATIENCE):  # the library's own may swallow a cancellation
                await client.send_packed_command(client.pack_commands(commands), check_health=False)
                answers = [await self._answer(client) for _ in commands]
        except (RedisError, OSError) as error:
            raise self._lost(error) from None
        for answer in answers:
            if isinstance(answer, ReadOnlyError):
                raise self._lost(answer)
        return answers

    async def wait(self, seconds: float) -> Any:
        """Return what the server says by itself; None when it is silent for so long.

        Raises:
            ConnectionError: the connection is lost.
        """
        client = self._connected()
        try:
            return await client.read_response(timeout=seconds)
        except (RedisError, OSError) as error:
            raise self._lost(error) from None

    async def say(self, *command: Part) -> None:
        """Send what is answered among the rest; see `wait`."""
        client = self._connected()
        try:
            await client.send_packed_command(client.pack_command(*command), check_health=False)
        except (RedisError, OSError) as error:
            raise self._lost(error) from None

    def _connected(self) -> connection.AbstractConnection:
        if self._client is None or not self._client.is_connected:  # it would connect by itself
            raise ConnectionError("the connection is lost: the server has closed it")
        return self._client

    async def _answer(self, client: connection.AbstractConnection) -> Any:
        try:
            return await client.read_response()
        except ResponseError as error:
            return error

    def _lost(self, error: Exception) -> ConnectionError:
        said = f": {error}" if str(error) else ""
        return ConnectionError(self.shown(f"the connection is lost: {type(error).__name__}{said}"))

    def _refused(self, error: Exception) -> ConnectionError:
        return ConnectionError(self.shown(f"the server refuses: {error}"))

    def shown(self, text: str) -> str:
        """Return a text without what is secret."""
        return redaction.shown(text, self._secrets)
