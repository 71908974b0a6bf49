"""The catalogue: all that plugins offer here, also what nothing uses or what is broken."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import msgspec

from runtime.contracts import Clock
from runtime.errors import Fault
from runtime.offers import Offer
from runtime.plugins import GROUP, Plugins, file_of, load_plugins, title_of
from runtime.settings import Settings


class Kind(msgspec.Struct, frozen=True):
    """What is offered under a name: the class (of a source, sink or journal), convention or command, or the `fault` that keeps it from use.

    `role` is one of these, and empty when the plugin is so broken that it cannot tell. `origin` is the file of
    the folder or the installed module it comes from, `replaces` the installed one that the file stands in for.
    """

    name: str
    role: str
    part: Any
    origin: str
    replaces: str = ""
    fault: str = ""

    @property
    def doc(self) -> str:
        """What it says of itself."""
        help = self.part.help if self.role == "command" and self.part is not None else getattr(self.part, "__doc__", "")
        return inspect.cleandoc(help or "")


def list_kinds(settings: Settings, clock: Clock) -> list[Kind]:
    """Import all plugins, installed ones too, and return every kind by name and role, and every plugin that is broken."""
    plugins = load_plugins(settings, clock)
    installed: dict[str, EntryPoint] = {entry.name: entry for entry in entry_points(group=GROUP)}
    for name in sorted(installed.keys() - plugins.kinds()):
        plugins.add_installed(name)
    folder = settings.plugins_dir.absolute()
    found = [_kind(offer, folder, installed.get(offer.kind), plugins.faults) for offer in plugins.offers()]
    found += _silent(plugins)
    return sorted(dict.fromkeys(found), key=lambda kind: (kind.name, kind.role))


def _kind(offer: Offer, folder: Path, entry: EntryPoint | None, faults: list[Fault]) -> Kind:
    """Return a kind; of an installed plugin that could not be asked there is one offer for each role, here made one kind."""
    file = Path(offer.file) if offer.file else None
    is_ours = file is not None and file.parent == folder
    origin = f"{folder.name}/{file.name}" if file and is_ours else title_of(entry) if entry else offer.where
    replaces = title_of(entry) if file and is_ours and entry and not _is_of(entry, file) else ""
    fault = "" if offer.part else "; ".join(str(fault) for fault in faults if fault.where == offer.where)
    return Kind(offer.kind, offer.role if offer.part or offer.file else "", offer.part, origin, replaces, fault)


def _is_of(entry: EntryPoint, file: Path) -> bool:
    installed = file_of(entry)
    return bool(installed) and file.samefile(installed)


def _silent(plugins: Plugins) -> Iterator[Kind]:
    """Yield what is wrong with plugins and stands at no kind, under the name of the file."""
    told = {offer.where for offer in plugins.offers() if offer.part is None}
    for fault in plugins.faults:
        if fault.where not in told:
            place = fault.where.partition(":")[0]
            yield Kind(Path(place).stem, "", None, place, "", str(fault))
