"""The routes of the admin API; shapes are in `shapes`, who may call in `guard`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from runtime import cloudevents
from runtime.admin.listing import list_entries, read_filter, read_query
from runtime.admin.problems import answer, refusal
from runtime.admin.reading import MAX_BODY, read_json
from runtime.admin.shapes import entry_shape, function_shape, generation_shape, graph_shape, source_types
from runtime.admin.showing import show
from runtime.errors import Error
from runtime.records import DEAD, UNROUTED, Entry
from runtime.web import Problem, problem_of, read_body, read_wait

if TYPE_CHECKING:
    from runtime.app import App
    from runtime.event import Event

Change = Callable[[Entry], Awaitable[bool]]


class Api:
    """The endpoints, each answering from the app what its route says."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._inlet = app.inlet("admin")

    async def health(self, request: Request) -> Response:
        """Say whether all is well; without the token no details off loopback."""
        faults = self._app.faults()
        shape: dict[str, Any] = {"status": "degraded" if faults else "ok"}
        if request.state.trusted:
            shape["generation"] = self._app.generation.number
            shape["faults"] = [{"where": fault.where, "message": fault.message} for fault in faults]
        return answer(shape)

    async def stats(self, _request: Request) -> Response:
        """Return the counts."""
        return answer(await self._app.stats())

    async def functions(self, _request: Request) -> Response:
        """List the functions in topological order."""
        app, hanging = self._app, self._app.hanging()
        functions = app.generation.graph.functions
        shapes = [function_shape(one, hanging.get(one.name, ()), escalated=app.is_escalated(one)) for one in functions]
        return answer({"functions": shapes})

    async def graph(self, _request: Request) -> Response:
        """Return nodes, edges and order."""
        return answer(graph_shape(self._app.generation.graph, source_types(self._app.settings.sources)))

    async def generations(self, _request: Request) -> Response:
        """List the generations, the newest first."""
        return answer({"generations": [generation_shape(change) for change in reversed(self._app.loader.history)]})

    async def sources(self, _request: Request) -> Response:
        """List the sources and how they stand."""
        return answer({"sources": self._app.sources()})

    async def sinks(self, _request: Request) -> Response:
        """List the sinks and how they stand."""
        return answer({"sinks": self._app.sinks()})

    async def events(self, request: Request) -> Response:
        """List events, the newest first."""
        live = self._app.engine.live()
        entries, cursor = await list_entries(self._app.journal, read_query(request.query_params), live)
        return answer({"events": [entry_shape(entry, live, self._app.engine.reason(entry)) for entry in entries], "cursor": cursor})

    async def event(self, request: Request) -> Response:
        """Return one event with its steps."""
        entry, others = await self._find(request)
        return answer(await show(self._app, entry, others))

    async def _find(self, request: Request) -> tuple[Entry, list[Entry]]:
        id = request.path_params["id"]
        found = await self._app.journal.find(id)
        if not found:
            raise Problem(404, f'there is no event "{id}": it never was, or finished longer ago than the journal keeps')
        return found[0], found[1:]

    async def accept(self, request: Request) -> Response:
        """Take an event (or a batch), and wait for its result when `?wait=SECONDS` asks for it."""
        wait = read_wait(request.query_params.get("wait"))
        body = await read_body(request.receive, MAX_BODY)
        try:
            events = as_list(cloudevents.from_http(request.headers, body))
            if wait is not None:
                if len(events) != 1:
                    raise Problem(400, f"`wait` takes one event, found a batch of {len(events)}")
                return answer(await self._inlet.call(events[0], timeout=wait))
            ids = await self._inlet.put(events, wait=False)
        except Error as error:
            raise problem_of(error) from error
        batch = "cloudevents-batch" in request.headers.get("content-type", "")
        return answer({"ids": ids} if batch else {"id": ids[0]}, 202)

    async def _retry(self, entry: Entry) -> bool:
        return await self._app.engine.redrive(entry)

    async def _discard(self, entry: Entry) -> bool:
        return await self._app.engine.discard(entry)

    async def retry(self, request: Request) -> Response:
        """Redrive a dead letter, or send an unrouted event through the present graph."""
        return await self._change(request, self._retry, "retried", (DEAD, UNROUTED))

    async def discard(self, request: Request) -> Response:
        """End a dead letter for good."""
        return await self._change(request, self._discard, "discarded", (DEAD,))

    async def _change(self, request: Request, change: Change, done: str, statuses: tuple[str, ...]) -> Response:
        entry, _ = await self._find(request)
        if entry.status not in statuses:
            status = self._app.engine.live().get(entry.seq, entry.status)
            raise Problem(409, f"event {entry.event.id} is {status}; only {' or '.join(statuses)} ones can be {done}")
        if not await change(entry):
            raise Problem(
                409, f'event {entry.event.id} stays {entry.status}: no function and no sink takes events of type "{entry.event.type}"'
            )
        return answer({done: 1, "uid": entry.uid, "id": entry.event.id})

    async def retry_all(self, request: Request) -> Response:
        """Redrive all dead letters (or unrouted events) that a filter means."""
        return await self._change_all(request, self._retry, "retried", (DEAD, UNROUTED))

    async def discard_all(self, request: Request) -> Response:
        """End all dead letters that a filter means for good."""
        return await self._change_all(request, self._discard, "discarded", (DEAD,))

    async def _change_all(self, request: Request, change: Change, done: str, statuses: tuple[str, ...]) -> Response:
        query = read_filter(read_json(await read_body(request.receive, MAX_BODY)), statuses)
        count = 0
        while entries := await self._app.journal.query(query):
            query = msgspec.structs.replace(query, before=entries[-1].seq)
            for entry in entries:
                if entry.status in statuses:  # it may have moved on meanwhile
                    count += await change(entry)
        return answer({done: count})


def make_api(app: App) -> Starlette:
    """Return the ASGI app of the admin API."""
    api = Api(app)
    gets = ("stats", "functions", "graph", "generations", "sources", "sinks", "events")
    routes = [Route("/health", api.health), *(Route(f"/api/{name}", getattr(api, name)) for name in gets)]
    posts: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/api/events": api.accept,
        "/api/retry": api.retry_all,
        "/api/discard": api.discard_all,
        "/api/events/{id:path}/retry": api.retry,
        "/api/events/{id:path}/discard": api.discard,
    }
    routes += [Route(path, endpoint, methods=["POST"]) for path, endpoint in posts.items()]
    routes.append(Route("/api/events/{id:path}", api.event))  # last: ids may hold slashes
    handlers: dict[Any, Any] = {Problem: _refuse, HTTPException: _refuse_http, Error: _refuse_error, Exception: _refuse_unknown}
    return Starlette(routes=routes, exception_handlers=handlers)


def as_list(events: Event | list[Event]) -> list[Event]:
    """Return one event or several as a list."""
    return list(events) if isinstance(events, list | tuple) else [events]


async def _refuse(_request: Request, problem: Problem) -> Response:
    return refusal(problem)


async def _refuse_http(request: Request, error: HTTPException) -> Response:
    detail = f"there is no {request.url.path}" if error.status_code == 404 else f"{request.method} is not allowed here"
    allow = (error.headers or {}).get("Allow")
    return refusal(Problem(error.status_code, detail, **({"allow": allow} if allow else {})))


async def _refuse_error(_request: Request, error: Error) -> Response:
    return refusal(problem_of(error))


async def _refuse_unknown(_request: Request, error: Exception) -> Response:
    return refusal(Problem(500, f"the runtime made a mistake: {type(error).__name__}; its log tells more"))
