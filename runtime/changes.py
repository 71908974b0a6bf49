"""What differs between two configurations: what takes effect at once, what has to wait for the next start, and how it is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from msgspec.structs import replace

from runtime.errors import Fault
from runtime.settings import Settings
from runtime.toml import place_of

LATER: Final = {
    "runtime": ("functions", "plugins"),
    "journal": ("url",),
    "dispatch": ("order", "aging"),
    "admin": ("listen", "token"),
}
"""The keys by table that take effect at the next start; all others do at once."""

TABLES: Final = ("runtime", "log", "journal", "dispatch", "admin")
NAMED: Final = ("sources", "sinks", "functions", "resources")
LIMITS: Final = ("keep", "max_bytes", "dedupe")  # the keys of [journal] that are the journal's to take

WAITS: Final = "a new value takes effect at the next start; restart the runtime, or set it back"


CODE_WAITS: Final = "the plugin of the journal has changed, which takes effect at the next start; restart the runtime"


def in_force(settings: Settings, present: Settings) -> Settings:
    """Return new settings as they hold while the runtime runs: what has to wait is as it is at present."""
    return replace(settings, **{table: _with(settings, present, table, keys) for table, keys in LATER.items()})


def without_limits(settings: Settings, present: Settings) -> Settings:
    """Return new settings with the present limits, for a journal that takes no others while it is open."""
    return replace(settings, journal=_with(settings, present, "journal", LIMITS))


def _with(settings: Settings, present: Settings, table: str, keys: Sequence[str]) -> Any:
    return replace(getattr(settings, table), **{key: getattr(getattr(present, table), key) for key in keys})


def waiting(saved: Settings, present: Settings) -> list[Fault]:
    """Return a fault for each value that was saved and is not in force."""
    return [Fault(place_of(saved.path.name, (table,), key), WAITS) for table, key in _different(present, saved)]


def limits_differ(before: Settings, after: Settings) -> bool:
    """Return whether the journal is to take new limits."""
    return any(getattr(before.journal, key) != getattr(after.journal, key) for key in LIMITS)


def told(before: Settings, after: Settings, anew: Mapping[str, set[str]], files: Sequence[str] = ()) -> str:
    """Return in one line what was added, removed and changed; `anew` are names by table of what was made anew, `files` those of plugins."""
    words: dict[str, list[str]] = {"added": [], "removed": [], "changed": []}
    for table in NAMED:
        old, new = getattr(before, table), getattr(after, table)
        noun = table.removesuffix("s")
        words["added"] += [f"{noun} {name}" for name in new if name not in old]
        words["removed"] += [f"{noun} {name}" for name in old if name not in new]
        words["changed"] += [f"{noun} {name}" for name in new if name in old and (new[name] != old[name] or name in anew.get(table, ()))]
    words["changed"] += files
    words["changed"] += [f"[{table}] {key}" for table, key in _different(before, after)]
    return "; ".join(f"{word} {', '.join(things)}" for word, things in words.items() if things)


def _different(before: Settings, after: Settings) -> Iterator[tuple[str, str]]:
    """Yield table and key of each value that differs, in the tables that have no names."""
    for table in TABLES:
        old, new = getattr(before, table), getattr(after, table)
        yield from ((table, key) for key in new.__struct_fields__ if getattr(old, key) != getattr(new, key))
