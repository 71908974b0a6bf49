"""What the source and the sink `postgres` have in common: how they connect, and what the columns of a row mean."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import unquote, urlsplit

import asyncpg
import msgspec

from runtime import Event, Malformed, MalformedEvent, bindings, cloudevents, codec, redaction

from ._tls import Tls

PATIENCE = 60.0  # seconds that an answer of the server may take
CONNECTING = 10.0  # seconds

FAULTS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
ATTRIBUTES: Final = ("id", "type", "source", "subject", "time", "datacontenttype", "dataschema", "priority", "due")  # as in CloudEvents
COLUMNS: Final = (*ATTRIBUTES, "key", "data", "extensions", *bindings.TRACE)
"""The columns that mean something, each of which a table may lack."""

Text = Annotated[str, msgspec.Meta(min_length=1)]
Url = Annotated[str, msgspec.Meta(pattern="^postgres(ql)?://", examples=["postgres://127.0.0.1:5432/shop"])]


class Connection:
    """A connection; when it is lost it stays so, and `woken` is called, as it is for each notification that is listened to."""

    def __init__(self, log: logging.Logger, url: str, user: str | None, password: str | None, tls: Tls | None, folder: Path) -> None:
        self._log = log
        self._url = url
        self._user = user
        self._password = password
        self._tls = tls
        self._folder = folder
        words = urlsplit(url).netloc.rpartition("@")[0]
        known = words.partition(":")[2]
        self._secrets = [text for text in (password, words, known, unquote(known)) if text]
        self.woken: Callable[[], None] = lambda: None

    async def open(self, channel: str | None = None) -> None:
        """Connect, and listen to a channel.

        Raises:
            ConnectionError: the server does not answer, or refuses; the text says why.
        """
        with self.telling():
            try:
                self.client = await asyncpg.connect(
                    self._url,
                    user=self._user,
                    password=self._password,
                    ssl=self._tls.context(self._folder) if self._tls else None,
                    timeout=CONNECTING,
                    command_timeout=PATIENCE,
                    server_settings={
                        "application_name": f"runtime {self._log.name}",
                        "timezone": "UTC",
                        "DateStyle": "ISO",
                        "synchronize_seqscans": "off",  # a table without an order is read from its beginning
                        "idle_in_transaction_session_timeout": "0",  # while the runtime is full, a batch waits in its transaction
                    },
                )
            except ValueError as error:  # what the URL says is no configuration
                raise ConnectionError(self.shown(f"`url`: {error}")) from None
        self.client.add_termination_listener(lambda _: self.woken())
        if channel is not None:
            with self.telling():
                await self.client.add_listener(channel, lambda *_: self.woken())

    async def close(self) -> None:
        """Take back what is not committed, and disconnect."""
        try:
            async with asyncio.timeout(1):
                if self.client.is_in_transaction():
                    await self.client.execute("ROLLBACK")
                await self.client.close()
        except FAULTS:
            with suppress(*FAULTS):
                self.client.terminate()

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Raise what the server or the client says as a ConnectionError, after which the connection is made anew."""
        try:
            yield
        except FAULTS as error:
            text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise ConnectionError(self.shown(text)) from None

    def shown(self, text: str) -> str:
        """Return a text without what is secret."""
        return redaction.shown(text, self._secrets)

    async def table(self, name: str) -> str:
        """Return the name of a table as it stands in SQL.

        Raises:
            ConnectionError: there is none, or it is no name.
        """
        with self.telling():
            found: str | None = await self.client.fetchval("SELECT to_regclass($1)::text", name)
        if found is None:
            raise ConnectionError(f'`table`: expected a table "{name}", found none; make it, or correct `table`')
        return found

    async def columns(self, rows: str) -> dict[str, str]:
        """Return the type of each column by name, as it stands in SQL; `rows` is what may stand behind FROM."""
        with self.telling():
            prepared = await self.client.prepare(f"SELECT * FROM {rows} LIMIT 0")  # noqa: S608 - of the configuration
        return {one.name: f"{quoted(one.type.schema)}.{quoted(one.type.name)}" for one in prepared.get_attributes()}


def quoted(name: str) -> str:
    """Return a name as it stands in SQL."""
    return '"' + name.replace('"', '""') + '"'


class Rows:
    """Makes events of rows, as JSON that PostgreSQL has made of them; one that cannot be understood becomes a `Malformed`.

    With `data` among the columns, and always in a table, each column means the attribute of that name. Otherwise the
    row is the data. `type` is the option of that name, a text or a template over `{column.NAME}`.
    """

    def __init__(self, name: str, type: str | None) -> None:
        self._source = f"source/{name}"
        self._type = None if type is None else bindings.template("type", type, (), "column")

    def describe(self, columns: Mapping[str, str], *, is_table: bool) -> None:
        """Take the columns that rows have, and their types.

        Raises:
            ConnectionError: nothing says which type the events have.
        """
        self._is_event = is_table or "data" in columns
        if self._type is None and not (self._is_event and "type" in columns):
            raise ConnectionError('expected a column "type" beside "data", or the option `type`, found neither; give one of them')
        self._zoneless = [name for name in ("time", "due") if columns.get(name) == '"pg_catalog"."timestamp"']
        self._is_bytes = columns.get("data") == '"pg_catalog"."bytea"'

    def __call__(self, raw: str, cursor: tuple[str, str] | None, place: str = "") -> Event:
        """Return the event of a row; `place` is its id when it says none, `cursor` the column it was found by, and its value."""
        body = raw.encode()
        id = place or f"{cursor[1] if cursor else ''}:{hashlib.blake2b(body, digest_size=8).hexdigest()}"
        try:
            row = codec.read_json("the row", body)
            id = self._id(row, cursor) or id
            return self._event(row, id)
        except bindings.Missing as error:
            why = f"expected a row with something for the place {error} of `type`, found nothing"
        except MalformedEvent as error:
            why = str(error)
        return Malformed(type=bindings.UNKNOWN, source=self._source, id=id, data=body, why=why)

    def _id(self, row: dict[str, Any], cursor: tuple[str, str] | None) -> str:
        """Return the id that a row says; when it is found by another column, which changes, each change is an event of its own."""
        id = row.get("id") if self._is_event else None
        if id is None:
            return ""
        return str(id) if cursor is None or cursor[0] == "id" else f"{id}:{cursor[1]}"

    def _event(self, row: dict[str, Any], id: str) -> Event:
        said: dict[str, Any] = {"specversion": "1.0", "source": self._source, "id": id}
        if self._type is not None:
            said["type"] = self._type.fill(lambda place: _text(row.get(place[7:])))
        if not self._is_event:
            return cloudevents.from_dict({**said, "data": row})
        extensions = row.get("extensions")
        if isinstance(extensions, dict):
            said = {**extensions, **said}
        said |= {name: row[name] for name in bindings.TRACE if row.get(name) is not None}
        said |= {
            name: row[name] for name in ATTRIBUTES if row.get(name) is not None and name != "id" and not (name == "type" and self._type)
        }
        said |= {name: f"{said[name]}Z" for name in self._zoneless if name in said}
        if row.get("key") is not None:
            said["partitionkey"] = _text(row["key"])
        event = cloudevents.from_dict({**said, "data": row.get("data")})
        if self._is_bytes and event.data is not None:
            return msgspec.structs.replace(event, data=bytes.fromhex(event.data[2:]))
        return event


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()
