"""Bodies are read and answers written in one go where that can be done, and nobody can tell by the bytes."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from runtime import web, webserver
from runtime.webserver import WebServer

PATIENCE = 20.0  # seconds until a test gives up on an answer

POST = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi"
LAST = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
REQUESTS = {
    "one": LAST,
    "with a body": POST + LAST,
    "in pieces": POST[:-1] + b"|" + POST[-1:] + LAST,
    "of two chunks": b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nh\r\n|1\r\ni\r\n0\r\n\r\n" + LAST,
    "announced": b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n|hi" + LAST,
    "of HTTP/1.0": b"GET / HTTP/1.0\r\n\r\n",
    "only the head": LAST.replace(b"GET", b"HEAD"),
    "many in a row": POST * 20 + LAST,
    "too large": POST.replace(b"content-length: 2", b"content-length: 9") + b"1234567" + LAST,
}


class Slow:
    """Stands between the app and uvicorn, as middleware does."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def __call__(self, *message: Any) -> Any:
        return await self._call(*message)


async def talk(request: bytes, *, direct: bool, status: int = 200) -> tuple[bytes, set[bool]]:
    """Return what a server answers to pieces of a request, and whether it could do without what ASGI asks for."""
    known = set()

    async def app(scope: web.Scope, receive: web.Receive, send: web.Send) -> None:
        if not direct:
            receive, send = Slow(receive), Slow(send)
        known.add(web._cycle_of(receive) is not None and web._cycle_of(send) is not None)
        try:
            body = await web.read_body(receive, 8)
        except web.Problem as problem:
            await web.respond_problem(send, problem)
        else:
            await web.respond(send, status, body, "text/plain")

    server = WebServer(app, "127.0.0.1:0")
    await server.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(server.address.rpartition(":")[2]))
        for piece in request.split(b"|"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)  # a piece that comes with the one before it is none
        answer = await asyncio.wait_for(reader.read(), PATIENCE)
        writer.close()
    finally:
        await server.stop()
    lines = re.sub(rb"date: [^\r]+", b"date: now", answer).split(b"\r\n")
    return b"\n".join(sorted(lines)), known


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
async def test_what_is_done_in_one_go_is_what_asgi_does(request_: bytes) -> None:
    quick, known = await talk(request_, direct=True)
    assert known == {True}, "uvicorn has changed: `_cycle_of` does not find what it was made for"
    slow, known = await talk(request_, direct=False)
    assert known == {False}
    assert quick == slow
    assert quick.count(b"HTTP/1.1 ") >= 1


async def test_answers_without_a_body_have_none() -> None:
    for status in (204, 304):
        quick, _ = await talk(LAST, direct=True, status=status)
        assert quick == (await talk(LAST, direct=False, status=status))[0]
        assert b"content-length" not in quick


async def test_an_answer_is_not_written_for_who_has_gone() -> None:
    gone = asyncio.Event()
    ended = asyncio.Event()

    async def app(scope: web.Scope, receive: web.Receive, send: web.Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            gone.set()
        await web.respond(send, 200, b"late")
        ended.set()

    server = WebServer(app, "127.0.0.1:0")
    await server.start()
    _, writer = await asyncio.open_connection("127.0.0.1", int(server.address.rpartition(":")[2]))
    writer.write(LAST)
    await asyncio.wait_for(gone.wait(), PATIENCE)
    writer.close()
    await asyncio.wait_for(ended.wait(), PATIENCE)
    await server.stop()


async def test_a_connection_is_closed_when_nothing_more_comes_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webserver, "IDLE", 0.2)

    async def app(scope: web.Scope, receive: web.Receive, send: web.Send) -> None:
        await web.respond(send, 200, await web.read_body(receive, 8))

    server = webserver.WebServer(app, "127.0.0.1:0")
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.address.rpartition(":")[2]))
    for _ in range(6):  # longer together than it may be idle
        writer.write(POST)
        assert await asyncio.wait_for(reader.readuntil(b"hi"), PATIENCE)
        await asyncio.sleep(0.05)
    assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
    writer.close()
    await server.stop()


async def test_a_media_type_ends_no_line() -> None:
    with pytest.raises(ValueError, match=r"expected a media type, found 'a\\r\\nb: c'"):
        web._head(200, "a\r\nb: c")
