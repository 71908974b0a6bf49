"""What the source and the sink `nats` have in common: how they connect, and what a message of NATS is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec
import nats.errors
from nats.aio.client import Client

from runtime import redaction

from ._tls import Tls

PATIENCE = 10.0  # seconds that an answer of the server may take
SOON = 0.05  # seconds
PINGS = 20  # seconds between two looks whether the server is still there

Text = Annotated[str, msgspec.Meta(min_length=1)]


class Access(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who one is: `user` and `password`, a `token`, or a file: `credentials` (.creds) or the seed of an `nkey`."""

    user: str | None = None
    password: str | None = None
    token: str | None = None
    credentials: str | None = None
    nkey: str | None = None


class Connection:
    """A connection to one of several servers; when it is lost it stays so, and `woken` is called."""

    def __init__(self, log: logging.Logger, url: str | list[str], access: Access | None, tls: Tls | None, folder: Path) -> None:
        self._log = log
        self._dropped = 0  # messages, since it was last told
        self._servers = [url] if isinstance(url, str) else url
        self._access = access or Access()
        self._tls = tls
        self._folder = folder
        self._secrets = [text for text in (self._access.password, self._access.token) if text]
        self._secrets += [server.rpartition("@")[0].partition("://")[2] for server in self._servers]
        self._secrets += [secret.partition(":")[2] for secret in self._secrets if ":" in secret]
        self.woken: Callable[[], None] = lambda: None
        self.client = Client()

    async def open(self) -> None:
        """Connect, trying each server once or twice.

        Raises:
            ConnectionError: none answers, or it refuses; the text says why.
        """
        self._is_lost, self._why = False, ""
        self.client = Client()
        access = self._access
        try:
            async with asyncio.timeout(PATIENCE):
                await self.client.connect(
                    self._servers,
                    name=f"runtime {self._log.name}",
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    ping_interval=PINGS,
                    error_cb=self._on_error,
                    closed_cb=self._on_closed,
                    tls=self._tls.context(self._folder) if self._tls else None,
                    user=access.user,
                    password=access.password,
                    token=access.token,
                    user_credentials=str(self._folder / access.credentials) if access.credentials else None,
                    nkeys_seed=str(self._folder / access.nkey) if access.nkey else None,
                )
        except (OSError, nats.errors.Error, ValueError) as error:
            await self.close()
            raise ConnectionError(self.shown(self._why or _told(error))) from None
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Send what is on its way, and let go."""
        self._is_lost = True
        with suppress(OSError, nats.errors.Error):
            if self.client.is_connected:
                await self.client.flush(1)
        with suppress(OSError, nats.errors.Error):
            await self.client.close()

    async def _on_error(self, error: Exception) -> None:
        """Note an error, and look soon whether it has closed the connection: the client does not always say so."""
        self._why = _told(error)
        loop = asyncio.get_running_loop()
        if isinstance(error, nats.errors.SlowConsumerError):
            self._dropped += 1
            if self._dropped == 1:
                loop.call_later(1, self._tell_dropped)
            return
        loop.call_later(SOON, lambda: self.woken())  # noqa: PLW0108 - it may be another one by then

    def _tell_dropped(self) -> None:
        self._log.warning("the runtime is full: the client has dropped %d messages", self._dropped)
        self._dropped = 0

    async def _on_closed(self) -> None:
        self._is_lost = True
        self.woken()

    @property
    def is_lost(self) -> bool:
        """Whether it is not there any more."""
        return self._is_lost or self.client.is_closed

    def lost(self) -> ConnectionError:
        """Return the error that says why it is lost."""
        return ConnectionError(self.shown(f"the connection is lost: {self._why or 'the server has closed it'}"))

    def shown(self, text: str) -> str:
        """Return a text without what is secret."""
        return redaction.shown(text, self._secrets)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
