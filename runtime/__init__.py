"""function-runtime: one process turns a folder of Python functions into a running, durable, event-driven system.

All that functions and plugins need is here: `from runtime import …`. What functions need is imported at once, what
connectors need (of which the web server is heavy) when it is first asked for, so that a file costs nothing it does not use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# what can go wrong
from runtime.errors import (
    ConfigError,
    DataError,
    Error,
    Fault,
    Full,
    JournalError,
    LoadError,
    MalformedEvent,
    NotRouted,
    PartialFailure,
    PluginError,
    Reject,
    ResultTimeout,
    RunFailed,
    Skip,
    StepTimeout,
    Stopping,
    Unavailable,
)

# what functions declare and are given
from runtime.event import Answer, Event, Malformed, Request
from runtime.function import Context, function, resource

if TYPE_CHECKING:
    from runtime import bindings, cloudevents, codec, posting, protobuf, redaction
    from runtime.contracts import Clock, Handlers, Inlet, Sink, Source
    from runtime.hookspecs import hookimpl
    from runtime.records import Step
    from runtime.web import Problem, problem_of, read_body, read_wait, respond, respond_problem
    from runtime.webserver import WebServer

_LATER = {  # what is imported when it is asked for, by its module
    "runtime.contracts": ("Clock", "Handlers", "Inlet", "Sink", "Source"),  # what connectors implement and are given
    "runtime.hookspecs": ("hookimpl",),
    "runtime.records": ("Step",),  # what notices tell
    "runtime.web": ("Problem", "problem_of", "read_body", "read_wait", "respond", "respond_problem"),
    "runtime.webserver": ("WebServer",),
}
_HOME = {name: module for module, names in _LATER.items() for name in names}
_MODULES = ("bindings", "cloudevents", "codec", "posting", "protobuf", "redaction")

__all__ = [
    "Answer",
    "Clock",
    "ConfigError",
    "Context",
    "DataError",
    "Error",
    "Event",
    "Fault",
    "Full",
    "Handlers",
    "Inlet",
    "JournalError",
    "LoadError",
    "Malformed",
    "MalformedEvent",
    "NotRouted",
    "PartialFailure",
    "PluginError",
    "Problem",
    "Reject",
    "Request",
    "ResultTimeout",
    "RunFailed",
    "Sink",
    "Skip",
    "Source",
    "Step",
    "StepTimeout",
    "Stopping",
    "Unavailable",
    "WebServer",
    "bindings",
    "cloudevents",
    "codec",
    "function",
    "hookimpl",
    "posting",
    "problem_of",
    "protobuf",
    "read_body",
    "read_wait",
    "redaction",
    "resource",
    "respond",
    "respond_problem",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in _MODULES:
        return import_module(f"runtime.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
