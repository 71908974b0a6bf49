"""The web server: uvicorn in the runtime's own loop, with the limits that it has not."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from runtime.config import parse_listen
from runtime.web import AsgiApp, Problem, Receive, Scope, Send

HEAD_SIZE = 64 * 1024  # bytes that the headers of a request may have
HEAD_PATIENCE = 10.0  # seconds they may take
IDLE = 5.0  # seconds that a connection is kept for a further request


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol with limits, in time and bytes, for what comes before a body: it has none of its own."""

    _head = 0  # bytes that have come of headers which have not ended
    _deadline: asyncio.TimerHandle | None = None
    _idle: asyncio.TimerHandle | None = None
    _idle_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time for the first request."""
        super().connection_made(transport)
        self._watch(0)

    def data_received(self, data: bytes) -> None:
        """Parse what came, and see whether it was all of the headers."""
        super().data_received(data)
        if self._deadline is not None or self._is_in_head():
            self._watch(len(data))

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time."""
        if self._deadline is not None:
            self._deadline.cancel()
        if self._idle is not None:
            self._idle.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Go on with the next request, or begin to be idle."""
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        self.flow.resume_reading()
        self._idle_since = self.loop.time()
        if self._idle is None:
            self._idle = self.loop.call_later(IDLE, self._end_idle)

    def _end_idle(self) -> None:
        """Close the connection when it was idle for long; one timer serves many requests."""
        self._idle = None
        if not self.cycle.response_complete or self._is_in_head():
            return
        left = self._idle_since + IDLE - self.loop.time()
        if left > 0:
            self._idle = self.loop.call_later(left, self._end_idle)
        else:
            self.timeout_keep_alive_handler()

    def _is_in_head(self) -> bool:
        """Return whether a request has begun, or is awaited on a new connection, whose headers have not ended."""
        return self.cycle is None or self.cycle.scope is not self.scope

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, and close."""
        body = Problem(400, f"this is no HTTP request that can be read: {msg}").body()
        lines = ("HTTP/1.1 400 Bad Request", "content-type: application/problem+json", f"content-length: {len(body)}", "connection: close")
        self.transport.write("\r\n".join((*lines, "", "")).encode() + body)
        self.transport.close()

    def _watch(self, size: int) -> None:
        """Cut the connection when its headers have become too large, or do not end in time."""
        if not self._is_in_head():
            self._head = 0
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
            return
        self._head += size
        if self._head > HEAD_SIZE:
            self.transport.abort()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_PATIENCE, self.transport.abort)


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
    """Serves an ASGI app at `listen`: `host:port`, port 0 for any, or `unix:PATH`.

    `address` is its URL once it has started, of a socket in the file system `unix:` and the whole path.

    Raises:
        ValueError: `listen` is of neither form.
    """

    def __init__(self, app: AsgiApp, listen: str) -> None:
        self._app = _quiet(app)
        kind, _, path = listen.partition(":")
        self._path = Path(path) if kind == "unix" and path else None
        self._host, self._port = ("", 0) if self._path else parse_listen(listen)
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self.address = ""

    async def start(self, *, folder: Path = Path(), tls: ssl.SSLContext | None = None) -> None:
        """Listen, with `tls` by HTTPS only, and return when requests are answered; the path of a socket is relative to `folder`.

        Raises:
            OSError: the address is in use or not of this machine.
        """
        bound = self._bind(folder, "https" if tls else "http")
        config = uvicorn.Config(
            self._app,
            http=_Protocol,
            interface="asgi3",  # not guessed: a bound method is one too
            lifespan="off",
            log_config=None,
            access_log=False,
            ws="none",
            server_header=False,
            proxy_headers=False,  # nobody asks who the client is
            backlog=2048,
        )
        config.load()
        config.ssl = tls
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[bound]), name=f"web {self.address}")
        while not self._server.started and not self._task.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.001)
        if self._task.done():
            self._task.result()

    def _bind(self, folder: Path, scheme: str) -> socket.socket:
        """Return a socket that listens; says in `address` where."""
        if self._path:
            self._path = folder.absolute() / self._path
            self.address = f"unix:{self._path}"
            return _bind_path(self._path)
        bound = _bind(self._host, self._port)
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.address = f"{scheme}://{host}:{bound.getsockname()[1]}"
        return bound

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
        if self._path and _is_deserted(self._path):  # unless it is another one's by now
            self._path.unlink()
        self._server = self._task = None


def _quiet(app: AsgiApp) -> AsgiApp:
    """Return the app with requests that end when the server cuts them off, and are no errors to be logged."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:  # nothing is left to be cancelled: it is a task of its own
            return

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


def _bind_path(path: Path) -> socket.socket:
    """Return a socket that listens at a path; what one that was killed has left there is removed."""
    bound = socket.socket(socket.AF_UNIX)
    try:
        if _is_deserted(path):
            path.unlink()
        bound.bind(str(path))
        bound.listen(2048)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        raise OSError(error.errno, f"unix:{path}: {error.strerror or error}") from None
    return bound


def _is_deserted(path: Path) -> bool:
    """Return whether there is a socket at which nobody listens."""
    if not path.is_socket():
        return False
    with socket.socket(socket.AF_UNIX) as trial:
        trial.setblocking(False)
        return trial.connect_ex(str(path)) == errno.ECONNREFUSED
