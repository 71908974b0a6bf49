"""The plugin host: finds plugins, asks each once what it offers, and makes the sources and sinks of the settings.

There are two doors. The `*.py` of the project's plugins folder are always imported, as modules of a package
that is not on `sys.path` (there, `plugins/http.py` would hide the standard library's `http`). An entry point of
the group `runtime.plugins` is imported only when the settings use the kind it is named after and no file offers
that: what nobody uses costs nothing and breaks nothing. A file replaces an installed plugin, unless it is the
very file of that. pluggy's own entry-point loader was rejected: it stops at the first broken plugin without
naming it. Here each is imported and asked by itself, and a fault stops only what uses the plugin.

To load again is to make another host, which is given the one before: what a file that has not changed has answered is
kept, with its classes. A file that has become faulty goes on as it was.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pluggy

from runtime import folder, hookspecs
from runtime.contracts import Clock, Convention, Journal, Sink, Source
from runtime.errors import ConfigError, Fault, nearest
from runtime.notices import Notices
from runtime.offers import ROLES, Answer, Offer, Origin, ask, told
from runtime.options import read_options
from runtime.settings import BUILT_IN, Settings, SinkSettings, SourceSettings
from runtime.toml import place_of

if TYPE_CHECKING:
    from click import Command

log = logging.getLogger("runtime.plugins")

GROUP = "runtime.plugins"
CONVENTIONS = ("aws_lambda", "functions_framework")
"""The installed plugins that are used without being named: a file may be written in their way, and nothing tells before it is loaded."""


def load_plugins(settings: Settings, clock: Clock, before: Plugins | None = None) -> Plugins:
    """Import and ask the plugins of the folder, and those installed ones that the settings use; faults are kept."""
    plugins = load_folder(settings, clock, before)
    for kind in sorted(_used(settings) | plugins.kinds()):
        plugins.add_installed(kind)
    plugins.settle()
    return plugins


def load_conventions(settings: Settings, clock: Clock) -> list[Convention]:
    """Return the ways to write functions that there are, for commands that need nothing else of plugins."""
    plugins = load_folder(settings, clock)
    for kind in CONVENTIONS:
        plugins.add_installed(kind)
    return plugins.conventions()


def load_folder(settings: Settings, clock: Clock, before: Plugins | None = None) -> Plugins:
    """Import and ask the plugins of the folder alone; faults are kept."""
    plugins = Plugins(settings, clock, before)
    path = settings.plugins_dir.absolute()
    folder.make_package(path, plugins.unchanged())
    used = _used(settings)
    for file in sorted(path.glob("*.py")):
        if not file.name.startswith(("_", ".", "#")) and (file.stem in used or plugins.twin_of(file) is None):
            plugins.add_file(file)
    return plugins


def _used(settings: Settings) -> set[str]:
    """Return the kinds that the settings use, and those that are used anyway."""
    named = {part.plugin for table in (settings.sources, settings.sinks) for part in table.values()}
    return named | {settings.journal.scheme, *CONVENTIONS}


class Taken(msgspec.Struct, frozen=True):
    """What a plugin has answered, and the mark of its file then; None when it is to be asked again."""

    mark: bytes | None
    answer: Answer


class Plugins:
    """What plugins offer; `faults` tells what is wrong with them, and what does not run because of that.

    `before` is the host that this one is to take the place of, `news` the files of the folder that differ from then.
    """

    def __init__(self, settings: Settings, clock: Clock, before: Plugins | None = None) -> None:
        self._clock = clock
        self.faults: list[Fault] = []
        self.notices = Notices()
        self.news: list[str] = []
        self._config = settings.path.name
        self._base = settings.path.parent
        self._folder = settings.plugins_dir.name
        self._offers: dict[tuple[str, str], Offer] = {}
        self._suspects: dict[str, str] = {}  # the place of the first fault of a file, by its stem: it may have offered anything
        self._marks = folder.read_marks(settings.plugins_dir.absolute())
        self._before = before
        self._files: dict[str, Taken] = {}  # by stem
        self._packages: dict[str, Answer] = {}  # by kind
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._installed: dict[str, dict[str, EntryPoint]] = {}
        for entry in entry_points(group=GROUP):
            self._installed.setdefault(entry.name, {}).setdefault(entry.value, entry)

    def build_source(self, name: str, settings: SourceSettings) -> Source | None:
        """Return the source of `[sources.NAME]`, or None, and a fault, when its plugin is broken.

        Raises:
            ConfigError: no plugin offers it, or it refuses its options.
        """
        made: Source | None = self._build("source", name, settings.plugin, settings.options)
        return made

    def build_sink(self, name: str, settings: SinkSettings) -> Sink | None:
        """Return the sink of `[sinks.NAME]`, or None, and a fault, when its plugin is broken.

        Raises:
            ConfigError: no plugin offers it, or it refuses its options.
        """
        made: Sink | None = self._build("sink", name, settings.plugin, settings.options)
        return made

    def journal(self, scheme: str) -> type[Journal]:
        """Return the kind of journal that `[journal] url = "SCHEME:…"` names.

        Raises:
            ConfigError: no plugin offers it, or the one that does is broken.
        """
        offer = self._offers.get(("journal", scheme))
        if offer is not None and offer.part is not None:
            kind: type[Journal] = offer.part
            return kind
        suspects = [offer.where] if offer else list(self._suspects.values())
        there = [*BUILT_IN, *sorted(kind for role, kind in self._offers if role == "journal")]
        message = (
            f'no plugin that works offers the journal "{scheme}:"; mend {", ".join(suspects)}'
            if suspects
            else f'no plugin offers the journal "{scheme}:"{nearest(scheme, there)}; there are: {", ".join(there)}'
        )
        raise ConfigError([Fault(place_of(self._config, ("journal",), "url"), message)])

    def conventions(self) -> list[Convention]:
        """Return the ways to write functions that plugins add, by name."""
        return [offer.part for (role, _), offer in sorted(self._offers.items()) if role == "convention" and offer.part is not None]

    def commands(self) -> dict[str, Command]:
        """Return the commands that plugins add, by name."""
        return {kind: offer.part for (role, kind), offer in sorted(self._offers.items()) if role == "command" and offer.part is not None}

    def offers(self) -> list[Offer]:
        """Return what is offered so far."""
        return list(self._offers.values())

    def kinds(self) -> set[str]:
        """Return the kinds that are offered so far."""
        return {kind for _, kind in self._offers}

    def twin_of(self, path: Path) -> EntryPoint | None:
        """Return the installed plugin that a file of the folder is, if it is the very file of one of its name."""
        return next((entry for entry in self._installed.get(path.stem, {}).values() if _is_file_of(entry, path)), None)

    def part(self, role: str, kind: str) -> Any:
        """Return what is offered under a name in a role; None when nothing that works is."""
        offer = self._offers.get((role, kind))
        return offer.part if offer else None

    def unchanged(self) -> set[str]:
        """Return the names of the folder's files that are as they were before, with all that they import there."""
        marks = self._before._marks if self._before else {}  # noqa: SLF001 - of its own kind
        files = self._before._files if self._before else {}  # noqa: SLF001
        same = {name for name, mark in self._marks.items() if marks.get(name) == mark}
        return {name for name in same if name not in files or files[name].mark is not None}

    def settle(self) -> None:
        """Let the host before this one go, and note the files of the folder that have come, gone or were imported anew."""
        before = self._before._files if self._before else {}  # noqa: SLF001 - of its own kind
        new = {stem for stem, taken in self._files.items() if taken.mark is not None and taken is not before.get(stem)}
        self.news = [f"{self._folder}/{stem}.py" for stem in sorted(new | before.keys() - self._files.keys())]
        self._before = None

    def add_file(self, path: Path) -> None:
        """Take what a file of the folder offers; import and ask it, unless it is unchanged."""
        stem = path.stem
        taken = self._before._files.get(stem) if self._before else None  # noqa: SLF001 - of its own kind
        if taken is None or taken.mark is None or taken.mark != self._marks.get(stem):
            taken = self._taken(path, taken)
        self._files[stem] = taken
        for offer in self._heard(taken.answer).offers:
            first = self._offers.setdefault((offer.role, offer.kind), offer)
            if first is not offer:
                message = f'offers the {offer.role} "{offer.kind}", and so does {first.where}; rename one of them'
                self._add([Fault(offer.where, message)])
                self._offers[offer.role, offer.kind] = msgspec.structs.replace(offer, part=None)

    def _taken(self, path: Path, before: Taken | None) -> Taken:
        """Import and ask a file; one that was good before and is faulty now goes on as it was."""
        origin = Origin(f"{self._folder}/{path.name}", str(path), _extra_of(self.twin_of(path)))
        answer = ask(self._manager, lambda: folder.import_file(path), origin)
        if not answer.faults:
            return Taken(self._marks.get(path.stem), answer)
        self._add(answer.faults)
        self._suspects[path.stem] = answer.faults[0].where
        return Taken(None, answer if before is None or before.answer.faults else before.answer)

    def _heard(self, answer: Answer) -> Answer:
        """Let an answer's listeners be told notices."""
        for name, where, listener in answer.listeners:
            self.notices.add(name, listener, where)
        return answer

    def add_installed(self, kind: str) -> None:
        """Import the installed plugin of a kind and take what it offers, unless a file offers that or seems meant to."""
        entries = list(self._installed.get(kind, {}).values())
        replacing = [offer for offer in self._offers.values() if offer.kind == kind]
        if replacing:
            for entry in entries if self._before is None else ():
                _tell_replaced(replacing[0], entry)
            return
        if not entries or kind in self._suspects:
            return
        known = self._before._packages.get(kind) if self._before else None  # noqa: SLF001 - of its own kind
        answer = self._heard(self._ask_installed(kind, entries) if known is None or known.faults else known)
        self._packages[kind] = answer
        self._add(answer.faults)
        self._offers.update({(offer.role, kind): offer for offer in answer.offers})
        if answer.faults:
            where = answer.faults[0].where
            for role in ROLES.values():
                self._offers.setdefault((role, kind), Offer(role, kind, None, where))

    def _add(self, faults: list[Fault]) -> None:
        """Keep faults, each once: two entry points may lead to one broken module."""
        self.faults += [fault for fault in faults if fault not in self.faults]

    def _ask_installed(self, kind: str, entries: list[EntryPoint]) -> Answer:
        """Ask the one installed plugin of a kind; other kinds that it offers have entry points of their own."""
        titles = [title_of(entry) for entry in entries]
        if len(entries) > 1:
            return Answer(faults=[Fault(titles[0], f'offers the kind "{kind}", and so does {titles[1]}; uninstall one of them')])
        file = file_of(entries[0])
        answer = ask(self._manager, entries[0].load, Origin(file or titles[0], file, _extra_of(entries[0])))
        offers = [offer for offer in answer.offers if offer.kind == kind]
        if offers or answer.faults:
            return Answer(offers, answer.listeners, answer.faults)
        message = f'expected it to offer something called "{kind}", as its entry point is, found nothing; rename one of them'
        return Answer(listeners=answer.listeners, faults=[Fault(titles[0], message)])

    def _build(self, role: str, name: str, kind: str, options: Mapping[str, Any]) -> Any:
        path = (f"{role}s", name)
        offer = self._offers.get((role, kind))
        suspects = [] if kind in self.kinds() else list(self._suspects.values())
        if offer is None and not suspects:
            raise ConfigError([Fault(place_of(self._config, path, "plugin"), self._unknown(role, kind))])
        if offer is None or offer.part is None:
            broken = offer.where if offer else self._suspects.get(kind, ", ".join(suspects))
            message = f'does not run: no plugin that works offers the {role} "{kind}"; mend {broken}'
            self._add([Fault(place_of(self._config, path), message)])
            return None
        try:
            made = offer.part(name, read_options(offer.part.Options, options, self._config, path))
            made.folder = self._base
            made.clock = self._clock
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError([Fault(place_of(self._config, path), told(error, plain=isinstance(error, ValueError)))]) from error
        return made

    def _unknown(self, role: str, kind: str) -> str:
        other = "sink" if role == "source" else "source"
        if (other, kind) in self._offers:
            return f'the plugin "{kind}" offers a {other} and no {role}; use it in a table [{other}s.NAME]'
        there = {name for at, name in self._offers if at == role} | {name for name in self._installed if (other, name) not in self._offers}
        return (
            f'no plugin offers the {role} "{kind}"{nearest(kind, there)}; there are: {", ".join(sorted(there)) or "none"}; '
            f"put a file that offers it into {self._folder}/, or install a package that does"
        )


def title_of(entry: EntryPoint) -> str:
    """Return the module an entry point names, with the package it comes from and the version of that."""
    return f"{entry.value} of {entry.dist.name} {entry.dist.version}" if entry.dist else entry.value


def file_of(entry: EntryPoint) -> str:
    """Return the file of the module an entry point names, without importing it; empty when there is none."""
    try:
        spec = importlib.util.find_spec(entry.module)
    except Exception:  # noqa: BLE001 - the package around the module is code of others
        return ""
    return spec.origin if spec and spec.origin and Path(spec.origin).is_file() else ""


def _extra_of(entry: EntryPoint | None) -> str:
    """Return the extra of a package that is called like its plugin, as pip takes it; empty when there is none."""
    package = entry.dist if entry else None
    return f"{package.name}[{entry.name}]" if package and entry and entry.name in package.metadata.get_all("Provides-Extra", ()) else ""


def _is_file_of(entry: EntryPoint, path: Path) -> bool:
    return bool(installed := file_of(entry)) and Path(installed).samefile(path)


def _tell_replaced(offer: Offer, entry: EntryPoint) -> None:
    """Log that a file replaces an installed plugin; they may also be one file, met twice."""
    if not _is_file_of(entry, Path(offer.file)):
        log.info('%s replaces the installed plugin "%s", %s', offer.where, offer.kind, title_of(entry))
