"""Calls services over HTTP: a POST with the event, in the binary mode of CloudEvents.

In that mode the body is the data alone, so that a service which knows nothing of CloudEvents is fine, too. What it
answers decides: 2xx is the result; 408, 425, 429, 5xx and no answer at all mean that the attempt is repeated, not before
the time that `Retry-After` asks for; anything else is for good.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from runtime import cloudevents
from runtime.contracts import Call, Clock
from runtime.errors import MalformedEvent, Reject, Unavailable
from runtime.executors.remote import LARGEST, outgoing, parts_of, shown
from runtime.settings import ServiceSettings

AGAIN = frozenset({408, 425, 429, *range(500, 600)})  # another attempt may succeed
CREDENTIALS = frozenset({401, 403, 407})  # of the runtime: nothing that a caller could mend
BAD_GATEWAY = 502  # what a caller is told of a service that is at fault, or of how it is configured
LARGE = 1024 * 1024  # bytes of a body that are not handed to the socket at once
BEGINNING = 64 * 1024  # bytes of an answer that is no result after which no more are read
PATIENCE = 1.0  # seconds for such an answer


class HttpClient:
    """Calls services over HTTP; connections are kept and used again, and as many as there are calls."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def call(self, call: Call) -> Any:
        """Return what the service answers.

        Raises:
            Reject: it refuses for good, or its answer is no result.
            Unavailable: it is to be called again.
        """
        headers, body = self._request(call)
        target, name = call.function.call, call.function.name
        data = body if len(body) < LARGE else BytesIO(body)
        try:
            async with self._opened().post(target.url, data=data, headers=headers, allow_redirects=False) as answer:
                if 200 <= answer.status < 300:
                    return _result(name, answer, await _read(answer, LARGEST))
                said = await _beginning(answer)
        except (aiohttp.ClientError, OSError) as error:
            told = shown(str(error), _secrets(target))  # which may show the url
            raise Unavailable(f'"{name}": expected an answer, found {type(error).__name__}: {told}; see to the service') from None
        raise self._refusal(name, target, answer, said)

    def _request(self, call: Call) -> tuple[dict[str, str], bytes]:
        """Return the headers and the body."""
        (payload,), _ = call.function.parameters.bind(call)
        try:
            headers, body = cloudevents.to_binary(outgoing(call, payload))
        except MalformedEvent as error:
            raise Reject(f'"{call.function.name}": {error}') from None
        headers["idempotency-key"] = quote(call.context.idempotency_key, safe="/")
        return headers | call.function.call.headers, body

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),  # `concurrency` of the function is the limit
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept-Encoding": "identity"},
                skip_auto_headers=["Content-Type"],
                timeout=aiohttp.ClientTimeout(total=None),  # the function's `timeout` cancels
                auto_decompress=False,
            )
        return self._session

    def _refusal(self, name: str, target: ServiceSettings, answer: aiohttp.ClientResponse, said: bytes) -> Exception:
        """Return the error for an answer that is not 2xx."""
        status = answer.status
        found = f'"{name}": expected 2xx, found {status}'
        if 300 <= status < 400:
            where = _origin(target.url, answer.headers.get("Location", ""))
            return Reject(f"{found}, a redirect to {where}, which is not followed; correct `url`", BAD_GATEWAY)
        told = f"{found}: {shown(said.decode(errors='replace'), _secrets(target)) or 'no more is said'}"
        if status in AGAIN:
            return Unavailable(f"{told}; see to the service", _seconds(answer.headers.get("Retry-After", ""), self._clock.time()))
        if status in CREDENTIALS:
            return Reject(f"{told}; correct `headers`, or what the service lets in", BAD_GATEWAY)
        return Reject(told, status if 400 <= status < 500 else BAD_GATEWAY)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def _result(name: str, answer: aiohttp.ClientResponse, body: bytes) -> Any:
    """Return the result that an answer holds."""
    if len(body) > LARGEST:
        limit = f"at most {LARGEST // 2**20} MiB"
        raise Reject(f'"{name}": expected an answer of {limit}, found a larger one; have it answer with less', BAD_GATEWAY)
    try:
        return cloudevents.data_from_http(answer.headers.get("Content-Type", ""), body)
    except MalformedEvent as error:
        raise Reject(f'"{name}": expected a result, found {answer.status} with none: {error}; see to the service', BAD_GATEWAY) from None


async def _read(answer: aiohttp.ClientResponse, limit: int) -> bytes:
    """Return the body of an answer; of one that is longer than the limit a part that is, too."""
    parts, size = [], 0
    while size <= limit and (part := await answer.content.readany()):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


async def _beginning(answer: aiohttp.ClientResponse) -> bytes:
    """Return the beginning of what an answer says; one that was read to its end leaves the connection fit to be used again."""
    with suppress(aiohttp.ClientError, TimeoutError):
        async with asyncio.timeout(PATIENCE):
            return await _read(answer, BEGINNING)
    return b""


def _origin(url: str, location: str) -> str:
    """Return the server that a redirect leads to; the rest of an address may be secret."""
    with suppress(ValueError):
        return str(URL(url).join(URL(location)).origin())
    return "nowhere"


def _secrets(target: ServiceSettings) -> list[str]:
    """Return what may not be shown: the values of headers, and the path and the query of the address."""
    url = URL(target.url)
    return [*parts_of(target.headers.values()), url.path, url.raw_path, url.query_string, url.raw_query_string, *url.query.values()]


def _seconds(retry_after: str, now: float) -> float:
    """Return how many seconds `Retry-After` asks for, as a number of them or as a date; 0 when it cannot be read."""
    with suppress(ValueError):
        return float(retry_after)
    with suppress(ValueError, OverflowError):
        return parsedate_to_datetime(retry_after).timestamp() - now
    return 0.0
