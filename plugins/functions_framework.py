"""The convention `functions_framework`: runs functions under Google's `@functions_framework.cloud_event` as they are.

What the decorators return is known by the code around it; the package itself is never imported here: the file of the user
has done so. Functions under `@functions_framework.http` and `.typed` want a web framework, and are not run.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from types import FunctionType, ModuleType
from typing import Any

from runtime import Event, Handlers, cloudevents, hookimpl

SDK = ("cloudevents.http", "cloudevents.v1.http")
"""Where the SDK has the class that the framework hands to functions: before its version 2, and since."""


class FunctionsFramework(Handlers):
    """`@functions_framework.cloud_event` above `def handler(cloud_event)`; it need not be named."""

    def find(self, module: ModuleType) -> Mapping[str, Callable[..., Any]]:
        """Return the functions of a file that are under the decorator; none while nobody has imported that."""
        if "functions_framework" not in sys.modules:
            return {}
        values = {name: value for name, value in vars(module).items() if _decorator_of(value) == "cloud_event"}
        return {name: value for name, value in values.items() if value.__module__ == module.__name__}

    def adapt(self, handler: Callable[..., Any], options: Mapping[str, Any]) -> Callable[..., Any] | None:
        """Return a function that calls a decorated one with a `CloudEvent` of the SDK.

        Raises:
            ValueError: it is under another decorator, has a `batch`, or the SDK is missing.
        """
        decorator = _decorator_of(handler)
        if not decorator:
            return None
        if decorator != "cloud_event":
            raise ValueError(
                f"expected @functions_framework.cloud_event, found .{decorator}, which is not supported; take the data of an event"
            )
        if options.get("batch", 1) != 1:
            raise ValueError("expected no `batch`, found one; the functions framework knows no lists of events; remove it")
        make = _cloud_event()
        if inspect.iscoroutinefunction(handler):

            async def call_async(event: Event) -> Any:
                return await handler(make(*_parts(event)))

            return call_async

        def call(event: Event) -> Any:
            return handler(make(*_parts(event)))

        return call


def _decorator_of(value: object) -> str:
    """Return which decorator of the framework a function is under; empty when it is under none."""
    if not isinstance(value, FunctionType) or not hasattr(value, "__wrapped__"):
        return ""
    home = str(value.__globals__.get("__name__", "")).partition(".")[0]
    return value.__code__.co_qualname.partition(".")[0] if home == "functions_framework" else ""


def _cloud_event() -> Callable[..., Any]:
    for name in SDK:
        try:
            made: Callable[..., Any] = importlib.import_module(name).CloudEvent
        except ImportError:
            continue
        return made
    raise ValueError("expected the package cloudevents beside functions_framework, found none; install it where the runtime is installed")


def _parts(event: Event) -> tuple[dict[str, Any], Any]:
    """Return the attributes and the data of an event as the SDK takes them."""
    attributes = {name: value for name, value in cloudevents.to_dict(event).items() if name not in ("data", "data_base64")}
    return attributes, event.data


@hookimpl
def register_conventions() -> dict[str, Handlers]:
    """Offer `functions_framework`."""
    return {"functions_framework": FunctionsFramework()}
