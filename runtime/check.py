"""Checks a project without running it: config, plugins, functions and graph, with every fault at once."""

from __future__ import annotations

from pathlib import Path

from runtime import config
from runtime.clock import SystemClock
from runtime.errors import ConfigError, Fault, LoadError
from runtime.graph import Graph
from runtime.loading.loader import load_graph
from runtime.plugins import load_plugins
from runtime.settings import BUILT_IN, Settings


def check(path: str | Path) -> tuple[Settings, Graph | None, list[Fault]]:
    """Return the settings, the graph if the files make one, and every fault."""
    settings, faults = config.read(path)
    plugins = load_plugins(settings, SystemClock())
    for name, source in settings.sources.items():
        try:
            plugins.build_source(name, source)
        except ConfigError as error:
            faults += error.faults
    for name, sink in settings.sinks.items():
        try:
            plugins.build_sink(name, sink)
        except ConfigError as error:
            faults += error.faults
    try:
        if settings.journal.scheme not in BUILT_IN:
            plugins.journal(settings.journal.scheme)
    except ConfigError as error:
        faults += error.faults
    faults += plugins.faults
    try:
        return settings, load_graph(settings, plugins.conventions()), faults
    except LoadError as error:
        return settings, None, faults + error.faults
