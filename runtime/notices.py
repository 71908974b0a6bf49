"""Notices: plugins are told what has happened, after it is recorded; where nobody listens nothing is done."""

from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger("runtime.plugins")

Listener = Callable[..., object]


class Notices:
    """Who listens to which notice, by its name; listeners are called on the loop, in the order they were added."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[tuple[str, Listener]]] = {}

    def add(self, name: str, listener: Listener, where: str) -> None:
        """Add a listener; `where` it stands is named when it raises."""
        self._listeners.setdefault(name, []).append((where, listener))

    def has(self, name: str) -> bool:
        """Return whether anybody listens."""
        return name in self._listeners

    def tell(self, name: str, **what: object) -> None:
        """Call the listeners of a notice; what one raises is logged, and harms nobody else."""
        for where, listener in self._listeners.get(name, ()):
            try:
                listener(**what)
            except Exception:
                log.exception("%s: %s failed; it is told the next one all the same", where, name)
