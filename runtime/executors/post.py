"""Calls services over HTTP: a POST with the event, in the binary mode of CloudEvents.

In that mode the body is the data alone, so that a service which knows nothing of CloudEvents is fine, too. What it
answers decides: 2xx is the result; 408, 425, 429, 5xx and no answer at all mean that the attempt is repeated, not before
the time that `Retry-After` asks for; anything else is for good.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import aiohttp

from runtime import cloudevents, posting
from runtime.contracts import Call, Clock
from runtime.errors import MalformedEvent, Reject, Unavailable
from runtime.executors.remote import LARGEST, outgoing
from runtime.redaction import shown
from runtime.settings import ServiceSettings

CREDENTIALS = frozenset({401, 403, 407})  # of the runtime: nothing that a caller could mend
BAD_GATEWAY = 502  # what a caller is told of a service that is at fault, or of how it is configured


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
        try:
            async with self._opened().post(target.url, data=posting.payload_of(body), headers=headers, allow_redirects=False) as answer:
                if 200 <= answer.status < 300:
                    return _result(name, answer, await _read(answer, LARGEST))
                said = await posting.beginning(answer)
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
            self._session = posting.open_session()
        return self._session

    def _refusal(self, name: str, target: ServiceSettings, answer: aiohttp.ClientResponse, said: str) -> Exception:
        """Return the error for an answer that is not 2xx."""
        status = answer.status
        found = f'"{name}": expected 2xx, found {status}'
        if 300 <= status < 400:
            where = posting.origin_of(target.url, answer.headers.get("Location", ""))
            return Reject(f"{found}, a redirect to {where}, which is not followed; correct `url`", BAD_GATEWAY)
        told = f"{found}: {shown(said, _secrets(target)) or 'no more is said'}"
        if status in posting.AGAIN:
            return Unavailable(f"{told}; see to the service", posting.seconds_of(answer.headers.get("Retry-After", ""), self._clock.time()))
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


def _secrets(target: ServiceSettings) -> list[str]:
    return posting.secrets_of(target.url, target.headers.values())
