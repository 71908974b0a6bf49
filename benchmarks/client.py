"""A client of HTTP on one connection that is kept open: one request after the other, to measure how long each takes."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit


class Client:
    """A connection that is kept open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, request: str, body: bytes = b"", media_type: str = "application/json") -> bytes:
        """Send a request such as `GET /health` and return the body of the answer."""
        head = f"{request} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {media_type}\r\ncontent-length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next(int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length:"))
        answer = await self._reader.readexactly(length)
        assert head.split()[1] == "200", (head, answer)
        return answer

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


async def connect(address: str) -> Client:
    """Return a client of an address."""
    url = urlsplit(address)
    return Client(*await asyncio.open_connection(url.hostname, url.port))
