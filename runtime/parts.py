"""The sources and sinks that a configuration asks for, made of what plugins offer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

import msgspec

from runtime.contracts import Sink, Source
from runtime.errors import ConfigError, Fault
from runtime.plugins import Plugins
from runtime.settings import Settings, SinkSettings, SourceSettings

P = TypeVar("P", Source, Sink)
S = TypeVar("S", SourceSettings, SinkSettings)


class Parts(msgspec.Struct, frozen=True):
    """Sources and sinks that were made and do not run yet, by name."""

    sources: Mapping[str, Source]
    sinks: Mapping[str, Sink]


def make_parts(settings: Settings, plugins: Plugins, *, sources: Collection[str] = (), sinks: Collection[str] = ()) -> Parts:
    """Make all but those `sources` and `sinks`, which stay as they are; those of a broken plugin are left out.

    Raises:
        ConfigError: with every fault.
    """
    faults: list[Fault] = []
    made_sinks = _made(settings.sinks, plugins.build_sink, sinks, faults)
    parts = Parts(_made(settings.sources, plugins.build_source, sources, faults), made_sinks)
    if faults:
        raise ConfigError(faults)
    return parts


def unchanged(role: str, before: tuple[Settings, Plugins], after: tuple[Settings, Plugins]) -> set[str]:
    """Return the names of the sources or sinks whose code and options are the same."""
    old, new = (getattr(settings, f"{role}s") for settings, _ in (before, after))
    same = {name for name in new if name in old and (old[name].plugin, old[name].options) == (new[name].plugin, new[name].options)}
    return {name for name in same if before[1].part(role, new[name].plugin) is after[1].part(role, new[name].plugin)}


def _made(tables: Mapping[str, S], build: Callable[[str, S], P | None], but: Collection[str], faults: list[Fault]) -> dict[str, P]:
    made: dict[str, P] = {}
    for name, table in tables.items():
        try:
            part = None if name in but else build(name, table)
        except ConfigError as error:
            faults += error.faults
        else:
            made |= {name: part} if part is not None else {}
    return made
