"""The sink `webhook`: CloudEvents to a server, over HTTP.

What the server answers decides: 2xx means that it has the event; 408, 425, 429, 5xx and no answer at all that the
event is tried again, not before the time that `Retry-After` asks for; anything else, redirects included, that it is
refused for good. Errors show the beginning of an answer, and it may repeat what it was sent: what could be a secret,
which is the value of any header and the path and the query of `url`, is struck out.
"""

from __future__ import annotations

import base64
import re
import ssl
from collections.abc import Iterator, Mapping
from typing import Literal

import aiohttp
import msgspec
from yarl import URL

from runtime import Event, MalformedEvent, PartialFailure, Reject, Sink, Unavailable, cloudevents, hookimpl, posting, redaction

SUSPECT = frozenset({400, 413, 422})  # of a batch that is refused so, a single event may be the cause

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
        self._secrets = _secrets(options, self._headers)
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make ready; connections are made when there is something to send, and used again.

        Raises:
            OSError: `ca` cannot be read.
        """
        self._session = posting.open_session(self._headers, trusted=self._trusted())

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
        try:
            async with self._session.post(self._url, data=posting.payload_of(body), headers=headers, allow_redirects=False) as answer:
                said = await posting.beginning(answer)
        except (aiohttp.ClientError, OSError) as error:
            told = self._shown(str(error))  # which may show the url
            raise Unavailable(f"expected an answer, found {type(error).__name__}: {told}; see to the server") from None
        status = answer.status
        if 300 <= status < 400:
            where = posting.origin_of(self._url, answer.headers.get("Location", ""))
            raise Reject(f"expected 2xx, found {status}, a redirect to {where}, which is not followed; correct `url`")
        told = f"expected 2xx, found {status}: {self._shown(said) or 'no more is said'}"
        if status in posting.AGAIN:
            raise Unavailable(f"{told}; see to the server", posting.seconds_of(answer.headers.get("Retry-After", ""), self.clock.time()))
        if not 200 <= status < 300:
            raise Reject(f"{told}; correct the options of the sink, or what makes the event", min(max(status, 400), 599))

    def _shown(self, text: str) -> str:
        return redaction.shown(text, self._secrets)


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


def _secrets(options: SinkOptions, headers: Mapping[str, str]) -> list[str]:
    """Return what may not be shown, whole and in part."""
    basic = options.auth.basic or "" if options.auth else ""
    return [basic, basic.partition(":")[2], *posting.secrets_of(options.url, headers.values())]
