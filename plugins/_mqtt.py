"""What the source and the sink `mqtt` have in common: how they connect, by MQTT 5."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec
import zmqtt

from runtime import redaction

from ._tls import Tls

PATIENCE = 10.0  # seconds that an answer of the broker may take
KEEPALIVE = 15  # seconds between two signs of life
PORTS = {"mqtt": 1883, "mqtts": 8883}
REFUSALS = {
    0x84: "it does not know MQTT 5",
    0x85: "the client id is not valid",
    0x86: "bad user name or password",
    0x87: "not authorized",
    0x88: "it is not available",
    0x89: "it is busy",
    0x8A: "banned",
}

Text = Annotated[str, msgspec.Meta(min_length=1)]


class Broker(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the broker is, and who one is: `mqtt://HOST:PORT`, with TLS `mqtts://`."""

    url: Annotated[str, msgspec.Meta(examples=["mqtt://127.0.0.1:1883"])] = "mqtt://127.0.0.1:1883"
    user: str | None = None
    password: str | None = None
    client_id: Text | None = None
    tls: Tls | None = None

    def __post_init__(self) -> None:
        parts = self.parts()
        if parts.scheme not in PORTS or not parts.hostname or parts.path.strip("/") or parts.query:
            raise ValueError("`url`: expected mqtt://HOST:PORT or mqtts://HOST:PORT, found another; correct it")
        if self.tls is not None and parts.scheme != "mqtts":
            raise ValueError("`tls`: expected an `url` of mqtts:// beside it, found another; correct it")

    def parts(self) -> SplitResult:
        """Return the `url` taken apart."""
        parts = urlsplit(self.url)
        try:
            _ = parts.port
        except ValueError:
            raise ValueError("`url`: expected a port between 0 and 65535, found another; correct it") from None
        return parts


class Connection:
    """A connection; when it is lost it stays so, until it is opened again."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self._broker = broker
        self._folder = folder
        parts = broker.parts()
        self._user = broker.user or (unquote(parts.username) if parts.username else None)
        self._password = broker.password or (unquote(parts.password) if parts.password else None)
        self._secrets = [word for word in (self._password, parts.password) if word]
        self.client: zmqtt.MQTTClient

    async def open(self, client_id: str, **more: Any) -> None:
        """Connect; with a session that the broker keeps for the `client_id` unless `more` says otherwise.

        Raises:
            ConnectionError: the broker does not answer, or refuses; the text says why.
        """
        parts = self._broker.parts()
        tls = self._broker.tls or Tls()
        self.client = zmqtt.MQTTClient(
            parts.hostname or "",
            parts.port or PORTS[parts.scheme],
            client_id=client_id,
            username=self._user,
            password=self._password,
            keepalive=KEEPALIVE,
            tls=tls.context(self._folder) if parts.scheme == "mqtts" else None,
            reconnect=zmqtt.ReconnectConfig(enabled=False),
            mqtt_connect_timeout=PATIENCE,
            version="5.0",
            **more,
        )
        try:
            async with asyncio.timeout(2 * PATIENCE):
                await self.client.connect()
        except (zmqtt.MQTTError, OSError) as error:
            raise self.lost(error) from None
        protocol = self.client._protocol  # noqa: SLF001 - mosquitto sends more than it may after a restart, for which the client would leave
        assert protocol is not None
        protocol.inbound._receive_maximum = None  # type: ignore[misc]  # noqa: SLF001 - it was told, and is not held to it

    async def close(self) -> None:
        """Say goodbye, and let go."""
        await self.client.disconnect()

    def lost(self, error: Exception) -> ConnectionError:
        """Return the error that says why there is no connection."""
        if isinstance(error, zmqtt.MQTTConnectError):
            why = error.reason_string or REFUSALS.get(error.return_code, "no reason given")
            return ConnectionError(self.shown(f"the broker refuses: {why} (0x{error.return_code:02X})"))
        told = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return ConnectionError(self.shown(f"the connection is lost: {told}"))

    def shown(self, text: str) -> str:
        """Return a text without what is secret."""
        return redaction.shown(text, self._secrets)
