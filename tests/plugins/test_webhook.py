"""The sink `webhook`, against a server on a real socket; what arrives there is read by the SDK of CloudEvents."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import pytest
import standardwebhooks
from cloudevents.core.bindings import http as sdk
from cloudevents.core.formats.json import JSONFormat
from faults.ledger import until
from running import Running
from runtime_plugins.webhook import SinkOptions, Webhook
from served import serving
from support import Bench

from runtime import Event, PartialFailure, Reject, Unavailable
from runtime.clock import SystemClock
from runtime.specs import SinkSpec
from runtime.testing import VirtualClock

SECRET = "swordfish"
PEM = Path(__file__).with_suffix("").with_name("webhook.pem")
Answer = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


def answer(status: int, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} So", f"content-length: {len(body)}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def asking(seconds: object) -> bytes:
    return answer(429, b"", **{"Retry-After": str(seconds)})


class Received(msgspec.Struct):
    connection: int
    path: str
    headers: dict[str, str]
    body: bytes
    time: float

    @property
    def id(self) -> str:
        found: str = self.headers.get("ce-id") or json.loads(self.body)["id"]
        return found


class Server:
    """Keeps what it is sent, and answers with the next of `answers`, 202 when there are no more.

    A `hasty` answer is given before the body is read, which then is not.
    """

    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.answers: list[Answer] = []
        self.hasty = b""
        self.requests: list[Received] = []
        self.port = port
        self.connections = 0
        self._tls = tls
        self._handlers: set[asyncio.Task[Any]] = set()

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}/events"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.close()
        for task in list(self._handlers):
            task.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        self.connections += 1
        try:
            await self._answer_all(reader, writer, self.connections)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has gone, or the test is over
        finally:
            self._handlers.discard(task)
            writer.close()

    async def _answer_all(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        while True:
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            if self.hasty:
                writer.write(self.hasty)
                await asyncio.Event().wait()
            body = await reader.readexactly(int(headers["content-length"]))
            self.requests.append(Received(connection, first.split()[1], headers, body, asyncio.get_running_loop().time()))
            given = self.answers.pop(0) if self.answers else answer(202)
            if isinstance(given, bytes):
                writer.write(given)
            else:
                await given(writer)
            await writer.drain()

    def arrived(self, count: int) -> Callable[[], bool]:
        return lambda: len(self.requests) >= count


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server() as server:
        yield server


async def seen(is_so: Callable[[], bool]) -> None:
    """Return when something that takes real time is so."""
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.002)


def make(url: str, **options: Any) -> Webhook:
    sink = Webhook("out", msgspec.convert({"url": url, **options}, SinkOptions))
    sink.clock = VirtualClock()
    return sink


@asynccontextmanager
async def opened(server: Server, **options: Any) -> AsyncIterator[Webhook]:
    sink = make(**{"url": server.url, **options})
    await sink.open()
    try:
        yield sink
    finally:
        await sink.close()


@asynccontextmanager
async def wired(sink: Webhook, **options: Any) -> AsyncIterator[Bench]:
    """Give the sink the events of type `go` of an engine."""
    spec = SinkSpec(**{"name": "out", "on": ("go",), "plugin": "webhook", "backoff": 10.0, "backoff_max": 10.0, **options})
    async with Bench(lambda: None, sinks=[(spec, sink)]) as bench:
        sink.clock = bench.clock
        yield bench


async def put(bench: Bench, *ids: str, **attributes: Any) -> None:
    await bench.inlet().put([event(id, **attributes) for id in ids])


async def status_of(bench: Bench, id: str) -> str:
    (entry,) = await bench.journal.find(id)
    return entry.status


async def step_is(bench: Bench, id: str, status: str, attempts: int) -> None:
    """Return when the step of the sink is so; its entry is always the same object."""
    (entry,) = await bench.journal.find(id)
    await seen(lambda: "out" in entry.steps and (entry.steps["out"].status, entry.steps["out"].attempts) == (status, attempts))


def event(id: str = "1", **attributes: Any) -> Event:
    return Event(**{"type": "go", "source": "tests", "id": id, "data": {"n": 1}, **attributes})


async def failure(sink: Webhook, *events: Event) -> Exception:
    """Return why a write fails: of several events the failure that names them, of one its own."""
    with pytest.raises((PartialFailure, Reject, Unavailable)) as caught:
        await sink.write(list(events or [event()]))
    error = caught.value
    if isinstance(error, PartialFailure) and not events:
        (one,) = error.failures.values()
        assert isinstance(one, Exception)
        return one
    return error


# --- what is sent -------------------------------------------------------------------------------------

FULL = event(
    time=datetime(2026, 1, 31, 12, tzinfo=UTC),
    subject="größe",
    key="k",
    priority=7,
    data={"text": "é"},
    datacontenttype="application/json",
    extensions={"causationid": "0"},
)


@pytest.mark.parametrize("mode", ["structured", "binary"])
async def test_an_event_is_one_request_that_the_sdk_reads(server: Server, mode: str) -> None:
    async with opened(server, mode=mode) as sink:
        await sink.write([FULL])
    (request,) = server.requests
    read = sdk.from_http_event(sdk.HTTPMessage(request.headers, request.body))
    assert (read.get_id(), read.get_type(), read.get_source(), read.get_subject()) == ("1", "go", "tests", "größe")
    assert (read.get_time(), read.get_data(), read.get_datacontenttype()) == (FULL.time, {"text": "é"}, "application/json")
    assert (read.get_extension("partitionkey"), str(read.get_extension("priority")), read.get_extension("causationid")) == ("k", "7", "0")
    assert request.headers["content-type"] == ("application/cloudevents+json" if mode == "structured" else "application/json")


async def test_a_batch_is_one_request_that_the_sdk_reads(server: Server) -> None:
    async with opened(server, mode="batch") as sink:
        await sink.write([FULL, event("2", data="x")])
    (request,) = server.requests
    assert request.headers["content-type"] == "application/cloudevents-batch+json"
    first, second = (JSONFormat().read(None, json.dumps(one)) for one in json.loads(request.body))
    assert (first.get_id(), first.get_data(), second.get_id(), second.get_data()) == ("1", {"text": "é"}, "2", "x")


@pytest.mark.parametrize(("data", "content_type", "body"), [(b"\x00\xff", "application/octet-stream", b"\x00\xff"), (None, None, b"")])
async def test_binary_data_goes_as_it_is_and_no_data_has_no_content_type(
    server: Server, data: Any, content_type: str | None, body: bytes
) -> None:
    async with opened(server, mode="binary") as sink:
        await sink.write([event(data=data)])
    assert (server.requests[0].headers.get("content-type"), server.requests[0].body) == (content_type, body)


@pytest.mark.parametrize(
    ("auth", "header"),
    [({"bearer": SECRET}, f"Bearer {SECRET}"), ({"basic": f"me:{SECRET}"}, "Basic bWU6c3dvcmRmaXNo")],
    ids=["bearer", "basic"],
)
async def test_credentials_headers_and_the_query_are_sent(server: Server, auth: dict[str, str], header: str) -> None:
    async with opened(server, url=f"{server.url}?a=%20b", auth=auth, headers={"X-Shop": "7"}) as sink:
        await sink.write([event()])
    request = server.requests[0]
    assert (request.headers["authorization"], request.headers["x-shop"]) == (header, "7")
    assert request.path in ("/events?a=%20b", "/events?a=+b")


async def test_a_connection_is_used_again_also_after_a_refusal(server: Server) -> None:
    server.answers = [answer(202, b"{}"), answer(400, b"no"), answer(202), answer(503)]
    async with opened(server) as sink:
        for _ in range(2):
            await sink.write([event()])
            await failure(sink)
    assert len(server.requests) == 4
    assert server.connections == 1


async def test_a_large_event_is_sent_whole(server: Server) -> None:
    async with opened(server) as sink:
        await sink.write([event(data="x" * 3_000_000)])
    assert len(json.loads(server.requests[0].body)["data"]) == 3_000_000


async def test_what_is_sent_is_signed_as_standard_webhooks_has_it(server: Server) -> None:
    secret = "whsec_" + base64.b64encode(SECRET.encode()).decode()
    server.answers = [answer(500)]
    async with opened(server, mode="batch", signature={"scheme": "standard-webhooks", "secret": secret}) as sink:
        sink.clock = SystemClock()
        await failure(sink, event("1"), event("2"))
        await sink.write([event("1"), event("2")])
        await sink.write([event("1", source="others"), event("2")])
    for request in server.requests:
        assert [one["id"] for one in standardwebhooks.Webhook(secret).verify(request.body, request.headers)] == ["1", "2"]
    first, again, other = [request.headers["webhook-id"] for request in server.requests]
    assert first == again != other


@pytest.mark.parametrize("scheme", ["github", "slack", "standard-webhooks", "stripe"])
@pytest.mark.parametrize("mode", ["structured", "binary", "batch"])
async def test_a_route_takes_what_a_sink_signs(scheme: str, mode: str) -> None:
    signature = {"scheme": scheme, "secret": base64.b64encode(SECRET.encode()).decode()}
    async with serving({"/in": {"type": "echo", "signature": signature}}) as served:
        sink = make(f"{served.source.address()}/in", mode=mode, signature=signature)
        sink.clock = served.bench.clock
        await sink.open()
        await sink.write([event("ü\n")])
        await sink.write([event("ü\n")])
        await sink.close()
        assert await served.accepted() == 1


async def test_events_go_by_a_proxy(server: Server) -> None:
    server.answers = [answer(202), answer(407, f"you are me:{SECRET}".encode())]
    proxy = server.url.replace("://", f"://me:{SECRET}@").removesuffix("/events")
    async with opened(server, url="http://shop.invalid/events", proxy=proxy) as sink:
        await sink.write([event()])
        error = await failure(sink)
    assert server.requests[0].path == "http://shop.invalid/events"
    assert server.requests[0].headers["host"] == "shop.invalid"
    assert server.requests[0].headers["proxy-authorization"] == "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()
    assert "407" in str(error)
    assert SECRET not in str(error)


async def test_a_proxy_that_lets_nobody_through_is_named_without_its_password(server: Server) -> None:
    async def refuse(writer: asyncio.StreamWriter) -> None:
        writer.close()

    proxy = server.url.replace("://", f"://me:{SECRET}@").removesuffix("/events")
    server.answers = [refuse]
    async with opened(server, url="http://shop.invalid/events", proxy=proxy) as sink:
        error = await failure(sink)
    assert isinstance(error, Unavailable)
    assert SECRET not in str(error)


async def test_a_private_authority_is_trusted_when_it_is_named(caplog: pytest.LogCaptureFixture) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(PEM)
    async with Server(tls=tls) as server:
        async with opened(server, ca=str(PEM)) as sink:
            await sink.write([event()])
        assert len(server.requests) == 1
        with caplog.at_level(logging.CRITICAL, "asyncio"):
            async with opened(server) as sink:
                assert "CERTIFICATE_VERIFY_FAILED" in str(await failure(sink))
    assert len(server.requests) == 1


async def test_a_file_of_certificates_that_is_none_is_named(tmp_path: Path) -> None:
    sink = make("https://127.0.0.1", ca="ca.pem")
    sink.folder = tmp_path
    with pytest.raises(OSError, match=rf"^ca: expected certificates in PEM at {tmp_path}/ca.pem, found FileNotFoundError: .+; correct it$"):
        await sink.open()
    await sink.close()


# --- what the answer means ----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 503, 599])
async def test_what_may_pass_is_tried_again(server: Server, status: int) -> None:
    server.answers = [answer(status, b"not\nnow \x1b[31m")]
    async with opened(server) as sink:
        error = await failure(sink)
    assert (type(error), str(error)) == (Unavailable, f"expected 2xx, found {status}: not now [31m; see to the server")


@pytest.mark.parametrize("status", [400, 401, 404, 409, 410, 422])
async def test_what_will_not_pass_is_refused_for_good(server: Server, status: int) -> None:
    server.answers = [answer(status)]
    async with opened(server) as sink:
        error = await failure(sink)
    assert isinstance(error, Reject)
    text = f"expected 2xx, found {status}: no more is said; correct the options of the sink, or what makes the event"
    assert (error.status, str(error)) == (status, text)


@pytest.mark.parametrize(
    ("location", "where"),
    [(f"https://me:{SECRET}@new.example/{SECRET}?q={SECRET}", "https://new.example"), ("/there", "{own}"), ("http://[", "nowhere")],
)
async def test_a_redirect_is_refused_and_not_followed(server: Server, location: str, where: str) -> None:
    server.answers = [answer(308, Location=location)]
    async with opened(server) as sink:
        error = await failure(sink)
    assert isinstance(error, Reject)
    where = where.replace("{own}", server.url.removesuffix("/events"))
    assert str(error) == f"expected 2xx, found 308, a redirect to {where}, which is not followed; correct `url`"
    assert len(server.requests) == 1


async def test_what_cannot_be_said_in_binary_mode_is_refused_alone(server: Server) -> None:
    async with opened(server, mode="binary") as sink:
        error = await failure(sink, event("1", data="é", datacontenttype="text/plain; charset=us-ascii"), event("2"))
    assert isinstance(error, PartialFailure)
    assert [type(why) for why in error.failures.values()] == [Reject]
    assert [request.id for request in server.requests] == ["2"]


async def test_only_the_events_that_failed_are_named_each_with_its_own_error(server: Server) -> None:
    server.answers = [answer(202), answer(400), answer(500), answer(202)]
    async with opened(server) as sink:
        error = await failure(sink, *map(event, "1234"))
    assert isinstance(error, PartialFailure)
    assert {id: type(why) for id, why in error.failures.items()} == {"2": Reject, "3": Unavailable}
    assert [request.id for request in server.requests] == ["1", "2", "3", "4"]


async def test_what_is_behind_one_that_has_to_wait_is_not_sent(server: Server) -> None:
    server.answers = [answer(202), asking(7)]
    async with opened(server) as sink:
        error = await failure(sink, *map(event, "1234"))
    assert isinstance(error, PartialFailure)
    assert {id: getattr(why, "retry_after", None) for id, why in error.failures.items()} == {"2": 7, "3": 7, "4": 7}
    assert len(server.requests) == 2


async def test_a_refused_batch_is_sent_again_one_by_one(server: Server) -> None:
    server.answers = [answer(400), answer(202), answer(400), answer(202)]
    async with opened(server, mode="batch") as sink:
        error = await failure(sink, *map(event, "123"))
    assert isinstance(error, PartialFailure)
    assert error.failures.keys() == {"2"}
    assert [[one["id"] for one in json.loads(request.body)] for request in server.requests] == [["1", "2", "3"], ["1"], ["2"], ["3"]]


@pytest.mark.parametrize(("status", "kind"), [(401, Reject), (503, Unavailable)])
async def test_a_batch_that_is_not_at_fault_fails_as_a_whole(server: Server, status: int, kind: type[Exception]) -> None:
    server.answers = [answer(status)]
    async with opened(server, mode="batch") as sink:
        assert isinstance(await failure(sink, *map(event, "123")), kind)
    assert len(server.requests) == 1


# --- answers that are none ----------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", [b"", b"content-encoding: gzip\r\n"])
async def test_an_endless_answer_is_not_read_to_its_end(server: Server, encoding: bytes) -> None:
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 400 No\r\ntransfer-encoding: chunked\r\n" + encoding + b"\r\n")
        while True:
            writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            await writer.drain()
            sent += 65536

    server.answers = [endless]
    async with opened(server) as sink:
        assert len(str(await failure(sink))) < 1000
        await sink.write([event()])
        await seen(lambda: not server.answers)
    assert sent < 20_000_000  # what the buffers of two sockets hold
    assert server.connections == 2


async def test_the_body_of_an_answer_is_not_waited_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.posting.PATIENCE", 0.05)

    async def stuck(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 202 So\r\ncontent-length: 100\r\n\r\n")
        await asyncio.Event().wait()

    server.answers = [stuck]
    async with opened(server) as sink:
        await sink.write([event()])


@pytest.mark.parametrize("said", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nbad\x00header\r\n\r\n"])
async def test_what_is_no_answer_is_tried_again_and_shows_no_address(server: Server, said: bytes) -> None:
    async def hang_up(writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()
        writer.close()

    server.answers = [hang_up]
    async with opened(server, url=f"{server.url}/{SECRET}?token={SECRET}") as sink:
        error = await failure(sink)
    assert isinstance(error, Unavailable)
    assert str(error).startswith("expected an answer, found ")
    assert SECRET not in str(error)


async def test_an_answer_before_the_end_of_a_large_event_counts(server: Server) -> None:
    server.hasty = answer(413, b"too large")
    async with opened(server) as sink:
        error = await failure(sink, event(data="x" * 30_000_000))
    assert "found 413: too large" in str(error)


# --- through the runtime ------------------------------------------------------------------------------


async def test_a_refusal_makes_a_dead_letter_without_another_attempt(server: Server) -> None:
    server.answers = [answer(400, b"unknown")]
    async with wired(make(server.url)) as bench:
        await put(bench, "1")
        await step_is(bench, "1", "failed", 1)
        (entry,) = await bench.journal.find("1")
        error = entry.steps["out"].error
        assert error is not None
        assert (entry.status, error.type, error.status) == ("dead", "Reject", 400)


async def test_an_event_is_delivered_after_failures_of_the_server(server: Server) -> None:
    server.answers = [answer(500), answer(502)]
    async with wired(make(server.url)) as bench:
        await put(bench, "1")
        for number in (1, 2):
            await step_is(bench, "1", "retrying", number)
            await bench.clock.advance(10)
        await step_is(bench, "1", "done", 3)


@pytest.mark.parametrize("as_date", [False, True], ids=["seconds", "date"])
async def test_nothing_is_tried_again_before_the_time_the_server_asks_for(server: Server, as_date: bool) -> None:
    clock = VirtualClock()
    when = format_datetime(datetime.fromtimestamp(clock.time(), UTC) + timedelta(hours=1), usegmt=True)
    server.answers = [asking(when if as_date else 3600)]
    async with wired(make(server.url)) as bench:
        await put(bench, "1")
        await step_is(bench, "1", "retrying", 1)
        (entry,) = await bench.journal.find("1")
        assert 3605 <= entry.steps["out"].due - bench.clock.time() <= 3610
        await bench.clock.advance(3610)
        await step_is(bench, "1", "done", 2)


@pytest.mark.parametrize("said", ["", "soon", "-5", "nan", "Mon, 99 Foo 2026 00:00:00 GMT", "Thu, 01 Jan 1970 00:00:00 GMT"])
async def test_a_time_that_cannot_be_or_is_over_asks_for_nothing(server: Server, said: str) -> None:
    server.answers = [asking(said)]
    async with opened(server) as sink:
        error = await failure(sink)
    assert isinstance(error, Unavailable)
    assert error.retry_after == 0


async def test_a_server_that_is_too_slow_is_left_and_asked_again(server: Server) -> None:
    async def never(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    server.answers = [never]
    async with wired(make(server.url), timeout=5) as bench:
        await put(bench, "1")
        await seen(server.arrived(1))
        await bench.clock.advance(5)
        await step_is(bench, "1", "retrying", 1)
        await bench.clock.advance(10)
        await step_is(bench, "1", "done", 2)
        assert server.connections == 2


async def test_what_failed_of_a_batch_is_sent_again_and_nothing_else(server: Server) -> None:
    server.answers = [answer(202), answer(500), answer(404), answer(202)]
    async with wired(make(server.url), batch=4, batch_wait=0.0) as bench:
        await put(bench, *"1234")
        await step_is(bench, "2", "retrying", 1)
        await bench.clock.advance(10)
        await step_is(bench, "2", "done", 2)
        assert [await status_of(bench, id) for id in "1234"] == ["done", "done", "dead", "done"]
    assert [request.id for request in server.requests] == ["1", "2", "3", "4", "2"]


async def test_events_of_a_key_arrive_in_order_through_failures(server: Server) -> None:
    server.answers = [answer(500), asking(30)]
    async with wired(make(server.url)) as bench:
        await put(bench, *"123", key="k")
        for number in (1, 2):
            await step_is(bench, "1", "retrying", number)
            await bench.clock.advance(41)
        await step_is(bench, "3", "done", 1)
    assert [request.id for request in server.requests] == ["1", "1", "1", "2", "3"]


# --- options ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"url": f"example.com/{SECRET}"}, 'url: expected an address like "https://example.com/events", found something else; correct it'),
        ({"url": f"ftp://x/{SECRET}"}, 'url: expected an address like "https://example.com/events", found something else; correct it'),
        ({"url": f"http://[{SECRET}"}, 'url: expected an address like "https://example.com/events", found something else; correct it'),
        ({"url": f"http://me:{SECRET}@x"},
         'url: expected no user and no password in it, found some; write `auth = { basic = "USER:PASSWORD" }`'),
        ({"headers": {"Content-Type": "a/b"}},
         'headers: "Content-Type" is no name of a header, or of one that the sink sets itself; remove it'),
        ({"headers": {"ce-id": "1"}}, 'headers: "ce-id" is no name of a header, or of one that the sink sets itself; remove it'),
        ({"headers": {"a b": "1"}}, 'headers: "a b" is no name of a header, or of one that the sink sets itself; remove it'),
        ({"headers": {"X-Key": f"{SECRET}\n"}},
         "X-Key: expected text without control characters, found some, perhaps a line break; remove them"),
        ({"auth": {"bearer": f"{SECRET}\n"}},
         "Authorization: expected text without control characters, found some, perhaps a line break; remove them"),
        ({"auth": {"bearer": SECRET}, "headers": {"authorization": SECRET}},
         "headers: expected no Authorization beside `auth`, found one; remove one of them"),
        ({"proxy": f"socks5://me:{SECRET}@x"},
         'proxy: expected an address like "http://USER:PASSWORD@proxy.example.com:3128", found something else; correct it'),
        ({"signature": {"scheme": "slack", "secret": ""}}, "`signature.secret` is empty; set the secret, or remove `signature`"),
        ({"signature": {"scheme": "standard-webhooks", "secret": f"{SECRET}!"}},
         '`signature.secret` is not base64, perhaps with "whsec_" before it, as `standard-webhooks` has it; copy it from the sender'),
        ({"auth": {}}, "expected either `bearer` or `basic`; give one of them - at `$.auth`"),
        ({"auth": {"bearer": SECRET, "basic": SECRET}}, "expected either `bearer` or `basic`; give one of them - at `$.auth`"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_meant_are_refused_without_showing_secrets(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError) as caught:
        make(**{"url": "http://x", **options})
    assert str(caught.value) == text


# --- the whole of it ----------------------------------------------------------------------------------

CONFIG = """
[sources.web]
plugin = "http"
listen = "127.0.0.1:0"
[sinks.out]
plugin = "webhook"
url = "{url}/hook-{secret}?token={secret}"
auth = {{ bearer = "{secret}" }}
headers = {{ X-Key = "key {secret}" }}
retries = 100
backoff = 0.05
backoff_max = 0.05
[admin]
listen = "127.0.0.1:0"
"""


def start(folder: Path, url: str) -> Running:
    (folder / "functions").mkdir()
    (folder / "runtime.toml").write_text(CONFIG.format(url=url, secret=SECRET))
    return Running(folder)


def emit(runtime: Running) -> None:
    """Have the runtime accept the event 7."""
    sent = b'{"specversion": "1.0", "id": "7", "source": "t", "type": "go"}'
    answer = runtime.api.post("/api/events", content=sent, headers={"content-type": "application/cloudevents+json"})
    assert answer.status_code == 202


def step_of(runtime: Running) -> dict[str, Any]:
    steps: list[dict[str, Any]] = runtime.api.get("/api/events/7").json()["steps"]
    return steps[0] if steps else {"status": "none"}


async def test_a_real_process_waits_as_long_as_it_is_asked_to(server: Server, tmp_path: Path) -> None:
    server.answers = [asking(1)]

    def work() -> None:
        with start(tmp_path, server.url) as runtime:
            emit(runtime)
            until(lambda: step_of(runtime)["status"] == "done")
            assert step_of(runtime)["attempts"] == 2
            assert runtime.stop() == 0

    await asyncio.to_thread(work)
    first, second = server.requests
    assert second.time - first.time >= 1


async def test_a_server_that_comes_up_late_gets_what_waited(tmp_path: Path) -> None:
    async with Server() as before:
        url, port = before.url, before.port
    runtime = await asyncio.to_thread(start, tmp_path, url)
    with runtime:
        emit(runtime)
        await asyncio.to_thread(until, lambda: step_of(runtime)["status"] == "retrying")
        assert "Cannot connect" in step_of(runtime)["error"]["message"]
        async with Server(port) as server:
            await asyncio.to_thread(until, lambda: step_of(runtime)["status"] == "done")
            assert [request.id for request in server.requests] == ["7"]


async def test_a_secret_that_the_server_repeats_is_nowhere_to_be_read(server: Server, tmp_path: Path) -> None:
    async def echo(writer: asyncio.StreamWriter) -> None:
        request = server.requests[-1]
        writer.write(answer(401, f"bad {request.path} {request.headers}".encode()))

    server.answers = [echo]

    def work() -> None:
        with start(tmp_path, server.url) as runtime:
            emit(runtime)
            until(lambda: step_of(runtime)["status"] == "failed")
            paths = ["/api/events/7", "/api/events", "/api/sinks", "/health", "/api/graph"]
            told = "".join(runtime.api.get(path).text for path in paths)
            assert "found 401: bad" in told
            assert SECRET not in told
            assert runtime.stop() == 0
            assert "gave up event 7" in runtime.log
            assert SECRET not in runtime.log

    await asyncio.to_thread(work)
    assert SECRET in server.requests[0].path
    journal = b"".join(path.read_bytes() for path in (tmp_path / ".runtime").iterdir() if path.is_file())
    assert b"found 401: bad" in journal
    assert SECRET.encode() not in journal
