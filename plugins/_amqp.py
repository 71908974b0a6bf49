"""What the source and the sink `amqp` have in common: how they connect, and what a message of AMQP says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, TypeVar, cast
from urllib.parse import unquote, urlsplit

import aiormq
import msgspec
from aiormq.channel import Channel
from aiormq.exceptions import AMQPError, ChannelNotFoundEntity
from pamqp.commands import Basic
from yarl import URL

from runtime import redaction

from ._tls import Tls

PATIENCE = 10.0  # seconds that an answer of the server may take
HEARTBEAT = 10  # seconds; a server that says nothing for three of them is gone

T = TypeVar("T")
Text = Annotated[str, msgspec.Meta(min_length=1)]
Url = Annotated[str | list[str], msgspec.Meta(examples=["amqp://guest:guest@127.0.0.1:5672/"])]
Exchange = Literal["direct", "topic", "fanout", "headers"]


class Access(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who one is: `user` and `password`, instead of those in the address."""

    user: str
    password: str


def _not_a_lost_connection(record: logging.LogRecord) -> bool:
    return "blocked" in str(record.msg)


logging.getLogger("aiormq.connection").addFilter(_not_a_lost_connection)  # which the state of the source or sink tells, without a traceback


class Missing(ConnectionError):
    """Raised when the server has no such queue or exchange."""


class Connection:
    """A channel to one of several servers; when it is lost it stays so, and `woken` is called."""

    def __init__(self, log: logging.Logger, url: str | list[str], access: Access | None, tls: Tls | None, folder: Path) -> None:
        self._log = log
        self._servers = [url] if isinstance(url, str) else url
        self._access = access
        self._tls = tls
        self._folder = folder
        self._secrets = [access.password] if access else []
        self._secrets += [word for server in self._servers if (word := urlsplit(server).password)]
        self._secrets += [unquote(word) for word in self._secrets]
        self.woken: Callable[[], None] = lambda: None
        self._why = ""
        self._client: aiormq.Connection | None = None
        self.channel: Channel

    async def open(self) -> None:
        """Connect, trying each server once.

        Raises:
            ConnectionError: none answers, or it refuses; the text says why.
        """
        self._why = ""
        for server in self._servers:
            try:
                await self._connect(server)
            except (OSError, AMQPError) as error:
                self._why = _told(error)
            else:
                return
        raise ConnectionError(self.shown(self._why))

    async def _connect(self, server: str) -> None:
        url = URL(server)
        if self._access:
            url = url.with_user(self._access.user).with_password(self._access.password)
        if "heartbeat" not in url.query:
            url = url.extend_query(heartbeat=HEARTBEAT)
        context = self._tls.context(self._folder) if self._tls else None
        self._client = aiormq.Connection(url, context=context, client_properties={"connection_name": f"runtime {self._log.name}"})
        try:
            async with asyncio.timeout(PATIENCE):
                await self._client.connect()
            await self._use()
        except BaseException:
            await self.close()
            raise

    async def asked(self, answer: Awaitable[T]) -> T:
        """Return what the server answers.

        Raises:
            Missing: it has no such thing, and has closed the channel.
            ConnectionError: it refuses, or is gone.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                return await answer
        except ChannelNotFoundEntity as error:
            raise Missing(_told(error)) from None
        except (OSError, AMQPError, RuntimeError) as error:
            raise ConnectionError(self.shown(_told(error))) from None

    async def exchange(self, name: str, kind: Exchange | None) -> None:
        """See to it that there is an exchange; of a `kind` it is made when it is not there.

        Raises:
            ConnectionError: there is none, or one of another kind.
        """
        try:
            await self.asked(self.channel.exchange_declare(name, exchange_type=kind or "direct", passive=kind is None, durable=True))
        except Missing:
            raise ConnectionError(
                f'expected an exchange "{name}", found none; make it, correct `exchange`, or give an `exchange_type` to have it made'
            ) from None

    async def queue(self, name: str, arguments: dict[str, str | int | bool]) -> None:
        """See to it that there is a queue; one that is there stays as it is, another is made, durable and with the arguments.

        Raises:
            ConnectionError: it cannot be asked for, or not be made.
        """
        try:
            await self.asked(self.channel.queue_declare(name, passive=True))
        except Missing:
            await self._use()  # another channel: that one is closed
            await self.asked(self.channel.queue_declare(name, durable=True, arguments=dict(arguments)))

    async def _use(self) -> None:
        """Open a channel."""
        assert self._client is not None
        self.channel = cast("Channel", await self.asked(self._client.channel()))
        self.channel.closing.add_done_callback(self._on_closed)

    async def close(self) -> None:
        """Let go; what was not acknowledged goes back to its queue."""
        if self._client is not None:
            with suppress(TimeoutError, OSError, AMQPError, RuntimeError):
                async with asyncio.timeout(PATIENCE):
                    await self._client.close()

    def _on_closed(self, closing: asyncio.Future[object]) -> None:
        if not closing.cancelled() and (error := closing.exception()) is not None:
            self._why = _told(error)
        self.woken()

    @property
    def is_lost(self) -> bool:
        """Whether it is not there any more."""
        return self.channel.is_closed

    def lost(self, error: BaseException | None = None) -> ConnectionError:
        """Return the error that says why it is lost, as far as that is known."""
        why = self._why or (_told(error) if error else "the server has closed it")
        return ConnectionError(self.shown(f"the connection is lost: {why}"))

    def shown(self, text: str) -> str:
        """Return a text without what is secret."""
        return redaction.shown(text, self._secrets)


def check(url: str | list[str], tls: Tls | None) -> None:
    """See to it that addresses are such.

    Raises:
        ValueError: one is not.
    """
    for server in [url] if isinstance(url, str) else url:
        scheme, wanted = urlsplit(server).scheme, ("amqps",) if tls else ("amqp", "amqps")
        if scheme not in wanted:
            raise ValueError(f"`url`: expected {' or '.join(f'{one}://' for one in wanted)}, found {scheme or 'nothing'}://; correct it")
    if not url:
        raise ValueError("`url`: expected the address of a server, found none; give one")


def headers_of(properties: Basic.Properties) -> Mapping[str, str]:
    """Return the headers of a message as text, with its content type."""
    found = {name.lower(): _text(value) for name, value in (properties.headers or {}).items() if value is not None}
    if properties.content_type:
        found["content-type"] = properties.content_type
    return found


def _text(value: object) -> str:
    if isinstance(value, bytes | bytearray):
        return value.decode(errors="replace")
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _told(error: BaseException) -> str:
    said = ", ".join(str(part) for part in error.args)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
