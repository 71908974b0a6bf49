"""The settings of a runtime as records: what each table of `runtime.toml` may hold, and its defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Name = Annotated[str, Meta(min_length=1)]
Seconds = Annotated[float, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]


class RuntimeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[runtime]`: folders, relative to that of the file, and patience in seconds."""

    functions: Name = "functions"
    plugins: Name = "plugins"
    grace: Seconds = 30.0
    load_timeout: Positive = 10.0


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[log]`: what is logged on stderr, and how."""

    level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    format: Literal["text", "json"] = "text"


BUILT_IN = ("sqlite", "memory")
"""The schemes of the journals that need no plugin."""


class JournalSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[journal]`: where events are recorded; `keep` and `dedupe` in seconds, `max_backlog` in events."""

    url: str = "sqlite:.runtime/journal.db"
    keep: Seconds = 86_400.0
    max_bytes: Count = 10_000_000_000
    dedupe: Seconds = 3600.0
    max_backlog: Count = 10_000_000

    @property
    def scheme(self) -> str:
        """What kind of journal the `url` names."""
        return self.url.partition(":")[0]


class DispatchSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[dispatch]`: which event goes next; `aging` in seconds for one level of priority, 0 is strict."""

    order: Literal["fifo", "priority"] = "fifo"
    aging: Seconds = 30.0
    in_flight: Count = 1000
    max_hops: Count = 64


class SourceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[sources.NAME]`: `key` is a JMESPath into the data, `rate` in events a second, `options` are the plugin's own keys."""

    plugin: Name
    priority: Annotated[int, Meta(ge=0, le=9)] | None = None
    key: str | None = None
    rate: Positive | None = None
    options: dict[str, Any] = {}


class SinkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[sinks.NAME]`: as for functions, in seconds; without `on` it takes every event. `options` are the plugin's own keys."""

    plugin: Name
    on: tuple[str, ...] = (">",)
    retries: Annotated[int, Meta(ge=0)] = 3
    backoff: Seconds = 1.0
    backoff_max: Seconds = 300.0
    timeout: Positive = 60.0
    concurrency: Count = 64
    batch: Count = 1
    batch_wait: Seconds = 0.05
    options: dict[str, Any] = {}


class ProcessSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the processes of a function are started.

    `env` are further variables, `cwd` is the working directory, `sandbox` a command that is put before, `max_calls` how
    many calls one takes before another replaces it.
    """

    env: dict[str, str] = {}
    cwd: Name | None = None
    sandbox: tuple[Name, ...] = ()
    max_calls: Count | None = None


class CommandSettings(ProcessSettings, frozen=True, kw_only=True):
    """A function that is a command: fed line by line, or with `mode = "once"` started for each event."""

    command: Annotated[tuple[Name, ...], Meta(min_length=1)]
    mode: Literal["persistent", "once"] = "persistent"


class ServiceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A function that is a remote service, called over HTTP."""

    url: Name
    headers: dict[str, str] = {}


class GrpcSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A function that is a remote service, called over gRPC: `grpc` is host and port; `ca` a file of trusted certificates, if it is TLS."""

    grpc: Name
    metadata: dict[str, str] = {}
    ca: Name | None = None


Target = CommandSettings | ServiceSettings | GrpcSettings


class FunctionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[functions.NAME]`: `overrides` are options of `@function`, `settings` is the table for the function itself.

    `target` is what is called where no file declares the function, `handler` names the callable of one that is written in
    another convention, `process` tells how the worker processes of an isolated one are started.
    """

    overrides: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    target: Target | None = None
    handler: Name | None = None
    process: ProcessSettings = ProcessSettings()


class ResourceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[resources.NAME]`: `options` are any keys, for the resource itself."""

    options: dict[str, Any] = {}


class AdminSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[admin]`: where the API listens, and the token it asks for; an empty one is none."""

    listen: str = "127.0.0.1:8090"
    token: str | None = None


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All of a configuration file; `path` is that of the file, which may be missing."""

    path: Path
    runtime: RuntimeSettings = RuntimeSettings()
    log: LogSettings = LogSettings()
    journal: JournalSettings = JournalSettings()
    dispatch: DispatchSettings = DispatchSettings()
    sources: dict[str, SourceSettings] = {}
    sinks: dict[str, SinkSettings] = {}
    functions: dict[str, FunctionSettings] = {}
    resources: dict[str, ResourceSettings] = {}
    admin: AdminSettings = AdminSettings()

    @property
    def functions_dir(self) -> Path:
        """The folder of the function files."""
        return self.path.parent / self.runtime.functions

    @property
    def plugins_dir(self) -> Path:
        """The folder of the project's own plugins."""
        return self.path.parent / self.runtime.plugins
