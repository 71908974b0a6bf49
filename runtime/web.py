"""HTTP inside the runtime's own loop: a server for an ASGI app, bodies within limits, answers and problems.

Sources that are called from outside (`http`) and the admin API serve by this; what a caller is told of an
error is decided here alone.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any

import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from runtime.config import parse_listen
from runtime.errors import DataError, Error, Full, JournalError, MalformedEvent, NotRouted, ResultTimeout, RunFailed, Stopping

DROPPED = 16 * 1024 * 1024  # bytes
HEAD_SIZE = 64 * 1024  # bytes that the headers of a request may have
HEAD_PATIENCE = 10.0  # seconds they may take
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


async def read_body(receive: Receive, limit: int, patience: float = 30.0) -> bytes:
    """Return the body of a request of at most `limit` bytes, sent within `patience` seconds.

    Of a larger one the rest is read and dropped, up to `DROPPED` bytes: most clients read no answer before
    they have sent all.

    Raises:
        Problem: it is larger (413), takes longer (408), or the client has gone (400).
    """
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(patience):
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
        raise Problem(408, f"the body took longer than {patience:g} s", connection="close") from None


async def respond(send: Send, status: int, body: bytes, media_type: str = "application/json", headers: Headers | None = None) -> None:
    """Send a whole answer; a 204 or 304 has no body.

    `headers` have lower-case names, and a list where one is to be sent several times; a `content-type` there goes before `media_type`.
    """
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


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol with limits, in time and bytes, for what comes before a body: it has none of its own."""

    _head = 0  # bytes of a request that has begun and whose headers have not ended; a new connection counts as one
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time for the first request."""
        super().connection_made(transport)
        self._head = 1
        self._watch(0)

    def data_received(self, data: bytes) -> None:
        """Parse what came, and see whether it was all of the headers."""
        super().data_received(data)
        if self._head or self._deadline is not None:
            self._watch(len(data))

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._head = 1
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Let the request be answered."""
        self._head = 0
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time."""
        self._head = 0
        self._watch(0)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, and close."""
        body = Problem(400, f"this is no HTTP request that can be read: {msg}").body()
        lines = ("HTTP/1.1 400 Bad Request", "content-type: application/problem+json", f"content-length: {len(body)}", "connection: close")
        self.transport.write("\r\n".join((*lines, "", "")).encode() + body)
        self.transport.close()

    def _watch(self, size: int) -> None:
        """Cut the connection when its headers have become too large, or do not end in time."""
        self._head += size if self._head else 0
        if self._head > HEAD_SIZE:
            self.transport.abort()
        elif self._head and self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_PATIENCE, self.transport.abort)
        elif not self._head and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _Server(uvicorn.Server):
    """A uvicorn server that leaves the signals of the process alone, and does next to nothing while nobody asks."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.leaving = asyncio.Event()

    async def main_loop(self) -> None:
        """Renew the date in answers once a second until it is to exit; uvicorn's own looks ten times a second whether it is."""
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self.leaving.wait(), 1.0)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take no signals: the command that runs the app does."""
        yield


class WebServer:
    """Serves an ASGI app at `listen` (`host:port`, port 0 for any); `address` is its URL once it has started."""

    def __init__(self, app: AsgiApp, listen: str) -> None:
        self._app = _quiet(app)
        self._host, self._port = parse_listen(listen)
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self.address = ""

    async def start(self) -> None:
        """Listen, and return when requests are answered.

        Raises:
            OSError: the address is in use or not of this machine.
        """
        bound = _bind(self._host, self._port)
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.address = f"http://{host}:{bound.getsockname()[1]}"
        config = uvicorn.Config(
            self._app,
            http=_Protocol,
            interface="asgi3",  # not guessed: a bound method is one too
            lifespan="off",
            log_config=None,
            access_log=False,
            ws="none",
            server_header=False,
            backlog=2048,
        )
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[bound]), name=f"web {self.address}")
        while not self._server.started and not self._task.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.001)
        if self._task.done():
            self._task.result()

    async def wait(self) -> None:
        """Return when the server has stopped; raise what stopped it."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def stop(self, patience: float = 2.0) -> None:
        """Stop listening; requests under way get `patience` seconds to be answered, then are cut off."""
        if self._server is None or self._task is None:
            return
        self._server.should_exit = True
        self._server.leaving.set()
        done, _ = await asyncio.wait([self._task], timeout=patience)
        if not done:
            self._server.force_exit = True
            for task in list(self._server.server_state.tasks):
                task.cancel()
            await asyncio.wait([self._task], timeout=1.0)
        self._server = self._task = None


def _quiet(app: AsgiApp) -> AsgiApp:
    """Return the app with requests that end when the server cuts them off, and are no errors to be logged."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(asyncio.CancelledError):
            await app(scope, receive, send)

    return call


def _bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(2048)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        raise OSError(error.errno, f"{host}:{port}: {error.strerror}") from None
    return bound
