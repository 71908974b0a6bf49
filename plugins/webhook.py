"""The sink `webhook`: CloudEvents to a server, over HTTP.

What the server answers decides: 2xx means that it has the event; 408, 425, 429, 5xx and no answer at all that the
event is tried again, not before the time that `Retry-After` asks for; anything else, redirects included, that it is
refused for good. Errors show the beginning of an answer, and it may repeat what it was sent: what could be a secret,
which is the value of any header and the path and the query of `url`, is struck out.
"""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import Literal

import aiohttp
import msgspec
from yarl import URL

from runtime import Event, MalformedEvent, PartialFailure, Reject, Sink, Unavailable, cloudevents, hookimpl

AGAIN = frozenset({408, 425, 429, *range(500, 600)})  # another attempt may succeed
SUSPECT = frozenset({400, 413, 422})  # of a batch that is refused so, a single event may be the cause
LARGE = 1024 * 1024  # bytes of a body that are not handed to the socket at once
LONGEST = 64 * 1024  # bytes of an answer after which no more are read
PATIENCE = 1.0  # seconds for the body of an answer
SHOWN = 300  # characters of an answer in a message

_HEADER = re.compile(r"(?!ce-|content-|transfer-encoding$)[\w!#$%&'*+.^`|~-]+", re.ASCII | re.IGNORECASE)


class Auth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the server asks for: a `bearer` token, or as `basic` a "USER:PASSWORD"."""

    bearer: str | None = None
    basic: str | None = None

    def __post_init__(self) -> None:
        if (self.bearer is None) == (self.basic is None):
            raise ValueError("expected either `bearer` or `basic`; give one of them")


class SinkOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where to send events, and how; `ca` is a file of certificates to trust instead of the system's."""

    url: str
    mode: Literal["structured", "binary", "batch"] = "structured"
    auth: Auth | None = None
    headers: dict[str, str] = {}
    ca: str | None = None


class Webhook(Sink):
    """Sends events one after the other, or with `mode = "batch"` together.

    A batch that is refused is sent again one by one, so that only the event that is the cause ends as a dead letter.
    """

    Options = SinkOptions

    def __init__(self, name: str, options: SinkOptions) -> None:
        super().__init__(name, options)
        self._url = _address(options.url)
        self._headers = dict(_headers(options))
        self._secrets = sorted(_secrets(self._url, self._headers.values(), options.auth), key=len, reverse=True)
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make ready; connections are made when there is something to send, and used again.

        Raises:
            OSError: `ca` cannot be read.
        """
        connector = aiohttp.TCPConnector(limit=0, ssl=self._trusted())  # `concurrency` is the limit
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity", **self._headers},
            skip_auto_headers=["Content-Type"],
            timeout=aiohttp.ClientTimeout(total=None),  # the sink's `timeout` cancels
            auto_decompress=False,
        )

    def _trusted(self) -> ssl.SSLContext | bool:
        if self.options.ca is None:
            return True
        path = self.folder / self.options.ca
        try:
            return ssl.create_default_context(cafile=path)
        except OSError as error:
            raise OSError(f"ca: expected certificates in PEM at {path}, found {type(error).__name__}: {error}; correct it") from None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def write(self, events: list[Event]) -> None:
        """Send the events; when the server asks for time, those behind are not sent either.

        Raises:
            PartialFailure: some were not taken; each has the error that says why.
            Reject: the batch is refused for good.
            Unavailable: the batch is to be sent again.
        """
        if self.options.mode == "batch":
            try:
                await self._post({"Content-Type": cloudevents.BATCH_TYPE}, cloudevents.encode_batch(events))
            except Reject as refusal:
                if len(events) == 1 or refusal.status not in SUSPECT:
                    raise
            else:
                return
        failures: dict[str, str | Exception] = {}
        for index, event in enumerate(events):
            try:
                await self._post(*self._message(event))
            except (Reject, Unavailable) as error:
                failures[event.id] = error
                if isinstance(error, Unavailable) and error.retry_after:
                    failures |= dict.fromkeys((other.id for other in events[index:]), error)
                    break
        if failures:
            raise PartialFailure(failures)

    def _message(self, event: Event) -> tuple[dict[str, str], bytes]:
        """Return the headers and the body for one event."""
        if self.options.mode == "batch":
            return {"Content-Type": cloudevents.BATCH_TYPE}, cloudevents.encode_batch([event])
        if self.options.mode == "structured":
            return {"Content-Type": cloudevents.EVENT_TYPE}, cloudevents.encode(event)
        try:
            return cloudevents.to_binary(event)
        except MalformedEvent as error:
            raise Reject(str(error)) from None

    async def _post(self, headers: dict[str, str], body: bytes) -> None:
        """Send one request.

        Raises:
            Reject: it is refused for good.
            Unavailable: it is to be sent again.
        """
        assert self._session is not None
        data = body if len(body) < LARGE else BytesIO(body)
        try:
            async with self._session.post(self._url, data=data, headers=headers, allow_redirects=False) as answer:
                said = await _beginning(answer)
        except (aiohttp.ClientError, OSError) as error:
            told = self._shown(str(error))  # which may show the url
            raise Unavailable(f"expected an answer, found {type(error).__name__}: {told}; see to the server") from None
        status = answer.status
        if 300 <= status < 400:
            where = self._origin(answer.headers.get("Location", ""))
            raise Reject(f"expected 2xx, found {status}, a redirect to {where}, which is not followed; correct `url`")
        told = f"expected 2xx, found {status}: {self._shown(said.decode(errors='replace')) or 'no more is said'}"
        if status in AGAIN:
            raise Unavailable(f"{told}; see to the server", _seconds(answer.headers.get("Retry-After", ""), self.clock.time()))
        if not 200 <= status < 300:
            raise Reject(f"{told}; correct the options of the sink, or what makes the event", min(max(status, 400), 599))

    def _origin(self, location: str) -> str:
        """Return the server that a redirect leads to; the rest of an address may be secret."""
        with suppress(ValueError):
            return str(self._url.join(URL(location)).origin())
        return "nowhere"

    def _shown(self, text: str) -> str:
        """Return the beginning of a text of the server, on one line and without secrets."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
        return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


@hookimpl
def register_sinks() -> Mapping[str, type[Sink]]:
    """Offer the sink."""
    return {"webhook": Webhook}


def _address(text: str) -> URL:
    """Return the address that events are sent to; a ValueError says what is wrong with it, but shows nothing of it."""
    try:
        url = URL(text)
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError('url: expected an address like "https://example.com/events", found something else; correct it')
    if url.user is not None or url.password is not None:
        raise ValueError('url: expected no user and no password in it, found some; write `auth = { basic = "USER:PASSWORD" }`')
    return url


def _headers(options: SinkOptions) -> Iterator[tuple[str, str]]:
    """Yield the headers of all requests; a ValueError names the one that is wrong, but does not show its value."""
    given = dict(options.headers)
    if options.auth is not None:
        if any(name.lower() == "authorization" for name in given):
            raise ValueError("headers: expected no Authorization beside `auth`, found one; remove one of them")
        basic = base64.b64encode((options.auth.basic or "").encode()).decode()
        given["Authorization"] = f"Basic {basic}" if options.auth.bearer is None else f"Bearer {options.auth.bearer}"
    for name, value in given.items():
        if not _HEADER.fullmatch(name):
            raise ValueError(f'headers: "{name}" is no name of a header, or of one that the sink sets itself; remove it')
        if re.search(r"[\x00-\x1f\x7f]", value):
            raise ValueError(f"{name}: expected text without control characters, found some, perhaps a line break; remove them")
        yield name, value


def _secrets(url: URL, values: Collection[str], auth: Auth | None) -> set[str]:
    """Return what may not be shown, whole and in part; what is shorter than four characters would strike out all and sundry."""
    basic = auth.basic or "" if auth else ""
    parts = [basic, basic.partition(":")[2], url.path, url.raw_path, url.query_string, url.raw_query_string, *url.query.values()]
    return {part for part in (*parts, *values, *(value.rpartition(" ")[2] for value in values)) if len(part) > 3}


async def _beginning(answer: aiohttp.ClientResponse) -> bytes:
    """Return the beginning of what an answer says; one that was read to its end leaves the connection fit to be used again."""
    said = b""
    with suppress(aiohttp.ClientError, TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while len(said) < LONGEST and (part := await answer.content.readany()):
                said += part
    return said


def _seconds(retry_after: str, now: float) -> float:
    """Return how many seconds `Retry-After` asks for, as a number of them or as a date; 0 when it cannot be read."""
    with suppress(ValueError):
        return float(retry_after)
    with suppress(ValueError, OverflowError):
        return parsedate_to_datetime(retry_after).timestamp() - now
    return 0.0
