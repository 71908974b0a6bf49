"""The hooks of a plugin: pluggy asks each once, at start; the classes they return do the work."""

from __future__ import annotations

from collections.abc import Mapping

import pluggy

from runtime.contracts import Sink, Source

PROJECT = "runtime"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Mark a function of a plugin as the implementation of the hook of its name."""


@hookspec
def register_sources() -> Mapping[str, type[Source]]:  # type: ignore[empty-body]
    """Return the kinds of source this plugin offers, by the name that `plugin = "…"` uses."""


@hookspec
def register_sinks() -> Mapping[str, type[Sink]]:  # type: ignore[empty-body]
    """Return the kinds of sink this plugin offers, by the name that `plugin = "…"` uses."""
