"""function-runtime: one process turns a folder of Python functions into a running, durable, event-driven system.

All that functions and plugins need is here: `from runtime import …`. What needs the web server is imported
when it is first asked for, so that a function file costs nothing it does not use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from runtime import bindings, cloudevents, codec, redaction

# what connectors implement and are given
from runtime.contracts import Clock, Handlers, Inlet, Sink, Source

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
from runtime.hookspecs import hookimpl

# what notices tell
from runtime.records import Step

if TYPE_CHECKING:
    from runtime import posting, protobuf
    from runtime.web import Problem, problem_of, read_body, read_wait, respond, respond_problem
    from runtime.webserver import WebServer

_WEB = ("Problem", "problem_of", "read_body", "read_wait", "respond", "respond_problem")

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
    if name in _WEB:
        return getattr(import_module("runtime.web"), name)
    if name == "WebServer":
        return import_module("runtime.webserver").WebServer
    if name in ("posting", "protobuf"):
        return import_module(f"runtime.{name}")  # needs an extra
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
