"""Posts over HTTP: what sinks and services that are called have in common. It needs aiohttp, and whoever uses it an extra."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from io import BytesIO

import aiohttp
from yarl import URL

from runtime.redaction import parts_of

AGAIN = frozenset({408, 425, 429, *range(500, 600)})  # statuses after which another attempt may succeed
LARGE = 1024 * 1024  # bytes of a body that are not handed to the socket at once
BEGINNING = 64 * 1024  # bytes of an answer that is only shown, after which no more are read
PATIENCE = 1.0  # seconds for such an answer


def open_session(headers: Mapping[str, str] = {}, *, trusted: ssl.SSLContext | bool = True) -> aiohttp.ClientSession:
    """Return a session without limits of its own, which keeps connections but no cookies; `headers` go with each request."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=trusted),  # `concurrency` is the limit
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity", **headers},
        skip_auto_headers=["Content-Type"],
        timeout=aiohttp.ClientTimeout(total=None),  # the `timeout` of the step cancels
        auto_decompress=False,
    )


def payload_of(body: bytes) -> bytes | BytesIO:
    """Return a body as a request takes it without blocking the loop."""
    return body if len(body) < LARGE else BytesIO(body)


async def beginning(answer: aiohttp.ClientResponse) -> str:
    """Return the beginning of what an answer says; one that was read to its end leaves the connection fit to be used again."""
    said = b""
    with suppress(aiohttp.ClientError, TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while len(said) < BEGINNING and (part := await answer.content.readany()):
                said += part
    return said.decode(errors="replace")


def seconds_of(retry_after: str, now: float) -> float:
    """Return how many seconds `Retry-After` asks for, as a number of them or as a date; 0 when it cannot be read."""
    with suppress(ValueError):
        return float(retry_after)
    with suppress(ValueError, OverflowError):
        return parsedate_to_datetime(retry_after).timestamp() - now
    return 0.0


def origin_of(url: URL | str, location: str) -> str:
    """Return the server that a redirect leads to; the rest of an address may be secret."""
    with suppress(ValueError):
        return str(URL(url).join(URL(location)).origin())
    return "nowhere"


def secrets_of(url: URL | str, values: Iterable[str]) -> list[str]:
    """Return what may not be shown of a request: the path and the query of its address, and `values` such as those of headers."""
    url = URL(url)
    return [*parts_of(values), url.path, url.raw_path, url.query_string, url.raw_query_string, *url.query.values()]
