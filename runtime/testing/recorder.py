"""A sink that stands in for another and keeps what that would have got."""

from __future__ import annotations

from runtime.contracts import Sink
from runtime.event import Event


class Recorder(Sink):
    """Keeps all it is given, in `events`."""

    def __init__(self, name: str) -> None:
        super().__init__(name, None)
        self.events: list[Event] = []

    async def write(self, events: list[Event]) -> None:
        """Keep the events."""
        self.events += events
