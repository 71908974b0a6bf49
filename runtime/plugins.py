"""The plugin host: finds plugins, asks each once what it offers, and makes the sources and sinks of the settings.

There are two doors. The `*.py` of the project's plugins folder are always imported, as modules of a package
that is not on `sys.path` (there, `plugins/http.py` would hide the standard library's `http`). An entry point of
the group `runtime.plugins` is imported only when the settings use the kind it is named after and no file offers
that: what nobody uses costs nothing and breaks nothing. A file replaces an installed plugin, unless it is the
very file of that. pluggy's own entry-point loader was rejected: it stops at the first broken plugin without
naming it. Here each is imported and asked by itself, and a fault stops only what uses the plugin.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.machinery import FileFinder, ModuleSpec, SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from inspect import unwrap
from pathlib import Path
from types import CodeType, TracebackType
from typing import Any, TypeVar

import msgspec
import pluggy

from runtime import hookspecs
from runtime.contracts import Clock, Sink, Source
from runtime.errors import ConfigError, Fault, PluginError, nearest
from runtime.options import read_options
from runtime.settings import Settings, SinkSettings, SourceSettings
from runtime.toml import place_of

log = logging.getLogger("runtime.plugins")

T = TypeVar("T")

GROUP = "runtime.plugins"
PACKAGE = "runtime_project_plugins"  # the name of the folder as a package
HOOKS: Mapping[str, tuple[str, type]] = {"register_sinks": ("sink", Sink), "register_sources": ("source", Source)}


class Origin(msgspec.Struct, frozen=True):
    """Where a plugin comes from: its `file`, if it has one, and the `place` that faults name."""

    place: str
    file: str = ""


class Offer(msgspec.Struct, frozen=True):
    """A kind of source or sink (the `role`) and its class, None when that cannot be used; `where` the hook or the fault stands."""

    role: str
    kind: str
    part: type[Any] | None
    where: str
    file: str = ""


class Answer(msgspec.Struct, frozen=True):
    """What a plugin offers, and what is wrong with it."""

    offers: list[Offer]
    faults: list[Fault]


def load_plugins(settings: Settings, clock: Clock) -> Plugins:
    """Import and ask the plugins of the folder, and those installed ones that the settings use; faults are kept."""
    plugins = Plugins(settings, clock)
    folder = settings.plugins_dir.absolute()
    _make_package(folder)
    for path in sorted(folder.glob("*.py")):
        if not path.name.startswith(("_", ".", "#")):
            plugins.add_file(path)
    used = {part.plugin for table in (settings.sources, settings.sinks) for part in table.values()}
    for kind in sorted(used | plugins.kinds()):
        plugins.add_installed(kind)
    return plugins


class Plugins:
    """What plugins offer; `faults` tells what is wrong with them, and what does not run because of that."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._clock = clock
        self.faults: list[Fault] = []
        self._config = settings.path.name
        self._base = settings.path.parent
        self._folder = settings.plugins_dir.name
        self._offers: dict[tuple[str, str], Offer] = {}
        self._suspects: dict[str, str] = {}  # the place of the first fault of a file, by its stem: it may have offered anything
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

    def kinds(self) -> set[str]:
        """Return the kinds that are offered so far."""
        return {kind for _, kind in self._offers}

    def add_file(self, path: Path) -> None:
        """Import a file of the folder and take what it offers."""
        origin = Origin(f"{self._folder}/{path.name}", str(path))
        answer = self._ask(origin, lambda: importlib.import_module(f"{PACKAGE}.{path.stem}"))
        self._add(answer.faults)
        if answer.faults:
            self._suspects[path.stem] = answer.faults[0].where
        for offer in answer.offers:
            first = self._offers.setdefault((offer.role, offer.kind), offer)
            if first is not offer:
                message = f'offers the {offer.role} "{offer.kind}", and so does {first.where}; rename one of them'
                self._add([Fault(offer.where, message)])
                self._offers[offer.role, offer.kind] = msgspec.structs.replace(offer, part=None)

    def add_installed(self, kind: str) -> None:
        """Import the installed plugin of a kind and take what it offers, unless a file offers that or seems meant to."""
        entries = list(self._installed.get(kind, {}).values())
        replacing = [offer for offer in self._offers.values() if offer.kind == kind]
        if replacing:
            for entry in entries:
                _tell_replaced(replacing[0], entry)
            return
        if not entries or kind in self._suspects:
            return
        answer = self._ask_installed(kind, entries)
        self._add(answer.faults)
        self._offers.update({(offer.role, kind): offer for offer in answer.offers})
        if answer.faults:
            where = answer.faults[0].where
            for role, _ in HOOKS.values():
                self._offers.setdefault((role, kind), Offer(role, kind, None, where))

    def _add(self, faults: list[Fault]) -> None:
        """Keep faults, each once: two entry points may lead to one broken module."""
        self.faults += [fault for fault in faults if fault not in self.faults]

    def _ask_installed(self, kind: str, entries: list[EntryPoint]) -> Answer:
        """Ask the one installed plugin of a kind; other kinds that it offers have entry points of their own."""
        titles = [_title(entry) for entry in entries]
        if len(entries) > 1:
            return Answer([], [Fault(titles[0], f'offers the kind "{kind}", and so does {titles[1]}; uninstall one of them')])
        file = _file_of(entries[0])
        answer = self._ask(Origin(file or titles[0], file), entries[0].load)
        offers = [offer for offer in answer.offers if offer.kind == kind]
        if offers or answer.faults:
            return Answer(offers, answer.faults)
        message = f'expected it to offer a source or sink "{kind}", as its entry point is called, found none; rename one of them'
        return Answer([], [Fault(titles[0], message)])

    def _ask(self, origin: Origin, load: Callable[[], object]) -> Answer:
        """Import a plugin, register it with pluggy and call its hooks."""
        answer = Answer([], [])
        try:
            plugin = _attempt(load, origin)
            if not self._manager.is_registered(plugin):
                _attempt(lambda: self._manager.register(plugin, str(id(plugin))), origin)
        except PluginError as error:
            return Answer([], error.faults)
        callers = self._manager.get_hookcallers(plugin) or []
        for caller in callers:
            for hook in caller.get_hookimpls():
                if hook.plugin is plugin and not hook.optionalhook:
                    _call(caller.name, hook.function, origin, answer)
        for name in HOOKS.keys() - {caller.name for caller in callers}:
            forgotten = getattr(plugin, name, None)
            if callable(forgotten):
                message = f"expected @hookimpl above {name}, found none; add it, as in `from runtime import hookimpl`"
                answer.faults.append(Fault(_place_of(forgotten, origin), message))
        if not callers and not answer.faults:
            message = f"offers nothing; expected one of the hooks {', '.join(HOOKS)}; a helper has a name that begins with _"
            answer.faults.append(Fault(origin.place, message))
        return answer

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
            raise ConfigError([Fault(place_of(self._config, path), _told(error, plain=isinstance(error, ValueError)))]) from error
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


def _call(name: str, function: Callable[[], object], origin: Origin, answer: Answer) -> None:
    """Call one hook and add what it offers, and what is wrong with that, to the answer."""
    where = _place_of(function, origin)
    if name not in HOOKS:
        answer.faults.append(Fault(where, f"unknown hook {name}{nearest(name, HOOKS)}; allowed: {', '.join(HOOKS)}"))
        return
    try:
        given = _attempt(function, origin)
    except PluginError as error:
        answer.faults.extend(error.faults)
        return
    if not isinstance(given, Mapping):
        message = f'expected {name} to return a dict of classes by name, as in {{"name": Class}}, found {_kind(given)}'
        answer.faults.append(Fault(where, message))
        return
    role, contract = HOOKS[name]
    for kind, part in given.items():
        why = _fault_of_offer(kind, part, contract)
        if why:
            answer.faults.append(Fault(where, f"the {role} {msgspec.json.encode(str(kind)).decode()}: {why}"))
        answer.offers.append(Offer(role, str(kind), None if why else part, where, origin.file))


def _fault_of_offer(kind: object, part: Any, contract: type) -> str:
    if not isinstance(kind, str) or not kind:
        return f"expected a name that is not empty, found {_kind(kind)}"
    if not isinstance(part, type) or not issubclass(part, contract):
        return f"expected a class that derives from {contract.__name__}, found {_kind(part)}"
    missing = sorted(getattr(part, "__abstractmethods__", ()))
    if missing:
        return f"the class {part.__name__} lacks {', '.join(missing)}; every {contract.__name__} has it"
    return _fault_of_options(part)


def _fault_of_options(part: type[Any]) -> str:
    model = getattr(part, "Options", None)
    if not isinstance(model, type) or not issubclass(model, msgspec.Struct):
        return f"expected {part.__name__}.Options to be a class that derives from msgspec.Struct, found {_kind(model)}"
    try:
        msgspec.convert({}, model)
    except msgspec.ValidationError:
        return ""  # its types can be told, which is all that is asked
    except Exception as error:  # noqa: BLE001 - the annotations are code of others
        return f"the types of {part.__name__}.Options cannot be told: {_told(error)}"
    return ""


def _attempt(call: Callable[[], T], origin: Origin) -> T:
    """Call code of a plugin.

    Raises:
        PluginError: whatever it raised, at the line of the plugin's file.
    """
    try:
        return call()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also SystemExit stops the plugin alone
        raise PluginError([Fault(_raised_at(error, origin), _message(error, origin))]) from error


def _frames(error: BaseException) -> Iterator[tuple[str, int]]:
    """Yield the files and lines an error went through, outermost first; a syntax error ends where it stands."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        yield trace.tb_frame.f_code.co_filename, trace.tb_lineno
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        yield error.filename, error.lineno


def _raised_at(error: BaseException, origin: Origin) -> str:
    lines = [line for file, line in _frames(error) if file == origin.file]
    return f"{origin.place}:{lines[-1]}" if lines else origin.place


def _message(error: BaseException, origin: Origin) -> str:
    """Return what an error says, where it stands if that is a helper beside the plugin, and what to do."""
    if isinstance(error, pluggy.PluginValidationError):
        return f"expected hooks without parameters, found {str(error).splitlines()[1].rpartition(': ')[2]}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        if error.name.startswith(f"{PACKAGE}."):
            return (
                f"expected a file {error.name.removeprefix(f'{PACKAGE}.')}.py beside it, found none; correct the import, or make the file"
            )
        return f"{_told(error)}; install it where the runtime is installed"
    beside = [
        f"{Path(file).name}:{line}"
        for file, line in _frames(error)
        if file != origin.file and Path(file).parent == Path(origin.file).parent
    ]
    told = f"{_told(error)} (in {beside[-1]})" if beside else _told(error)
    return told if isinstance(error, Exception) else f"{told}; a plugin must not end the process when it is imported"


def _told(error: BaseException, *, plain: bool = False) -> str:
    try:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
    except Exception:  # noqa: BLE001 - a __str__ of others
        text = ""
    if plain and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _place_of(function: Callable[..., object], origin: Origin) -> str:
    """Return the place of a hook: its line, when it stands in the file of the plugin."""
    code = getattr(unwrap(function), "__code__", None)
    return f"{origin.place}:{code.co_firstlineno}" if code is not None and code.co_filename == origin.file else origin.place


def _kind(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _title(entry: EntryPoint) -> str:
    return f"{entry.value} of {entry.dist.name} {entry.dist.version}" if entry.dist else entry.value


def _file_of(entry: EntryPoint) -> str:
    """Return the file of the module an entry point names, without importing it; empty when there is none."""
    try:
        spec = importlib.util.find_spec(entry.module)
    except Exception:  # noqa: BLE001 - the package around the module is code of others
        return ""
    return spec.origin if spec and spec.origin and Path(spec.origin).is_file() else ""


def _tell_replaced(offer: Offer, entry: EntryPoint) -> None:
    """Log that a file replaces an installed plugin; they may also be one file, met twice."""
    installed = _file_of(entry)
    if not (installed and Path(installed).samefile(offer.file)):
        log.info('%s replaces the installed plugin "%s", %s', offer.where, offer.kind, _title(entry))


class _Loader(SourceFileLoader):
    """Compiles each time: cached bytecode goes by whole seconds and size, and after two quick saves is the old code."""

    def get_code(self, fullname: str) -> CodeType:
        """Return the code of the text as it is now."""
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def _make_package(folder: Path) -> None:
    """Make an empty package of the folder, so that its files can import helpers beside them."""
    for name in [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]:
        del sys.modules[name]
    spec = ModuleSpec(PACKAGE, None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)
    sys.path_importer_cache[str(folder)] = FileFinder(str(folder), (_Loader, [".py"]))
