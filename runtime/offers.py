"""What a plugin offers: it is imported and each of its hooks asked once, and whatever is wrong with it told with file and line."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from inspect import unwrap
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import msgspec
import pluggy

from runtime import hookspecs
from runtime.contracts import Handlers, Journal, Sink, Source
from runtime.errors import Fault, PluginError, nearest
from runtime.folder import PACKAGE
from runtime.notices import Listener

T = TypeVar("T")

ROLES: Final = {
    "register_commands": "command",
    "register_conventions": "convention",
    "register_journals": "journal",
    "register_sinks": "sink",
    "register_sources": "source",
}
CLASSES: Final[Mapping[str, type]] = {"journal": Journal, "sink": Sink, "source": Source}
NOTICES: Final = ("event_accepted", "generation_changed", "run_finished", "step_finished")
HOOKS: Final = (*ROLES, *NOTICES)


class Origin(msgspec.Struct, frozen=True):
    """Where a plugin comes from: its `file`, if it has one, the `place` that faults name, and what brings its client library."""

    place: str
    file: str = ""
    extra: str = ""


class Offer(msgspec.Struct, frozen=True):
    """What is offered under a name (the `kind`) in a role: a class, convention or command, None when that cannot be used.

    `where` the hook or the fault stands, `file` is that of the plugin.
    """

    role: str
    kind: str
    part: Any
    where: str
    file: str = ""


class Answer(msgspec.Struct, frozen=True):
    """What a plugin offers, the notices it takes (name, place, listener), and what is wrong with it."""

    offers: list[Offer] = []
    listeners: list[tuple[str, str, Listener]] = []
    faults: list[Fault] = []


def ask(manager: pluggy.PluginManager, load: Callable[[], object], origin: Origin) -> Answer:
    """Import a plugin, register it with pluggy and call the hooks that register something."""
    answer = Answer()
    try:
        plugin = attempt(load, origin)
        is_new = not manager.is_registered(plugin)
        if is_new:
            attempt(lambda: manager.register(plugin, str(id(plugin))), origin)
    except PluginError as error:
        answer.faults.extend(error.faults)
        return answer
    callers = manager.get_hookcallers(plugin) or []
    for caller in callers:
        for hook in caller.get_hookimpls():
            if hook.plugin is plugin and not hook.optionalhook:
                _take(hook, caller.name, origin, answer)
    if not is_new:
        answer.listeners.clear()  # a module that offers several kinds is asked for each, and listens once
    for name in sorted(set(HOOKS) - {caller.name for caller in callers}):
        forgotten = getattr(plugin, name, None)
        if callable(forgotten):
            message = f"expected @hookimpl above {name}, found none; add it, as in `from runtime import hookimpl`"
            answer.faults.append(Fault(_place_of(forgotten, origin), message))
    if not callers and not answer.faults:
        message = f"offers nothing; expected one of the hooks {', '.join(HOOKS)}; a helper has a name that begins with _"
        answer.faults.append(Fault(origin.place, message))
    return answer


def _take(hook: pluggy.HookImpl, name: str, origin: Origin, answer: Answer) -> None:
    """Take one hook: call it and add what it offers to the answer, or add it as a listener."""
    where = _place_of(hook.function, origin)
    if name in ROLES:
        _call(name, hook.function, origin, answer)
    elif name in NOTICES:
        answer.listeners.append((name, where, _listener(hook)))
    else:
        answer.faults.append(Fault(where, f"unknown hook {name}{nearest(name, HOOKS)}; allowed: {', '.join(HOOKS)}"))


def _listener(hook: pluggy.HookImpl) -> Listener:
    """Return a function that takes all a notice tells and hands on what the hook asks for."""
    function, names = hook.function, hook.argnames
    return lambda **told: function(**{name: told[name] for name in names})


def _call(name: str, function: Callable[[], object], origin: Origin, answer: Answer) -> None:
    """Call one hook and add what it offers, and what is wrong with that, to the answer."""
    where = _place_of(function, origin)
    try:
        given = attempt(function, origin)
    except PluginError as error:
        answer.faults.extend(error.faults)
        return
    role = ROLES[name]
    if not isinstance(given, Mapping):
        message = f'expected {name} to return a dict of {role}s by name, as in {{"name": …}}, found {_kind(given)}'
        answer.faults.append(Fault(where, message))
        return
    for kind, part in given.items():
        why = _fault_of_offer(kind, part, role)
        if why:
            answer.faults.append(Fault(where, f"the {role} {msgspec.json.encode(str(kind)).decode()}: {why}"))
        answer.offers.append(Offer(role, str(kind), None if why else part, where, origin.file))


def _fault_of_offer(kind: object, part: Any, role: str) -> str:
    if not isinstance(kind, str) or not kind:
        return f"expected a name that is not empty, found {_kind(kind)}"
    if role == "convention":
        return _fault_of_convention(part)
    if role == "command":
        from click import Command  # noqa: PLC0415 - who offers a command has imported it

        return "" if isinstance(part, Command) else f"expected a function under @click.command(), found {_kind(part)}"
    contract = CLASSES[role]
    if not isinstance(part, type) or not issubclass(part, contract):
        return f"expected a class that derives from {contract.__name__}, found {_kind(part)}"
    missing = sorted(getattr(part, "__abstractmethods__", ()))
    if missing:
        return f"the class {part.__name__} lacks {', '.join(missing)}; every {contract.__name__} has it"
    return "" if role == "journal" else _fault_of_options(part)


def _fault_of_convention(part: Any) -> str:
    if isinstance(part, type) and issubclass(part, Handlers):
        return f"expected an object, found the class {part.__name__}; write {part.__name__}()"
    if callable(part) or isinstance(part, Handlers):
        return ""
    return f"expected a function that takes a module, or an object of a class that derives from Handlers, found {_kind(part)}"


def _fault_of_options(part: type[Any]) -> str:
    model = getattr(part, "Options", None)
    if not isinstance(model, type) or not issubclass(model, msgspec.Struct):
        return f"expected {part.__name__}.Options to be a class that derives from msgspec.Struct, found {_kind(model)}"
    try:
        msgspec.convert({}, model)
    except msgspec.ValidationError:
        return ""  # its types can be told, which is all that is asked
    except Exception as error:  # noqa: BLE001 - the annotations are code of others
        return f"the types of {part.__name__}.Options cannot be told: {told(error)}"
    return ""


def attempt(call: Callable[[], T], origin: Origin) -> T:
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
        return _misdeclared(str(error))
    if isinstance(error, ModuleNotFoundError) and error.name:
        if error.name.startswith(f"{PACKAGE}."):
            return (
                f"expected a file {error.name.removeprefix(f'{PACKAGE}.')}.py beside it, found none; correct the import, or make the file"
            )
        how = f": pip install '{origin.extra}'" if origin.extra else ""
        return f"{told(error)}; install it where the runtime is installed{how}"
    beside = [
        f"{Path(file).name}:{line}"
        for file, line in _frames(error)
        if file != origin.file and Path(file).parent == Path(origin.file).parent
    ]
    text = f"{told(error)} (in {beside[-1]})" if beside else told(error)
    return text if isinstance(error, Exception) else f"{text}; a plugin must not end the process when it is imported"


def _misdeclared(text: str) -> str:
    """Return what is wrong with the parameters of a hook, from what pluggy says of it."""
    name = re.search(r"for hook '(\w+)'", text)
    found = re.search(r"hookimpl definition: (.*)", text)
    spec = getattr(hookspecs, name[1], None) if name else None
    if name is None or found is None or spec is None:
        return text
    expected = ", ".join(inspect.signature(spec).parameters)
    return f"expected {name[1]}({expected}), or fewer of these, found {found[1]}" if expected else f"expected {name[1]}(), found {found[1]}"


def told(error: BaseException, *, plain: bool = False) -> str:
    """Return an error as a message says it: its type and text, or the `plain` text."""
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
