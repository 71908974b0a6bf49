"""The sink `console`: one CloudEvent a line on standard output, in the CloudEvents JSON format.

It writes as much as a pipe takes without blocking, and looks again soon when that is full: a reader that is slow
or has stopped holds up neither the loop nor, as a thread would that hangs in a write, the end of the process.
"""

from __future__ import annotations

import asyncio
import os
import select
import sys
from collections.abc import Mapping
from typing import Any

from runtime import Event, Sink, cloudevents, hookimpl

PAUSE = 0.01  # seconds until a pipe that is full is looked at again


class Console(Sink):
    """Writes events on standard output; when its reader has gone, `write` raises, and is tried again."""

    def __init__(self, name: str, options: Any) -> None:
        super().__init__(name, options)
        self._turn = asyncio.Lock()
        self._rest = b""  # of a line that was cut off

    async def write(self, events: list[Event]) -> None:
        """Write the events, after the rest of a line that an attempt before left unfinished.

        Raises:
            OSError: standard output is closed.
        """
        lines = b"".join(cloudevents.encode(event) + b"\n" for event in events)
        if sys.stdout is None:
            raise OSError("standard output is closed; open it, or take the sink out of the configuration")
        async with self._turn:
            await self._send(sys.stdout.fileno(), self._rest + lines)

    async def _send(self, file: int, text: bytes) -> None:
        done = 0
        try:
            while done < len(text):
                if not select.select([], [file], [], 0)[1]:
                    await asyncio.sleep(PAUSE)
                    continue
                done += os.write(file, text[done : done + select.PIPE_BUF])
        finally:
            if done:
                self._rest = b"" if text[done - 1 : done] == b"\n" else text[done : text.index(b"\n", done) + 1]


@hookimpl
def register_sinks() -> Mapping[str, type[Sink]]:
    """Offer the sink."""
    return {"console": Console}
