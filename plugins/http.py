"""The source `http`: CloudEvents at `/events`, JSON at `/events/TYPE`, and routes of one's own.

A raw ASGI app, because this is the hot path. A request goes through `_answer` from top to bottom: which route,
may it, its body, the event, and then either the journal (202) or the result of the run (200).
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable

import msgspec

from runtime import (
    Answer,
    Error,
    Event,
    Inlet,
    Problem,
    Source,
    WebServer,
    codec,
    hookimpl,
    problem_of,
    read_body,
    respond,
    respond_problem,
)

from ._credentials import Auth
from ._readers import read_cloudevents, route_reader, typed_reader
from ._requests import Message, answer_headers, check_head, check_origin, cors, permission, read_request
from ._routes import Route, Targets, faults_of
from ._signatures import Signature

__all__ = ["Auth", "Http", "Route", "Signature", "Tls", "register_sources"]

Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PATIENCE = 60.0  # seconds for callers under way when the source closes; the runtime answers them before

_EVENTS = Route(type="")  # `/events` has no options of its own: POST, anyone, no retries


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The files, in PEM, by which callers know who answers: a certificate with those that vouch for it, and its key."""

    cert: str
    key: str


class Http(Source):
    """Takes events from HTTP callers, and answers with their id or with the result of their run."""

    class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Where to listen and what is served; `events = false` closes `/events`, `max_body` is in bytes."""

        listen: str = "127.0.0.1:8080"
        tls: Tls | None = None
        auth: Auth | None = None
        events: bool = True
        max_body: int = 1024 * 1024
        routes: dict[str, Route] = {}

    finite = False

    def __init__(self, name: str, options: Options) -> None:
        super().__init__(name, options)
        self._origin = f"source/{name}"
        self._inlet: Inlet | None = None
        self._is_local = options.listen.startswith(("127.", "localhost:", "[::1]:"))
        try:
            self._server = WebServer(self._app, options.listen)
        except ValueError as error:
            raise ValueError("; ".join([*_faults(options), f"`listen`: {error}"])) from None
        self._targets = self._targets_of(options)

    async def open(self) -> None:
        """Listen.

        Raises:
            OSError: the address is in use or not of this machine, or the files of `tls` cannot be read.
        """
        await self._server.start(folder=self.folder, tls=self._tls())

    async def run(self, inlet: Inlet) -> None:
        """Serve until cancelled."""
        self._inlet = inlet
        try:
            await self._server.wait()
        finally:
            self._inlet = None

    async def close(self) -> None:
        """Stop listening; callers that wait for a result are answered first."""
        await self._server.stop(PATIENCE)

    def address(self) -> str:
        """Return the URL."""
        return self._server.address

    def _tls(self) -> ssl.SSLContext | None:
        """Return what to listen with."""
        tls = self.options.tls
        if tls is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        cert, key = self.folder / tls.cert, self.folder / tls.key
        try:
            context.load_cert_chain(cert, key, password=lambda: b"")  # do not ask a terminal
        except OSError as error:
            found = f"{type(error).__name__}: {error}"
            raise OSError(
                f"tls: expected a certificate in PEM at {cert} and its key, without a password, at {key}, found {found}"
            ) from None
        return context

    # --- which path leads where -----------------------------------------------------------------------

    def reconfigure(self, options: Options) -> bool:
        """Serve other routes from the next request on, unless it is to listen elsewhere."""
        if (options.listen, options.tls) != (self.options.listen, self.options.tls):
            return False
        self._targets = self._targets_of(options)
        return True

    def _targets_of(self, options: Options) -> Targets:
        """Return where paths lead.

        Raises:
            ValueError: tells all that is wrong with the options.
        """
        if faults := _faults(options):
            raise ValueError("; ".join(faults))
        targets = Targets(options.auth, options.max_body)
        for path, route in options.routes.items():
            targets.add(path, route, route_reader(route, self._origin, self._now))
        if options.events:
            targets.add("/events", _EVENTS, read_cloudevents)
            targets.add("/events/{type}", _EVENTS, typed_reader(self._origin))
        return targets

    def _now(self) -> float:
        return self.clock.time()

    # --- the way of a request -------------------------------------------------------------------------

    async def _app(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request; the ASGI app."""
        if scope["type"] != "http":
            return
        headers: dict[str, str | list[str]] = {}
        try:
            status, body = await self._answer(scope, receive, headers)
        except Exception as error:  # noqa: BLE001 - whatever happens, the caller gets a problem and no more
            await respond_problem(send, self._problem(error), headers)
        else:
            await respond(send, status, body, headers=headers)

    async def _answer(self, scope: Message, receive: Receive, headers: dict[str, str | list[str]]) -> tuple[int, bytes]:
        """Return status and body of the answer; fills in its `headers`, which a problem gets too."""
        target, parameters = self._targets.find(scope["raw_path"])
        route = target.route
        request = read_request(scope, parameters)
        if self._is_local and not route.cors:
            check_origin(request)
        if request.method == "OPTIONS" and (allowed := permission(route, request)) is not None:
            headers.update(allowed)
            return 200, b""
        if route.cors:
            headers.update(cors(route, request))
            if request.method == "OPTIONS":
                return 204, b""
        check_head(target, request)
        inlet = self._inlet
        if inlet is None:
            raise Problem(503, "the source is starting or stopping; try again in 1 s", retry_after="1")
        body = await read_body(receive, target.max_body)
        reading = target.read(request, body)
        if isinstance(reading, Answer):
            return _said(reading, headers)
        events, wait = reading
        if wait is None:
            ids = await inlet.put(events, wait=False)
            return 202, msgspec.json.encode({"id": ids[0]} if isinstance(events, Event) else {"ids": ids})
        if not isinstance(events, Event):
            raise Problem(400, "wait: a batch has no result to wait for; send its events one by one, or leave `wait` out")
        result = await inlet.call(events, timeout=wait, retries=route.retries)
        if not isinstance(result, Answer):
            return 200, codec.to_json(result)
        return _said(result, headers)

    def _problem(self, error: Exception) -> Problem:
        """Return what the caller is told of an error."""
        if isinstance(error, Problem):
            return error
        if isinstance(error, Error):
            return problem_of(error, public=True)
        self.log.error("a request could not be answered", exc_info=error)
        return Problem(500, "the request could not be answered; the log of the runtime says why")


def _said(answer: Answer, headers: dict[str, str | list[str]]) -> tuple[int, bytes]:
    """Return status and body of an answer; adds its headers to those that there are, which go before."""
    headers.update({**answer_headers(answer), **headers})
    return answer.status, answer.content


def _faults(options: Http.Options) -> list[str]:
    """Return what is wrong with the options, but for the address."""
    faults = faults_of(options.routes, events=options.events)
    if options.max_body < 1:
        faults.append(f"`max_body` is 1 byte or more, found {options.max_body}")
    if options.auth and (fault := options.auth.fault()):
        faults.append(fault)
    return faults


@hookimpl
def register_sources() -> dict[str, type[Source]]:
    """Offer `http`."""
    return {"http": Http}
