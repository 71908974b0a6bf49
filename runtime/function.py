"""`@function` and `@resource`: what a user declares, and the context a function is called with."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, TypeVar, overload

import msgspec

from runtime.event import Event

F = TypeVar("F", bound=Callable[..., Any])

Kind = Literal["async", "sync", "async generator", "generator", "command", "service"]


class Options(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, omit_defaults=True):
    """What `@function` and `[functions.NAME]` may set; seconds throughout, sizes in events, `memory` as in "512MB"."""

    on: str | list[str] = []
    after: str | list[str] = []
    emits: str | None = None
    name: str | None = None
    retries: int = 3
    backoff: float = 1.0
    backoff_max: float = 300.0
    timeout: float = 60.0
    concurrency: int = 64
    rate: float | None = None
    max_emits: int = 10_000
    batch: int = 1
    batch_wait: float = 0.05
    isolate: bool = False
    memory: str | None = None


class Declaration(msgspec.Struct, frozen=True):
    """A `@function` (or `@resource`) as it was met: the callable, the options as written, the line of its decorator."""

    call: Callable[..., Any]
    options: dict[str, Any]
    line: int
    is_resource: bool = False

    @property
    def name(self) -> str:
        """What is written as its name, when that is a text, or the callable's own; empty when it has none."""
        written = self.options.get("name")
        return written if written and isinstance(written, str) else getattr(self.call, "__name__", "")

    @property
    def kind(self) -> Kind:
        """Whether it is async, and whether it is a generator."""
        if inspect.isasyncgenfunction(self.call):
            return "async generator"
        if inspect.iscoroutinefunction(self.call):
            return "async"
        return "generator" if inspect.isgeneratorfunction(self.call) else "sync"


_collector: ContextVar[list[Declaration] | None] = ContextVar("declarations", default=None)


@contextmanager
def collecting() -> Iterator[list[Declaration]]:
    """Collect the functions and resources declared in the block; the importer runs each module in one."""
    found: list[Declaration] = []
    token = _collector.set(found)
    try:
        yield found
    finally:
        _collector.reset(token)


@overload
def function(call: F, /) -> F: ...
@overload
def function(**options: Any) -> Callable[[F], F]: ...
def function(call: Any = None, /, **options: Any) -> Any:
    """Declare a function of the graph; the callable itself stays as it is.

    Use as `@function(on="order.placed")` or, for one that is only invoked by name, as `@function`.
    The options are those of `runtime.function.Options`; they are checked when the file is loaded, so
    that a fault can name file and line.
    """
    return _declare(call, options, "function", "on")


@overload
def resource(call: F, /) -> F: ...
@overload
def resource(**options: Any) -> Callable[[F], F]: ...
def resource(call: Any = None, /, **options: Any) -> Any:
    """Declare what functions are given by a parameter of its name: opened when it is first used, and kept.

    A generator yields the value once, and what comes after that closes it; a plain function returns the
    value, and there is nothing to close. Use as `@resource` or as `@resource(timeout=10)`, in seconds.
    """
    return _declare(call, options, "resource", "timeout")


def _declare(call: Any, options: dict[str, Any], word: str, option: str) -> Any:
    if call is not None and not callable(call):
        raise TypeError(f"@{word} takes its options by name, as in @{word}({option}={call!r}); found {call!r} without one")

    def declare(call: F) -> F:
        found = _collector.get()
        if found is not None:
            code = getattr(call, "__code__", None)
            found.append(Declaration(call, options, code.co_firstlineno if code else 0, word == "resource"))
        return call

    return declare if call is None else declare(call)


LONGEST_DELAY = 3_155_760_000  # seconds: a hundred years


class Emission(msgspec.Struct, frozen=True, gc=False):
    """An event a function wants to emit, before it has succeeded; `delay` in seconds."""

    type: str
    data: Any = None
    key: str | None = None
    priority: int | None = None
    delay: float = 0.0
    id: str | None = None
    subject: str | None = None


class Context:
    """What a function may know of its call, and its way to emit events.

    `attempt` counts from 1, `deadline` is Unix time in seconds, `settings` is the table
    `[functions.NAME.settings]`, `idempotency_key` is the same for every attempt of this step.
    """

    __slots__ = ("_emissions", "attempt", "deadline", "event", "function", "idempotency_key", "log", "max_emits", "settings")

    def __init__(
        self,
        event: Event,
        function: str,
        *,
        attempt: int = 1,
        deadline: float = 0.0,
        settings: Mapping[str, Any] | None = None,
        idempotency_key: str = "",
        max_emits: int = 10_000,
    ) -> None:
        self.event = event
        self.function = function
        self.attempt = attempt
        self.deadline = deadline
        self.settings = settings if settings is not None else {}
        self.idempotency_key = idempotency_key or f"{event.id}/{function}"
        self.max_emits = max_emits
        self.log = logging.getLogger(f"functions.{function}")
        self._emissions: list[Emission] = []

    @property
    def emitted(self) -> Sequence[Emission]:
        """What was emitted so far; published when the step has succeeded, or not at all."""
        return self._emissions

    def emit(
        self,
        type: str,
        data: Any = None,
        *,
        key: str | None = None,
        priority: int | None = None,
        delay: float = 0.0,
        id: str | None = None,
        subject: str | None = None,
    ) -> None:
        """Emit an event of `type` when this step succeeds, `delay` seconds from then at the earliest.

        Key and priority are those of the event unless given.

        Raises:
            ValueError: the type is empty or has a wildcard, the priority is not 0 … 9, the delay is
                negative, or the step emits more than `max_emits` events.
        """
        if not type or "*" in type or ">" in type or any(map(str.isspace, type)):
            raise ValueError(f'emit: "{type}" is not an event type: it must not be empty or hold "*", ">" or spaces')
        try:
            "".join(text for text in (type, key, id, subject) if isinstance(text, str)).encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"emit: type, key, id and subject are texts that can be written; {error}") from None
        if priority is not None and not (isinstance(priority, int) and 0 <= priority <= 9):
            raise ValueError(f"emit: priority is 0 … 9, found {priority!r}")
        if not isinstance(delay, int | float) or not 0 <= delay <= LONGEST_DELAY:
            raise ValueError(f"emit: delay is in seconds, from 0 to {LONGEST_DELAY}, found {delay!r}")
        for name, text in (("key", key), ("id", id), ("subject", subject)):
            if text is not None and not isinstance(text, str):
                raise ValueError(f"emit: {name} is a text, found {text!r}")
        if len(self._emissions) >= self.max_emits:
            raise ValueError(f'emit: "{self.function}" emits more than max_emits = {self.max_emits} events in one step')
        self._emissions.append(Emission(type, data, key, priority, float(delay), id, subject))
