"""The source and the sink `s3`: objects of S3, and of what is like it, as events, and events as objects.

The source lists what is under a prefix, as S3 says nothing by itself, and takes what is new by the time of its change. The cursor
is the latest of these times, and the marks of what was taken shortly before it: objects may appear a while after their time.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlsplit

import msgspec
import obstore
import obstore.store
from obstore.exceptions import BaseError, PreconditionError

from runtime import (
    Event,
    Inlet,
    Malformed,
    MalformedEvent,
    PartialFailure,
    Reject,
    Sink,
    Source,
    bindings,
    cloudevents,
    codec,
    hookimpl,
    redaction,
)

CHUNK = 16 * 1024 * 1024  # bytes of content in one batch, unless one object has more
PLACES = ("type", "source", "id", "subject", "key", "date", "hour")
SECRET = ("secret", "key", "token", "password")  # in the names of what is secret

Text = Annotated[str, msgspec.Meta(min_length=1)]
Url = Annotated[str, msgspec.Meta(pattern="^[a-z0-9+]+://", examples=["s3://orders"])]


class Store:
    """A bucket, or another place for objects, by its address."""

    def __init__(self, url: str, config: Mapping[str, str]) -> None:
        self._secrets = [value for name, value in config.items() if any(word in name.lower() for word in SECRET)]
        if urlsplit(url).scheme == "file":
            self.objects: Any = obstore.store.LocalStore(urlsplit(url).path, mkdir=True)
            return
        limits: dict[str, Any] = {
            "config": dict(config),
            "client_options": {
                "allow_http": any(value.startswith("http://") for value in config.values()),
                "timeout": "60s",
                "connect_timeout": "5s",
            },
            "retry_config": {"max_retries": 2, "retry_timeout": timedelta(seconds=10)},
        }
        self.objects = obstore.store.from_url(url, **limits)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Raise what goes wrong as a ConnectionError, with a text that tells no secrets."""
        try:
            yield
        except (BaseError, OSError) as error:
            raise ConnectionError(redaction.shown(f"{type(error).__name__}: {error}", self._secrets)) from None


class SourceOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which objects under `prefix`, looked for `every` so many seconds, and what of them is the data of events of the type `type`."""

    url: Url
    prefix: Text | None = None
    type: Text
    content: Literal["reference", "text", "json", "bytes"] = "reference"
    max_bytes: Annotated[int, msgspec.Meta(ge=0)] = 1024 * 1024
    every: Annotated[float, msgspec.Meta(ge=0.01, le=86_400)] = 10.0
    overlap: Annotated[float, msgspec.Meta(ge=0, le=604_800)] = 3600.0
    batch: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    config: dict[str, str] = {}


class Place(msgspec.Struct, frozen=True):
    """How far objects were taken: the cursor of the source; `taken` is the time of change by mark."""

    url: str
    until: datetime
    taken: dict[str, datetime]


class S3Source(Source):
    """Brings an event for each new or changed object under a prefix."""

    Options = SourceOptions
    finite = False

    async def open(self) -> None:
        """Make ready.

        Raises:
            ConnectionError: the address or the configuration says no store.
        """
        self._store = _store(self.options.url, self.options.config)
        self._address = f"{self.options.url.rstrip('/')}/{self.options.prefix or ''}"

    async def run(self, inlet: Inlet) -> None:
        """Take objects until cancelled.

        Raises:
            ConnectionError: the store does not answer, or refuses.
            JournalError: objects could not be accepted; they are read again.
        """
        place = self._place(inlet.cursor)
        while True:
            waiting = await self._look(place)
            while waiting:
                batch = self._next(waiting)
                with self._store.telling():
                    events = await asyncio.gather(*(self._event(one, mark) for mark, one in batch))
                place = self._behind(place, batch)
                await inlet.put([event for event in events if event is not None], cursor=msgspec.to_builtins(place))
            await self.clock.sleep(self.options.every)

    def _place(self, cursor: Any) -> Place | None:
        """Return what a cursor says, or None: it may be of another address, or of another plugin."""
        try:
            place = msgspec.convert(cursor, Place)
        except msgspec.ValidationError:
            return None
        return place if place.url == self._address else None

    async def _look(self, place: Place | None) -> list[tuple[str, Any]]:
        """Return the objects that are new, with their marks, in the order of their times; the first is the last."""
        found = []
        since = None if place is None else place.until - timedelta(seconds=self.options.overlap)
        with self._store.telling():
            async for chunk in obstore.list(self._store.objects, self.options.prefix, chunk_size=1000):
                for one in chunk:
                    if since is not None and one["last_modified"] < since:
                        continue
                    mark = _mark(one)
                    if place is None or mark not in place.taken:
                        found.append((mark, one))
        return sorted(found, key=lambda pair: (pair[1]["last_modified"], pair[1]["path"]), reverse=True)

    def _next(self, waiting: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
        """Take the next batch."""
        batch, size = [waiting.pop()], 0
        while waiting and len(batch) < self.options.batch and size < CHUNK:
            batch.append(waiting.pop())
            size += batch[-1][1]["size"] if self.options.content != "reference" else 0
        return batch

    def _behind(self, place: Place | None, batch: Sequence[tuple[str, Any]]) -> Place:
        """Return the place behind a batch; what is older than the overlap is forgotten, as it is not looked at any more."""
        taken = {} if place is None else place.taken
        taken = taken | {mark: one["last_modified"] for mark, one in batch}
        until = max(taken.values())
        since = until - timedelta(seconds=self.options.overlap)
        return Place(self._address, until, {mark: time for mark, time in taken.items() if time >= since})

    async def _event(self, one: Any, mark: str) -> Event | None:
        """Return the event of an object; None: it is gone, or another one by now, which is found by the next look."""
        path, size = one["path"], one["size"]
        said: dict[str, Any] = {
            "type": self.options.type,
            "source": f"source/{self.name}",
            "id": mark,
            "subject": path,
            "time": one["last_modified"],
        }
        content = self.options.content
        if content == "reference":
            url = f"{self.options.url.rstrip('/')}/{path}"
            return Event(**said, data={"url": url, "path": path, "size": size, "etag": one["e_tag"]})
        if size > self.options.max_bytes:
            why = f"{path}: expected at most {self.options.max_bytes} bytes, found {size}; raise `max_bytes`, or take a reference"
            return Malformed(**said, data=b"", why=why)
        try:
            options: Any = {"if_match": one["e_tag"]} if one["e_tag"] else {}
            raw = bytes(await (await obstore.get_async(self._store.objects, path, options=options)).bytes_async())
        except (FileNotFoundError, PreconditionError):
            return None
        try:
            return Event(
                **said, data=raw if content == "bytes" else raw.decode() if content == "text" else codec.read_json("the content", raw)
            )
        except (UnicodeDecodeError, MalformedEvent) as error:
            return Malformed(**said, data=raw, why=f"{path}: {error}")


class SinkOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Under which `path`, a template of attributes; `objects` is one for each event, or one for those of a write with one path."""

    url: Url
    path: Text = "{type}/{date}/{source}-{id}.json"
    objects: Literal["event", "batch"] = "event"
    config: dict[str, str] = {}


class S3Sink(Sink):
    """Writes events as objects, one CloudEvent a line; one that is written again replaces itself."""

    Options = SinkOptions

    def __init__(self, name: str, options: SinkOptions) -> None:
        super().__init__(name, options)
        self._path = bindings.template("path", options.path, PLACES, "extension")
        if "id" not in self._path.places:
            raise ValueError(f'`path`: expected a place {{id}}, so that no object replaces another, found "{options.path}"; add it')

    async def open(self) -> None:
        """Make ready.

        Raises:
            ConnectionError: the address or the configuration says no store.
        """
        self._store = _store(self.options.url, self.options.config)

    async def write(self, events: list[Event]) -> None:
        """Write the events, and return when the store has the objects.

        Raises:
            ConnectionError: the store does not answer, or refuses.
            PartialFailure: some have no path; each has the error that says why.
        """
        failures: dict[str, str | Exception] = {}
        groups: dict[str, list[Event]] = {}
        for event in events:
            try:
                groups.setdefault(self._fill(event, "-" if self.options.objects == "batch" else event.id), []).append(event)
            except Reject as error:
                failures[event.id] = error
        with self._store.telling():
            await asyncio.gather(*(self._put(group) for group in groups.values()))
        if failures:
            raise PartialFailure(failures)

    async def _put(self, group: list[Event]) -> None:
        body = b"".join(cloudevents.encode(event) + b"\n" for event in group)
        await obstore.put_async(self._store.objects, self._fill(group[0], group[0].id), body)

    def _fill(self, event: Event, id: str) -> str:
        time = (event.time or datetime.now(UTC)).astimezone(UTC)
        said = {"id": id, "date": f"{time:%Y-%m-%d}", "hour": f"{time:%H}"}

        def find(place: str) -> str | None:
            value = event.extensions.get(place[10:]) if place.startswith("extension.") else said.get(place) or getattr(event, place)
            return (
                None
                if value is None
                else quote(str(value), safe="").replace(".", "%2E")
                if value in (".", "..")
                else quote(str(value), safe="")
            )

        try:
            return self._path.fill(find)
        except bindings.Missing as error:
            raise Reject(f"`path`: expected an event with something for the place {error}, found nothing") from None


def _store(url: str, config: Mapping[str, str]) -> Store:
    try:
        return Store(url, config)
    except (BaseError, ValueError, OSError) as error:
        raise ConnectionError(f"`url`, `config`: {type(error).__name__}: {error}; correct them") from None


def _mark(one: Any) -> str:
    text = f"{one['path']}\0{one['size']}\0{one['e_tag']}\0{one['last_modified'].isoformat()}"
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


@hookimpl
def register_sources() -> Mapping[str, type[Source]]:
    """Offer the source."""
    return {"s3": S3Source}


@hookimpl
def register_sinks() -> Mapping[str, type[Sink]]:
    """Offer the sink."""
    return {"s3": S3Sink}
