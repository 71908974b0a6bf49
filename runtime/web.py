"""HTTP requests and answers: bodies within limits, whole answers, problems.

Sources that are called from outside (`http`) and the admin API answer by this; what a caller is told of an
error is decided here alone. It is ASGI, with one exception: where `receive` and `send` are uvicorn's own, a body
that has come whole is taken, and an answer written, in one go, which is a third of what a request costs.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import lru_cache
from http import HTTPStatus
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from runtime.errors import DataError, Error, Full, JournalError, MalformedEvent, NotRouted, ResultTimeout, RunFailed, Stopping

DROPPED = 16 * 1024 * 1024  # bytes
AT_ONCE = 64 * 1024  # bytes of a body beyond which uvicorn stops reading until it is asked for more
BODY_PATIENCE = 30.0  # seconds that a body may take
LONGEST_WAIT = 86_400  # seconds that a caller may wait for a result

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Mapping[str, str | list[str]]


class Problem(Exception):
    """Raised when a request cannot be answered; `detail` says why and what is allowed, `headers` go with it."""

    def __init__(self, status: int, detail: str, **headers: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def body(self) -> bytes:
        """Return the problem as `application/problem+json`."""
        try:
            title = HTTPStatus(self.status).phrase
        except ValueError:
            title = "Error"
        return msgspec.json.encode({"type": "about:blank", "title": title, "status": self.status, "detail": self.detail})


def problem_of(error: Error, *, public: bool = False) -> Problem:  # noqa: PLR0911 - a table
    """Return what a caller who sends an event, or waits for its result, is told of an error.

    A `public` caller is a stranger: the reason of a `Reject` is for them, what went wrong inside is not.
    """
    text = _public_text(error) if public else str(error)
    match error:
        case MalformedEvent():
            return Problem(415 if error.unsupported else 400, text)
        case NotRouted(removed=False):
            return Problem(404, text)
        case DataError():
            return Problem(422, text)
        case Full():
            return Problem(503, text, retry_after=f"{max(1, round(error.retry_after))}")
        case NotRouted() | JournalError() | Stopping():
            return Problem(503, text, retry_after="5")
        case ResultTimeout():
            return Problem(504, text)
        case RunFailed():
            return Problem(error.status if 400 <= error.status < 600 else 500, text)
    return Problem(500, text)


def _public_text(error: Error) -> str:
    match error:
        case RunFailed(rejected=True):
            return error.reason or f"event {error.id} was rejected"
        case RunFailed():
            return f"event {error.id} failed"
        case JournalError():
            return "events cannot be recorded now; try again later"
        case MalformedEvent() | NotRouted() | DataError() | Full() | ResultTimeout() | Stopping():
            return str(error)
    return "the request failed"


def read_wait(text: str | None) -> float | None:
    """Return the seconds of `?wait=`, or None when it is not given.

    Raises:
        Problem: it is no such number (400).
    """
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= LONGEST_WAIT:
        raise Problem(400, f'wait: "{text}" is not allowed; it is a number of seconds above 0, at most {LONGEST_WAIT}')
    return seconds


async def read_body(receive: Receive, limit: int) -> bytes:
    """Return the body of a request of at most `limit` bytes, sent within `BODY_PATIENCE` seconds.

    Of a larger one the rest is read and dropped, up to `DROPPED` bytes: most clients read no answer before
    they have sent all.

    Raises:
        Problem: it is larger (413), takes longer (408), or the client has gone (400).
    """
    cycle = _cycle_of(receive)
    if cycle is not None and not cycle.more_body and len(cycle.body) <= min(limit, AT_ONCE) and not cycle.disconnected:
        return bytes(cycle.body)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_PATIENCE):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Problem(400, "the connection was closed before the body had ended")
                chunk = message.get("body", b"")
                more = message.get("more_body", False)
                size += len(chunk)
                if size <= limit:
                    chunks.append(chunk)
                    if not more:
                        return chunks[0] if len(chunks) == 1 else b"".join(chunks)
                elif not more or size > limit + DROPPED:
                    raise Problem(413, f"the body is larger than {limit} bytes", connection="close")
    except TimeoutError:
        raise Problem(408, f"the body took longer than {BODY_PATIENCE:g} s", connection="close") from None


async def respond(send: Send, status: int, body: bytes, media_type: str = "application/json", headers: Headers | None = None) -> None:
    """Send a whole answer; a 204 or 304 has no body.

    `headers` have lower-case names, and a list where one is to be sent several times; a `content-type` there goes before `media_type`.
    """
    cycle = _cycle_of(send)
    if cycle is not None and not headers and status >= 200 and status not in (204, 304) and _write(cycle, status, media_type, body):
        return
    body = b"" if status in (204, 304) else body
    pairs = [] if status in (204, 304) else [(b"content-length", b"%d" % len(body))]
    if not (headers and "content-type" in headers) and pairs:
        pairs.append((b"content-type", media_type.encode()))
    for name, value in (headers or {}).items():
        lines = [value] if isinstance(value, str) else value
        pairs += [(name.encode("latin-1"), line.encode("latin-1", "replace")) for line in lines]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


async def respond_problem(send: Send, problem: Problem, headers: Headers | None = None) -> None:
    """Send a problem; `headers` go beside its own."""
    await respond(send, problem.status, problem.body(), "application/problem+json", {**problem.headers, **(headers or {})})


def _cycle_of(bound: Receive | Send) -> RequestResponseCycle | None:
    """Return what uvicorn knows of a request, unless something stands between it and us."""
    cycle = getattr(bound, "__self__", None)
    return cycle if type(cycle) is RequestResponseCycle else None


def _write(cycle: RequestResponseCycle, status: int, media_type: str, body: bytes) -> bool:
    """Write an answer as uvicorn does, but in one go; return False when that cannot be done now."""
    if cycle.flow.write_paused or cycle.disconnected or cycle.response_started or cycle.scope["method"] == "HEAD":
        return False
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    lines = [_head(status, media_type), b"content-length: %d\r\n" % len(body)]
    for name, value in cycle.default_headers:
        lines += (name, b": ", value, b"\r\n")
    lines += (b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n", body)
    cycle.transport.write(b"".join(lines))
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True


@lru_cache(64)
def _head(status: int, media_type: str) -> bytes:
    if not media_type.isprintable():
        raise ValueError(f"expected a media type, found {media_type!r}; it may not end its line")
    return STATUS_LINE[status] + b"content-type: " + media_type.encode() + b"\r\n"
