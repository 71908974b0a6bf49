"""What the source and the sink `kafka` have in common: how they connect, and how they notice that nobody is there."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

from runtime import redaction

from ._tls import Tls

TRIES, PATIENCE = 20, 0.5  # how often to ask for the brokers, and seconds for each answer
DOWN = (KafkaError._ALL_BROKERS_DOWN, KafkaError._AUTHENTICATION, KafkaError._SSL)  # noqa: SLF001 - so they are called
QUIET = logging.getLogger("runtime.librdkafka")  # what the library says of each connection; errors are our state
QUIET.setLevel(logging.CRITICAL + 1)

Text = Annotated[str, msgspec.Meta(min_length=1)]
Servers = Annotated[str | list[str], msgspec.Meta(examples=["127.0.0.1:9092"])]
Settings = dict[str, str | int | float | bool]
Client = TypeVar("Client", Consumer, Producer)

OURS = {
    "bootstrap.servers": "servers",
    "metadata.broker.list": "servers",
    "group.id": "group",
    "auto.offset.reset": "start",
    "security.protocol": "access` and `tls",
    "sasl.mechanism": "access",
    "sasl.mechanisms": "access",
    "sasl.username": "access",
    "sasl.password": "access",
}
FIXED = ("acks", "request.required.acks", "enable.idempotence", "enable.auto.commit", "enable.auto.offset.store", "logger", "error_cb")


class Access(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who one is: `user` and `password`, which go over by SASL with this `mechanism`."""

    user: Text
    password: str
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"


def check_settings(settings: Settings) -> None:
    """See to it that settings of librdkafka do not say what our options say, or what would lose messages.

    Raises:
        ValueError: one does.
    """
    for name in settings:
        if name in OURS:
            raise ValueError(f"`settings`: expected no {name}, found one; say it by `{OURS[name]}`")
        if name in FIXED:
            raise ValueError(f"`settings`: expected no {name}, which is fixed so that nothing is lost, found one; remove it")


class Connection:
    """How to reach a cluster; `is_down` when the client says that it cannot any more, and then `why`."""

    def __init__(self, name: str, servers: str | list[str], access: Access | None, tls: Tls | None, settings: Settings) -> None:
        self._access = access
        self._tls = tls
        given: Mapping[str, Any] = {
            "client.id": f"runtime-{name}",
            "bootstrap.servers": servers if isinstance(servers, str) else ",".join(servers),
            "reconnect.backoff.max.ms": 1000,
        }
        self._config = {**given, **settings}
        hidden = ("password", "secret", "config", "pem")
        self._secrets = [str(value) for name, value in settings.items() if any(word in name for word in hidden)]
        self._secrets += [access.password] if access and access.password else []
        self.is_down, self.why = False, ""

    def config(self, folder: Path, **more: Any) -> dict[str, Any]:
        """Return the configuration of a client; the names of `more` have _ for each dot. Paths are relative to `folder`."""
        self.is_down, self.why = False, ""
        found = self._config | {name.replace("_", "."): value for name, value in more.items()}
        access, tls = self._access, self._tls
        if access:
            found |= {"sasl.mechanisms": access.mechanism, "sasl.username": access.user, "sasl.password": access.password}
        found["security.protocol"] = ("sasl_" if access else "") + ("ssl" if tls else "plaintext")
        if tls:
            files = {"ssl.ca.location": tls.ca, "ssl.certificate.location": tls.cert, "ssl.key.location": tls.key or tls.cert}
            found |= {name: str(folder / path) for name, path in files.items() if path}
            found["enable.ssl.certificate.verification"] = tls.verify
        return found | {"error_cb": self._on_error, "logger": QUIET}

    def _on_error(self, error: KafkaError) -> None:
        if error.code() in DOWN or error.fatal():
            self.is_down = True
        if error.code() != KafkaError._ALL_BROKERS_DOWN or not self.why:  # noqa: SLF001 - it says less than those before
            self.why = error.str()

    def make(self, kind: type[Client], config: dict[str, Any]) -> Client:
        """Return a client that has reached the cluster; blocks.

        Raises:
            ConnectionError: nobody answers, or refuses; the text says why.
        """
        try:
            client = kind(config)
        except KafkaException as error:
            raise ConnectionError(self.told(error)) from None
        for _ in range(TRIES):
            if self.is_down or self._answers(client):
                break
        if self.is_down or not self._answers(client):
            raise self.lost()
        return client

    def check(self, client: Consumer | Producer) -> None:
        """See whether the cluster is there, when the client has said that it is not; blocks.

        Raises:
            ConnectionError: it is not.
        """
        if self.is_down:
            self.is_down = not self._answers(client)
            if self.is_down:
                raise self.lost()

    def _answers(self, client: Consumer | Producer) -> bool:
        try:
            client.list_topics(timeout=PATIENCE)
        except KafkaException as error:
            client.poll(0)  # tells what it knows to `_on_error`
            self.why = self.why or self.told(error)
            return False
        return True

    def lost(self) -> ConnectionError:
        """Return the error that says why nobody is there."""
        return ConnectionError(self.shown(f"no broker can be reached: {self.why or 'none answers'}"))

    def told(self, error: KafkaException | KafkaError) -> str:
        """Return what an error says, without what is secret."""
        found = error.args[0] if isinstance(error, KafkaException) else error
        return self.shown(f"{found.name()}: {found.str()}" if isinstance(found, KafkaError) else str(found))

    def shown(self, text: str) -> str:
        """Return a text without what is secret."""
        return redaction.shown(text, self._secrets)
