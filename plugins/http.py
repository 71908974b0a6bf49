"""The source `http`: CloudEvents at `/events`, JSON at `/events/TYPE`, and routes of one's own.

A raw ASGI app, because this is the hot path. A request goes through `_answer` from top to bottom: which route,
may it, its body, the event, and then either the journal (202) or the result of the run (200).
"""

from __future__ import annotations

import hmac
import math
import re
from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote

import jmespath
import msgspec
from jmespath.exceptions import JMESPathError

from runtime import (
    Error,
    Event,
    Inlet,
    Problem,
    Request,
    Source,
    WebServer,
    cloudevents,
    codec,
    hookimpl,
    problem_of,
    read_body,
    respond,
    respond_problem,
)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Reading = tuple[Event | list[Event], float | None]
Read = Callable[[Request, bytes], Reading]

METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")
LONGEST_WAIT = 86400  # seconds
PATIENCE = 60.0  # seconds for callers under way when the source closes; the runtime answers them before

_TYPE = re.compile(r"[^\s.*>\x00-\x1f\x7f]+(\.[^\s.*>\x00-\x1f\x7f]+)*")
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_PATH = re.compile(rf"/|(/({_PARAMETER.pattern}|[^\s/{{}}?#]+))+/?")
_SECRET_FIELD = re.compile(r"((access|auth|id)_)?token|api_?key|secret|password|signature", re.IGNORECASE)
_is_secret_header = lru_cache(1024)(
    re.compile(r"authori[sz]|authent|x-auth|cookie|token|secret|api-?key|signature|passw|credential").search
)


class Auth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who may call a route: those who send `Authorization: Bearer …` with this token."""

    bearer: str


class Route(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What becomes of requests to a path; `timeout` in seconds, `max_body` in bytes, `key` a JMESPath into the data."""

    type: str
    reply: Literal["accepted", "result"] = "accepted"
    timeout: float = 60.0
    retries: int = 0
    priority: int | None = None
    key: str | None = None
    max_body: int | None = None
    methods: tuple[str, ...] = ("POST",)
    cors: bool | tuple[str, ...] = False
    auth: Auth | None = None
    signature: Any = None


_EVENTS = Route(type="")  # `/events` has no options of its own: POST, anyone, no retries


class Target(msgspec.Struct, frozen=True):
    """What a path leads to; `read` makes events of a request, and says how many seconds to wait for their result.

    `parameters` are the names of those segments that take any text, by index.
    """

    segments: tuple[str, ...]
    parameters: dict[int, str]
    route: Route
    max_body: int
    read: Read

    def match(self, segments: tuple[str, ...]) -> dict[str, str] | None:
        """Return the parameters when the target takes a path of as many segments, else None."""
        for index, segment in enumerate(segments):
            if not segment if index in self.parameters else segment != self.segments[index]:
                return None
        return {name: segments[index] for index, name in self.parameters.items()}


class Http(Source):
    """Takes events from HTTP callers, and answers with their id or with the result of their run."""

    class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Where to listen and what is served; `events = false` closes `/events`, `max_body` is in bytes."""

        listen: str = "127.0.0.1:8080"
        events: bool = True
        max_body: int = 1024 * 1024
        routes: dict[str, Route] = {}

    finite = False

    def __init__(self, name: str, options: Options) -> None:
        super().__init__(name, options)
        self._origin = f"source/{name}"
        self._literals: dict[tuple[str, ...], Target] = {}
        self._templates: dict[int, list[Target]] = {}
        self._inlet: Inlet | None = None
        self._is_local = options.listen.startswith(("127.", "localhost:", "[::1]:"))
        self._set_up(options)

    async def open(self) -> None:
        """Listen.

        Raises:
            OSError: the address is in use or not of this machine.
        """
        await self._server.start()

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

    # --- which path leads where -----------------------------------------------------------------------

    def _set_up(self, options: Options) -> None:
        """Build the tables of targets and the server; among templates a literal segment goes before a parameter.

        Raises:
            ValueError: tells all that is wrong with the options.
        """
        faults = [fault for path, route in options.routes.items() for fault in _faults(path, route, events=options.events)]
        shapes: dict[str, str] = {}
        for path in options.routes:
            twin = shapes.setdefault(_PARAMETER.sub("{}", path), path)
            if twin != path:
                faults.append(f'routes."{path}": takes the same paths as routes."{twin}"; remove one of them')
        if options.max_body < 1:
            faults.append(f"`max_body` is 1 byte or more, found {options.max_body}")
        try:
            self._server = WebServer(self._app, options.listen)
        except ValueError as error:
            faults.append(f"`listen`: {error}")
        if faults:
            raise ValueError("; ".join(faults))
        for path, route in options.routes.items():
            self._add(path, route, route.max_body or options.max_body, self._reader(route))
        if options.events:
            self._add("/events", _EVENTS, options.max_body, _read_cloudevents)
            self._add("/events/{type}", _EVENTS, options.max_body, self._read_typed)
        for targets in self._templates.values():
            targets.sort(key=lambda target: [index in target.parameters for index in range(len(target.segments))])

    def _add(self, path: str, route: Route, max_body: int, read: Read) -> None:
        segments = path.split("/")[1:]
        parameters = {index: found[1] for index, segment in enumerate(segments) if (found := _PARAMETER.fullmatch(segment))}
        target = Target(tuple(unquote(segment) for segment in segments), parameters, route, max_body, read)
        if parameters:
            self._templates.setdefault(len(segments), []).append(target)
        else:
            self._literals[target.segments] = target

    def _find(self, path: bytes) -> tuple[Target, dict[str, str]]:
        """Return the target of a path as it came, and its parameters; segments are decoded after they are split."""
        segments = tuple([unquote(segment) for segment in path.decode("ascii").split("/")[1:]])
        target = self._literals.get(segments)
        if target is not None:
            return target, {}
        for target in self._templates.get(len(segments), ()):
            parameters = target.match(segments)
            if parameters is not None:
                return target, parameters
        raise Problem(404, "nothing is served at this path")

    # --- the way of a request -------------------------------------------------------------------------

    async def _app(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request; the ASGI app."""
        if scope["type"] != "http":
            return
        headers: dict[str, str] = {}
        try:
            status, body = await self._answer(scope, receive, headers)
        except Exception as error:  # noqa: BLE001 - whatever happens, the caller gets a problem and no more
            await respond_problem(send, self._problem(error), headers)
        else:
            await respond(send, status, body, headers=headers)

    async def _answer(self, scope: Message, receive: Receive, headers: dict[str, str]) -> tuple[int, bytes]:
        """Return status and body of the answer; fills in its `headers`, which a problem gets too."""
        target, parameters = self._find(scope["raw_path"])
        route = target.route
        request = _request(scope, parameters)
        if self._is_local and not route.cors:
            _check_origin(request)
        if route.cors:
            headers.update(_cors(route, request))
            if request.method == "OPTIONS":
                return 204, b""
        _check_head(target, request)
        inlet = self._inlet
        if inlet is None:
            raise Problem(503, "the source is starting or stopping; try again in 1 s", retry_after="1")
        body = await read_body(receive, target.max_body)
        events, wait = target.read(request, body)
        if wait is None:
            ids = await inlet.put(events, wait=False)
            return 202, msgspec.json.encode({"id": ids[0]} if isinstance(events, Event) else {"ids": ids})
        if not isinstance(events, Event):
            raise Problem(400, "wait: a batch has no result to wait for; send its events one by one, or leave `wait` out")
        return 200, codec.to_json(await inlet.call(events, timeout=wait, retries=route.retries))

    def _problem(self, error: Exception) -> Problem:
        """Return what the caller is told of an error."""
        if isinstance(error, Problem):
            return error
        if isinstance(error, Error):
            return problem_of(error, public=True)
        self.log.error("a request could not be answered", exc_info=error)
        return Problem(500, "the request could not be answered; the log of the runtime says why")

    def _read_typed(self, request: Request, body: bytes) -> Reading:
        """Read the JSON that is sent to `/events/TYPE`."""
        type = request.params["type"]
        if not _TYPE.fullmatch(type):
            raise Problem(400, f'"{type}" is not an event type: it is words joined by single dots, without spaces, "*" and ">"')
        data = codec.read_json("the body", body) if body else None
        id = cloudevents.id_from_headers(request.headers)
        return Event(type=type, source=self._origin, id=id, data=data, datacontenttype="application/json"), _wait(request)

    def _reader(self, route: Route) -> Read:
        """Return how the requests to a route are read."""
        key = jmespath.compile(route.key) if route.key else None
        wait = route.timeout if route.reply == "result" else None

        def read(request: Request, body: bytes) -> Reading:
            data, media_type = _data(request.headers.get("content-type", ""), body)
            event = Event(
                type=route.type,
                source=self._origin,
                id=cloudevents.id_from_headers(request.headers),
                data=data,
                datacontenttype=media_type,
                key=None if key is None else _key(key, data),
                priority=route.priority,
                request=_without_secrets(request),
            )
            return event, wait

        return read


def _faults(path: str, route: Route, *, events: bool) -> list[str]:
    """Return what is wrong with a route."""
    names = _PARAMETER.findall(path)
    unknown = ", ".join(method for method in route.methods if method not in METHODS)
    checks = [
        (_PATH.fullmatch(path), "a path is like /orders or /orders/{id}: no empty segment, and a parameter is a whole one"),
        (len(set(names)) == len(names), "each parameter has a name of its own"),
        (not events or path.split("/")[1:2] != ["events"], "/events is the source's own; choose another path or set `events = false`"),
        (_TYPE.fullmatch(route.type), f'`type` is one event type without wildcards, found "{route.type}"'),
        (route.methods and not unknown, f"`methods` are one or more of {', '.join(METHODS)}, found {unknown or 'none'}"),
        (0 < route.timeout <= LONGEST_WAIT, f"`timeout` is more than 0 and at most {LONGEST_WAIT} seconds, found {route.timeout:g}"),
        (route.retries >= 0, f"`retries` is 0 or more, found {route.retries}"),
        (route.priority is None or 0 <= route.priority <= 9, f"`priority` is 0 (bulk) to 9 (urgent), found {route.priority}"),
        (route.max_body is None or route.max_body > 0, f"`max_body` is 1 byte or more, found {route.max_body}"),
        (route.auth is None or route.auth.bearer, "`auth.bearer` is empty; set the secret, or remove `auth` to let anyone in"),
        (route.signature is None, "`signature` is not supported yet; leave it out, and protect the route with `auth`"),
        (not route.key or _is_expression(route.key), f'`key` is a JMESPath into the data, found "{route.key}"'),
    ]
    return [f'routes."{path}": {message}' for good, message in checks if not good]


def _is_expression(key: str) -> bool:
    try:
        jmespath.compile(key)
    except JMESPathError:
        return False
    return True


# --- what a request says ------------------------------------------------------------------------------


def _request(scope: Message, parameters: dict[str, str]) -> Request:
    query = scope["query_string"]
    return Request(
        method=scope["method"],
        path=scope["path"],
        params=parameters,
        query=dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True)) if query else {},
        headers={name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]},
    )


def _without_secrets(request: Request) -> Request:
    return Request(
        method=request.method,
        path=request.path,
        params=request.params,
        query={name: value for name, value in request.query.items() if not _SECRET_FIELD.fullmatch(name)},
        headers={name: value for name, value in request.headers.items() if not _is_secret_header(name)},
    )


def _cors(route: Route, request: Request) -> dict[str, str]:
    """Return the headers by which a browser lets pages of allowed origins call the route and read its answers."""
    origin = request.headers.get("origin", "")
    if isinstance(route.cors, bool) or "*" in route.cors:
        headers = {"access-control-allow-origin": "*"}
    else:
        headers = {"vary": "Origin", **({"access-control-allow-origin": origin} if origin in route.cors else {})}
    if request.method == "OPTIONS":
        headers["access-control-allow-methods"] = ", ".join(route.methods)
        headers["access-control-allow-headers"] = request.headers.get("access-control-request-headers", "content-type")
    return headers


def _check_origin(request: Request) -> None:
    """Refuse a page of another site: a browser lets it post to this machine, though not read the answer."""
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2].lower() != request.headers.get("host", "").lower():
        raise Problem(403, f'pages of "{origin}" may not call this; a route lets them with cors = ["{origin}"]')


def _check_head(target: Target, request: Request) -> None:
    """Refuse what needs no body to be refused."""
    route, headers = target.route, request.headers
    if request.method not in route.methods:
        allowed = ", ".join(route.methods)
        raise Problem(405, f"{request.method} is not allowed at this path; allowed: {allowed}", allow=allowed)
    if route.auth is not None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode("latin-1"), route.auth.bearer.encode()):
            raise Problem(401, "send the token of this route: Authorization: Bearer …", www_authenticate="Bearer")
    coding = headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        raise Problem(415, f'content-encoding "{coding}" is not supported; send the body as it is')
    if "expect" in headers and int(headers.get("content-length", 0)) > target.max_body:  # others read no answer before they have sent all
        raise Problem(413, f"the body is larger than {target.max_body} bytes", connection="close")


def _wait(request: Request) -> float | None:
    text = request.query.get("wait")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= LONGEST_WAIT:
        raise Problem(400, f'wait: "{text}" is not allowed; it is a number of seconds above 0, at most {LONGEST_WAIT}')
    return seconds


# --- what a body says ---------------------------------------------------------------------------------


def _read_cloudevents(request: Request, body: bytes) -> Reading:
    return cloudevents.from_http(request.headers, body), _wait(request)


def _data(content_type: str, body: bytes) -> tuple[Any, str | None]:
    """Return the data of a body that is sent to a route, and its media type."""
    if not body:
        return None, None
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in ("", "application/json", "text/json") or media_type.endswith("+json"):
        return codec.read_json("the body", body), "application/json"
    if media_type == "application/x-www-form-urlencoded" and not _is_form(body):  # curl -d says form, whatever it sends
        return codec.read_json("the body", body), "application/json"
    return body, content_type


def _is_form(body: bytes) -> bool:
    return b"=" in body and body.lstrip()[:1] not in (b"{", b"[", b'"')


def _key(expression: Any, data: Any) -> str | None:
    try:
        found = expression.search(data)
    except JMESPathError as error:
        raise Problem(422, f"the key of the event cannot be read from the data: {str(error).splitlines()[0]}") from None
    return found if found is None or isinstance(found, str) else msgspec.json.encode(found).decode()


@hookimpl
def register_sources() -> dict[str, type[Source]]:
    """Offer `http`."""
    return {"http": Http}
