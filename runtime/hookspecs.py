"""The hooks of a plugin: pluggy asks each `register_…` once, when it is loaded; the objects they return do the work.

The others are notices: they are called on the loop when something has happened and is recorded, and must not block.
A notice that nobody implements costs nothing; what one raises is logged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pluggy

from runtime.contracts import Convention, Journal, Sink, Source
from runtime.event import Event
from runtime.records import Step

if TYPE_CHECKING:
    from click import Command

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


@hookspec
def register_journals() -> Mapping[str, type[Journal]]:  # type: ignore[empty-body]
    """Return the kinds of journal this plugin offers, by the scheme that `[journal] url = "SCHEME:…"` uses."""


@hookspec
def register_conventions() -> Mapping[str, Convention]:  # type: ignore[empty-body]
    """Return other people's ways to write functions, by name: a function that declares what it finds in each loaded file, or `Handlers`."""


@hookspec
def register_commands() -> Mapping[str, Command]:  # type: ignore[empty-body]
    """Return the click commands this plugin adds to `runtime`, by name."""


@hookspec
def event_accepted(event: Event) -> None:
    """Take notice of an event that the journal has, whether from a source or emitted."""


@hookspec
def step_finished(event: Event, step: Step) -> None:
    """Take notice of a step, a function's or a sink's, that has ended `done`, `skipped` or `failed`."""


@hookspec
def run_finished(event: Event, status: str) -> None:
    """Take notice of an event whose functions have all ended: `done`, or `dead` when one has failed."""


@hookspec
def generation_changed(number: int, added: Sequence[str], changed: Sequence[str], removed: Sequence[str]) -> None:
    """Take notice of a new generation, by its number and the names of the functions that it added, changed and removed."""
