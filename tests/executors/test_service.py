"""Services over HTTP: what they are sent, what becomes of what they answer, and what is told when they do not."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from cloudevents.core.bindings.http import HTTPMessage, from_binary_event
from cloudevents.core.formats.json import JSONFormat
from running import Running, run

from runtime.clock import SystemClock
from runtime.contracts import Executor
from runtime.errors import Reject, Unavailable
from runtime.event import Event
from runtime.executors import post
from runtime.executors.service import Services
from runtime.settings import FunctionSettings, ServiceSettings
from runtime.specs import FunctionSpec, make_external
from runtime.testing.executors import ExecutorSuite, SuiteCall

Message = dict[str, Any]
Handler = Callable[[str, dict[str, str], bytes], Awaitable[tuple[int, dict[str, str], bytes]]]
JSON = {"content-type": "application/json"}


class Service:
    """A server of which a test says what it answers; `requests` are path, headers and body of what has come."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.url = ""

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.requests.append((scope["path"], headers, body))
        answering = asyncio.ensure_future(self.handler(scope["path"], headers, body))
        leaving = asyncio.ensure_future(receive())
        await asyncio.wait([answering, leaving], return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        if not answering.done():
            answering.cancel()
            return  # the caller has gone
        status, said, content = answering.result()
        raw = [(name.encode(), value.encode()) for name, value in said.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": content})


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Service]:
    service = Service(handler)
    config = uvicorn.Config(service, host="127.0.0.1", port=0, lifespan="off", log_config=None, log_level="critical")
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()  # without its main loop, which looks ten times a second whether to end
    service.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield service
    finally:
        server.force_exit = True
        await server.shutdown()


def answering(status: int, body: bytes = b"", headers: dict[str, str] = JSON) -> Handler:
    async def handle(path: str, sent: dict[str, str], content: bytes) -> tuple[int, dict[str, str], bytes]:
        return status, headers, body

    return handle


def service_function(name: str, url: str, headers: dict[str, str] | None = None, **options: Any) -> FunctionSpec:
    given = {"on": "go"} if "after" not in options else {}
    table = FunctionSettings(overrides={**given, **options}, target=ServiceSettings(url=url, headers=headers or {}))
    return make_external(name, table, f"runtime.toml [functions.{name}]", 1)


@asynccontextmanager
async def opened() -> AsyncIterator[Services]:
    services = Services(SystemClock(), Path())
    try:
        yield services
    finally:
        await services.close()


async def called(handler: Handler, data: Any = None, headers: dict[str, str] | None = None) -> Any:
    """Return what one call of a service with this handler returns."""
    async with serving(handler) as service, opened() as services:
        return await services.call(SuiteCall(service_function("price", f"{service.url}/price?token=sesame", headers), data))


async def failure(handler: Handler, headers: dict[str, str] | None = None) -> Reject | Unavailable:
    with pytest.raises((Reject, Unavailable)) as caught:
        await called(handler, headers=headers)
    assert isinstance(caught.value, Reject | Unavailable)
    return caught.value


# --- the suite ----------------------------------------------------------------------------------------


async def behave(path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
    """Behave as the suite asks for; what it is sent and answers is JSON."""
    data: Any = json.loads(body) if body else None
    match path.strip("/"):
        case "large":
            body = json.dumps("x" * data).encode()
        case "hang":
            await asyncio.sleep(60)
        case "wait":
            while not Path(data).exists():
                await asyncio.sleep(0.01)
            body = b'"old"'
    return ANSWERS.get(path.strip("/"), (200, JSON, body))


ANSWERS = {"fail": (500, JSON, b"no luck"), "reject": (409, JSON, b"not you"), "replaced": (200, JSON, b'"new"')}


class TestHttpServices(ExecutorSuite):
    tracebacks = typed = generators = contexts = states = resources = False
    base = ""

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Executor]:
        async with dying() as base, opened() as services:
            self.base = base
            yield services.call

    def function(self, behaviour: str) -> FunctionSpec:
        if behaviour == "after":
            return service_function("after", f"{self.base}/after", after="first")
        return service_function("wait" if behaviour == "replaced" else behaviour, f"{self.base}/{behaviour}")

    async def test_a_skip_and_a_rejection_arrive_as_what_they_are(self) -> None:
        async with self.opened() as executor:
            reject = await self.failure(executor, self.make("reject"))
            assert isinstance(reject, Reject)
            assert (reject.reason, reject.status) == ('"reject": expected 2xx, found 409: not you', 409)

    async def test_what_is_emitted_is_in_the_context_of_the_call(self) -> None:
        pytest.skip("a service over HTTP has a result alone")

    async def test_more_emissions_than_a_step_may_have_fail_it(self) -> None:
        pytest.skip("a service over HTTP has a result alone")


@asynccontextmanager
async def dying() -> AsyncIterator[str]:
    """Serve the behaviours behind a door that closes in the face of who asks for `die`."""
    async with serving(behave) as service:
        port = int(service.url.rpartition(":")[2])

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.read(65536)
            if head.startswith(b"POST /die ") or not head:
                writer.close()
                return
            inner, outer = await asyncio.open_connection("127.0.0.1", port)
            outer.write(head)
            pumps = [asyncio.ensure_future(pump(reader, outer)), asyncio.ensure_future(pump(inner, writer))]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for one in (writer, outer):
                one.close()
            await asyncio.wait(pumps)

        server = await asyncio.start_server(forward, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while part := await reader.read(65536):
            writer.write(part)
            await writer.drain()
    except OSError:
        pass


# --- what is sent -------------------------------------------------------------------------------------


async def test_a_service_gets_the_event_and_its_data_as_the_body() -> None:
    async with serving(answering(200, b'{"cents": 5}')) as service, opened() as services:
        call = SuiteCall(service_function("price", f"{service.url}/price", {"authorization": "Bearer sesame"}), {"id": "ü"})
        call.event = Event(
            type="order.placed", source="shop/1", id="1", data={"id": "ü"}, key="ada", extensions={"correlationid": "0", "causationid": "0"}
        )
        assert await services.call(call) == {"cents": 5}
        ((path, headers, body),) = service.requests
    assert path == "/price"
    assert json.loads(body) == {"id": "ü"}
    assert headers["authorization"] == "Bearer sesame"
    assert headers["idempotency-key"] == "suite-1/price"
    oracle = from_binary_event(HTTPMessage(headers, body), JSONFormat())
    assert oracle.get_attributes().items() >= {"type": "order.placed", "source": "shop/1", "id": "1", "partitionkey": "ada"}.items()
    assert (oracle.get_extension("correlationid"), oracle.get_extension("causationid")) == ("0", "0")
    assert oracle.get_data() == {"id": "ü"}


async def test_after_several_functions_it_gets_their_results_by_name_and_no_content_type_of_the_event() -> None:
    async with serving(answering(204)) as service, opened() as services:
        call = SuiteCall(service_function("price", service.url, after=["a", "b"]), results={"a": 1, "b": [2]})
        call.event = Event(type="go", source="s", id="1", data=b"raw", datacontenttype="image/png", dataschema="urn:x")
        assert await services.call(call) is None
        ((_, headers, body),) = service.requests
    assert json.loads(body) == {"a": 1, "b": [2]}
    assert headers["content-type"] == "application/json"
    assert "ce-dataschema" not in headers


async def test_a_root_gets_data_of_another_type_as_it_came() -> None:
    async with serving(answering(204)) as service, opened() as services:
        call = SuiteCall(service_function("price", service.url))
        call.event = Event(type="go", source="s", id="1", data=b"raw", datacontenttype="image/png")
        await services.call(call)
        ((_, headers, body),) = service.requests
    assert (headers["content-type"], body) == ("image/png", b"raw")


async def test_a_connection_is_used_again() -> None:
    ports = []
    async with serving(answering(200, b"1")) as service, opened() as services:
        call = service.__call__

        async def noting(scope: Message, *rest: Any) -> None:
            ports.append(scope["client"][1])
            await call(scope, *rest)

        service.__class__ = type("Noting", (Service,), {"__call__": lambda _, *rest: noting(*rest)})
        for _ in range(5):
            assert await services.call(SuiteCall(service_function("price", service.url))) == 1
    assert len(set(ports)) == 1


# --- what it answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "headers", "result"),
    [
        (b'{"a": [1, null]}', {"content-type": "application/json; charset=utf-8"}, {"a": [1, None]}),
        (b"5", {}, 5),
        (b'"5"', {"content-type": "application/problem+json"}, "5"),
        (b"", {"content-type": "application/json"}, None),
        (b"OK", {"content-type": "text/html; charset=utf-8"}, "OK"),
        (b"\x00\xff", {"content-type": "image/png"}, b"\x00\xff"),
        (
            b'{"a": 1}',
            {"content-type": "application/json", "ce-id": "1", "ce-type": "t", "ce-source": "s", "ce-specversion": "1.0"},
            {"a": 1},
        ),
        (
            b'{"specversion": "1.0", "id": "1", "type": "t", "source": "s", "data": {"a": 1}}',
            {"content-type": "application/cloudevents+json"},
            {"a": 1},
        ),
    ],
)
async def test_what_is_answered_is_the_result(body: bytes, headers: dict[str, str], result: Any) -> None:
    assert await called(answering(200, body, headers)) == result


@pytest.mark.parametrize(
    ("status", "answer", "error", "message"),
    [
        (400, b"bad\n  data", Reject, '"price": expected 2xx, found 400: bad data'),
        (404, b"", Reject, '"price": expected 2xx, found 404: no more is said'),
        (422, b"x" * 500, Reject, f'"price": expected 2xx, found 422: {"x" * 300}…'),
        (408, b"slow", Unavailable, '"price": expected 2xx, found 408: slow; see to the service'),
        (425, b"early", Unavailable, '"price": expected 2xx, found 425: early; see to the service'),
        (429, b"many", Unavailable, '"price": expected 2xx, found 429: many; see to the service'),
        (500, b"broken", Unavailable, '"price": expected 2xx, found 500: broken; see to the service'),
        (503, b"later", Unavailable, '"price": expected 2xx, found 503: later; see to the service'),
    ],
)
async def test_a_status_decides_whether_it_is_called_again(status: int, answer: bytes, error: type[Exception], message: str) -> None:
    found = await failure(answering(status, answer, {}))
    assert type(found) is error
    assert str(found) == message
    assert not isinstance(found, Reject) or found.status == status


async def test_credentials_that_are_refused_are_no_fault_of_a_caller_and_are_not_shown() -> None:
    async def repeat(path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        return 401, {}, f"{headers['authorization']}, sesame-1, at /price?token=sesame".encode()

    found = await failure(repeat, {"authorization": "Bearer sesame-1"})
    assert isinstance(found, Reject)
    assert found.status == 502
    assert str(found) == '"price": expected 2xx, found 401: ***, ***, at ***?***; correct `headers`, or what the service lets in'


async def test_a_redirect_is_not_followed() -> None:
    found = await failure(answering(307, headers={"location": "https://example.com/secret?token=1"}))
    assert isinstance(found, Reject)
    assert found.status == 502
    assert str(found) == '"price": expected 2xx, found 307, a redirect to https://example.com, which is not followed; correct `url`'


@pytest.mark.parametrize(
    ("said", "least", "most"), [("7", 7, 7), (formatdate(4e9, usegmt=True), 86_400, 86_400), ("soon", 0, 0), ("-3", 0, 0)]
)
async def test_retry_after_is_honoured(said: str, least: float, most: float) -> None:
    found = await failure(answering(503, b"", {"retry-after": said}))
    assert isinstance(found, Unavailable)
    assert least <= found.retry_after <= most


async def test_an_answer_that_is_no_result_says_so() -> None:
    found = await failure(answering(200, b"<html>"))
    assert isinstance(found, Reject)
    assert found.status == 502
    assert re.fullmatch(r'"price": expected a result, found 200 with none: the body: expected JSON: .+; see to the service', str(found))


async def test_an_answer_that_is_too_large_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post, "LARGEST", 2 * 1024 * 1024)
    found = await failure(answering(200, b"1" * 3 * 1024 * 1024))
    assert isinstance(found, Reject)
    assert str(found) == '"price": expected an answer of at most 2 MiB, found a larger one; have it answer with less'


async def test_a_service_that_is_down_may_come_back() -> None:
    async with opened() as services:
        with pytest.raises(Unavailable, match=r'^"price": expected an answer, found ClientConnectorError: .+; see to the service$'):
            await services.call(SuiteCall(service_function("price", "http://127.0.0.1:9/price")))


async def test_data_that_cannot_be_said_is_rejected_before_it_is_sent() -> None:
    async with opened() as services:
        call = SuiteCall(service_function("price", "http://127.0.0.1:9/price"))
        call.event = Event(type="go", source="s", id="1", data="x", datacontenttype="text/plain; charset=klingon")
        with pytest.raises(Reject, match=r'^"price": content-type: expected a charset'):
            await services.call(call)


# --- in a project -------------------------------------------------------------------------------------

FUNCTIONS = """
from runtime import function

@function(on="order.placed")
def validate(data):
    return {"id": data["id"], "pieces": data["pieces"]}

@function(after=["validate", "price"])
def total(validate, price):
    return validate["pieces"] * price["cents"]
"""

PRICES = """
import json, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Prices(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        order = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if order["id"] == "slow":
            time.sleep(60)
        known = order["id"] == "7"
        body = json.dumps({"cents": 250} if known else "no such thing").encode()
        self.send_response(200 if known else 422)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments): pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Prices)
print(server.server_address[1], flush=True)
server.serve_forever()
"""

TOML = """
[sources.web]
plugin = "http"
listen = "127.0.0.1:0"

[admin]
listen = "127.0.0.1:0"

[functions.price]
url = "http://127.0.0.1:{port}/price"
after = "validate"
headers = {{ authorization = "Bearer sesame" }}
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A project of two functions with a service between them, which serves in a process of its own."""
    import subprocess
    import sys

    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "orders.py").write_text(FUNCTIONS)
    with subprocess.Popen([sys.executable, "-c", PRICES], stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        (tmp_path / "runtime.toml").write_text(TOML.format(port=service.stdout.readline().strip()))
        yield tmp_path
        service.kill()


def test_services_and_functions_form_one_graph(project: Path) -> None:
    with Running(project) as running:
        order = {"id": "7", "pieces": 3}
        assert running.api.post(f"{running.web}/events/order.placed?wait=10", json=order).json() == 750
        refused = running.api.post(f"{running.web}/events/order.placed?wait=10", json={"id": "8", "pieces": 1})
        assert refused.status_code == 422
        assert "no such thing" in refused.text
        known = {one["name"]: one for one in running.api.get("/api/functions").json()["functions"]}
        assert known["price"]["executor"] == "service"
        assert running.api.get("/api/graph").json()["order"] == ["validate", "price", "total"]
        assert running.stop() == 0


def test_a_service_can_be_invoked(project: Path) -> None:
    done = run(project, "invoke", "price", "--data", '{"id": "7"}')
    assert (json.loads(done.stdout), done.returncode) == ({"cents": 250}, 0), done.stderr
    failed = run(project, "invoke", "price", "--data", '{"id": "8"}')
    assert failed.returncode == 1
    assert '"price" failed: Reject: "price": expected 2xx, found 422: "no such thing"' in failed.stderr


def test_a_service_that_is_slow_is_given_up(project: Path) -> None:
    with (project / "runtime.toml").open("a") as file:
        file.write("timeout = 0.2\n")
    done = run(project, "invoke", "price", "--data", '{"id": "slow"}')
    assert done.returncode == 1
    assert '"price" failed: StepTimeout: "price" took longer than 0.2 s' in done.stderr


def test_a_client_that_is_missing_is_told_where_the_service_is_declared(project: Path) -> None:
    (project / "aiohttp.py").write_text('raise ImportError("No module named aiohttp")')
    done = run(project, "check")
    assert done.returncode == 2
    message = (
        "runtime.toml [functions.price]: it needs a client that cannot be imported (No module named aiohttp); "
        "run: pip install 'function-runtime[http]'"
    )
    assert message in done.stderr + done.stdout
