"""Settings: `runtime.toml` read, filled in and checked, with every fault at once.

Each table is kept twice, as written and as filled in. Values are checked as filled in; messages show them as
written, so that a secret that came out of a `${…}` is in none of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec
import tomli
from msgspec import UNSET

from runtime import pattern
from runtime.describe import expected
from runtime.errors import ConfigError, Fault, nearest
from runtime.placeholders import Filler
from runtime.settings import (
    BUILT_IN,
    AdminSettings,
    CommandSettings,
    DispatchSettings,
    FunctionSettings,
    GrpcSettings,
    JournalSettings,
    LogSettings,
    Name,
    ProcessSettings,
    ResourceSettings,
    RuntimeSettings,
    ServiceSettings,
    Settings,
    SinkSettings,
    SourceSettings,
    Target,
)
from runtime.specs import FIELDS, check_options
from runtime.targets import fault_of_grpc, fault_of_headers, fault_of_metadata, fault_of_url
from runtime.toml import kind_of, place_of, quoted, shown

M = TypeVar("M", bound=msgspec.Struct)
S = TypeVar("S", SourceSettings, SinkSettings, FunctionSettings, ResourceSettings)

DEFAULT_NAME = "runtime.toml"  # the one file that may be missing
TABLES = ("runtime", "log", "journal", "dispatch", "sources", "sinks", "functions", "resources", "admin")
NO_WORKER = "has no worker process"
UNFIT = {"batch": (1, "is given one event at a time"), "isolate": (False, NO_WORKER), "memory": (None, NO_WORKER)}  # beside a target
TARGETS: dict[str, type[Target]] = {"command": CommandSettings, "url": ServiceSettings, "grpc": GrpcSettings}
"""The keys of `[functions.NAME]` that make a function of something that no file declares."""

HANDLER = re.compile(r"[^\W\d]\w*([./][^\W\d]\w*)*\.[^\W\d]\w*")
HANDLER_FORM = 'expected FILE.FUNCTION, as in "orders.lambda_handler" for functions/orders.py'
LISTEN = re.compile(r"(?:\[(?P<six>[^\s\]]*:[^\s\]]*)\]|(?P<host>[^\s:/\[\]]*)):(?P<port>[0-9]{1,5})")
LEAVE_OUT = "leave `url` out for sqlite:.runtime/journal.db"
LISTEN_FORM = 'expected HOST:PORT with a port of 0 … 65535, as in "127.0.0.1:8080" or "[::1]:8080"'


def load(path: str | Path) -> Settings:
    """Return the settings of a file; all defaults when it is a `runtime.toml` that does not exist.

    Raises:
        ConfigError: with every fault.
    """
    settings, faults = read(path)
    if faults:
        raise ConfigError(faults)
    return settings


def read(path: str | Path) -> tuple[Settings, list[Fault]]:
    """Return what of a file can be used, and every fault.

    A faulty value keeps its default; sources and sinks without a usable plugin or with a placeholder
    that cannot be filled in are left out, as are functions whose target or handler is faulty.
    """
    path = Path(path)
    faults: list[Fault] = []
    written = _parse(path, faults)
    return _Reader(path, written, faults).settings(), faults


def parse_listen(text: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`; `:PORT` means all addresses of IPv4, port 0 any free one.

    Raises:
        ValueError: it is not of that form.
    """
    match = LISTEN.fullmatch(text)
    if match is None or int(match["port"]) > 65535:
        raise ValueError(f'{LISTEN_FORM}, found "{text}"')
    return match["six"] or match["host"] or "0.0.0.0", int(match["port"])  # noqa: S104 - what `:8080` means everywhere


def is_loopback(host: str) -> bool:
    """Return whether a name or address is this machine and nobody else."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _parse(path: Path, faults: list[Fault]) -> dict[str, Any]:
    """Return the tables of the file; none, and a fault, when there is no telling them."""
    try:
        return tomli.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        if path.name != DEFAULT_NAME or path.is_symlink() or not path.parent.is_dir():
            faults.append(Fault(str(path), "expected a configuration file, found nothing; correct the path, or make the file"))
    except OSError as error:
        faults.append(Fault(str(path), f"expected a configuration file that can be read, found: {error.strerror}"))
    except UnicodeDecodeError as error:
        faults.append(Fault(path.name, f"expected text in UTF-8, found another byte at offset {error.start}; save the file as UTF-8"))
    except tomli.TOMLDecodeError as error:
        faults.append(Fault(f"{path.name}:{error.lineno}", f"expected TOML, found at column {error.colno}: {error.msg}"))
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, hundreds of brackets
        faults.append(Fault(path.name, f"expected TOML within reason, found: {error}"))
    return {}


class _Table(msgspec.Struct, frozen=True):
    """One table of the file; `filled` lacks the values whose placeholder is faulty, and then is not `complete`."""

    place: tuple[str, ...]
    written: Mapping[str, Any]
    filled: Mapping[str, Any]
    complete: bool

    def is_filled(self, key: str) -> bool:
        """Return whether the value came out of a placeholder."""
        written, filled = self.written[key], self.filled[key]
        return filled is not written and filled != written

    def kind(self, key: str) -> str:
        """Return what stands there, without the value."""
        return self._unfilled(key) or kind_of(self.written[key])

    def found(self, key: str) -> str:
        """Return what stands there as written."""
        return self._unfilled(key) or shown(self.written[key])

    def _unfilled(self, key: str) -> str:
        value = self.written[key]
        return f"the value of {shown(value)}" if isinstance(value, str) and self.is_filled(key) else ""


class _Reader:
    """Makes settings of the tables of a file, and adds a fault for all that is wrong in them."""

    def __init__(self, path: Path, written: dict[str, Any], faults: list[Fault]) -> None:
        self._path = path
        self._written = written
        self._faults = faults
        self._filler = Filler(path.parent, self._fault)

    def settings(self) -> Settings:
        """Return the settings."""
        allowed = ", ".join(f"[{name}]" for name in TABLES)
        for key, value in self._written.items():
            if key in TABLES:
                continue
            if isinstance(value, dict):
                self._fault((key,), "", f"unknown table{nearest(key, TABLES)}; allowed: {allowed}")
            else:
                self._fault((), quoted(key), f"expected the key in a table, found it in none; allowed: {allowed}")
        return Settings(
            path=self._path,
            runtime=self._section("runtime", RuntimeSettings),
            log=self._section("log", LogSettings),
            journal=self._section("journal", JournalSettings),
            dispatch=self._section("dispatch", DispatchSettings),
            sources=self._sources(),
            sinks=self._named("sinks", lambda table: self._connector(table, SinkSettings)),
            functions=self._named("functions", self._function),
            resources=self._named("resources", lambda table: ResourceSettings(options=dict(table.filled))),
            admin=self._admin(),
        )

    def _section(self, name: str, model: type[M]) -> M:
        table = self._open((), name, self._written.get(name, {}))
        if table is None:
            return model()
        given, others = self._fields(table, model)
        allowed = model.__struct_fields__
        for key in others:
            self._fault(table.place, quoted(key), f"unknown key{nearest(key, allowed)}; allowed: {', '.join(allowed)}")
        return model(**given)

    def _sources(self) -> dict[str, SourceSettings]:
        if "sources" not in self._written:
            return {"web": SourceSettings(plugin="http")}
        return self._named("sources", lambda table: self._connector(table, SourceSettings))

    def _named(self, group: str, read: Callable[[_Table], S | None]) -> dict[str, S]:
        """Return what `read` makes of each table `[group.NAME]`."""
        tables = self._written.get(group, {})
        if not isinstance(tables, dict):
            self._fault((), group, f"expected tables [{group}.NAME], found {kind_of(tables)}")
            return {}
        opened = {name: self._open((group,), name, value) for name, value in tables.items()}
        made = {name: read(table) for name, table in opened.items() if table is not None}
        return {name: one for name, one in made.items() if one is not None}

    def _connector(self, table: _Table, model: type[SourceSettings | SinkSettings]) -> Any:
        """Return the settings of a source or sink; keys that are not the runtime's are the plugin's."""
        given, options = self._fields(table, model)
        if "plugin" not in table.written:
            keys = ", ".join(f"`{key}`" for key in table.written) or "nothing"
            self._fault(table.place, "plugin", f'expected the name of a plugin, as in plugin = "http", found {keys}')
        return model(**given, options=options) if "plugin" in given and table.complete else None

    def _function(self, table: _Table) -> FunctionSettings | None:
        targets = [key for key in TARGETS if key in table.written]
        for key in targets[1:]:
            self._fault(table.place, key, f"expected one of {', '.join(TARGETS)}, found `{targets[0]}` beside it; remove one of them")
        target, rest = self._record(table, TARGETS[targets[0]]) if targets else (None, table.filled)
        process, rest = (ProcessSettings(), rest) if targets else self._record(table, ProcessSettings)
        handler = self._field(table, "handler", Name) if "handler" in rest else None
        if handler and targets:
            self._fault(table.place, "handler", f"expected no handler beside `{targets[0]}`; remove one of them")
        rest = {key: value for key, value in rest.items() if key not in ("handler", *TARGETS)}
        if handler is UNSET or (targets and target is None):
            return None
        settings = table.filled.get("settings", {})
        if not isinstance(settings, dict):
            self._fault(table.place, "settings", f"expected a table, found {table.kind('settings')}")
            settings = {}
        values = {key: self._override(table, key) for key in rest if key != "settings"}
        for key in UNFIT.keys() & values.keys() if targets else ():
            fine, why = UNFIT[key]
            if values[key] not in (fine, UNSET) and (key, targets[0]) != ("batch", "grpc"):
                self._fault(table.place, key, f"expected no `{key}` beside `{targets[0]}`, which {why}; remove the key")
        return FunctionSettings(
            overrides={key: value for key, value in values.items() if value is not UNSET},
            settings=settings,
            target=target,
            handler=handler,
            process=process or ProcessSettings(),
        )

    def _record(self, table: _Table, model: type[M]) -> tuple[M | None, dict[str, Any]]:
        """Return the record of a model's keys, None when one that is required is faulty, and the other keys."""
        given, others = self._fields(table, model)
        required = {field.name for field in msgspec.structs.fields(model) if field.required}
        return (model(**given) if required <= given.keys() else None), others

    def _override(self, table: _Table, key: str) -> Any:
        """Return an option of `@function`; UNSET, and a fault, when it is none."""
        value = table.filled[key]
        if key == "name":
            self._fault(table.place, key, "expected no `name`: only the file gives it, as in @function(name=…); remove the key")
            return UNSET
        field, is_filled = FIELDS.get(key), table.is_filled(key)
        if field and is_filled:
            value = _converted(value, field.type, strict=False)
        if field and (value is UNSET or _is_infinite(value)):
            message = f"expected {expected(field.type)}, found {table.found(key)}"
        else:
            message = "".join(why for _, why in check_options({key: value}))
            if message and field and is_filled:  # it shows the value
                message = f"`{key}` does not take {table.found(key)}"
        return self._checked(table, key, value, message)

    def _admin(self) -> AdminSettings:
        admin = self._section("admin", AdminSettings)
        admin = msgspec.structs.replace(admin, token=(admin.token or "").strip() or None)
        is_told = any(fault.where == place_of(self._path.name, ("admin",), "token") for fault in self._faults)
        if admin.token is None and not is_told and not is_loopback(parse_listen(admin.listen)[0]):
            message = (
                'expected a token, because `listen` is not on loopback, found none; set token = "${ADMIN_TOKEN}", or listen on 127.0.0.1'
            )
            self._fault(("admin",), "token", message)
        return admin

    def _fields(self, table: _Table, model: type[msgspec.Struct]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the values that fit the fields of the model, and those of other keys."""
        types = {field.name: field.type for field in msgspec.structs.fields(model) if field.name != "options"}
        given = {key: self._field(table, key, types[key]) for key in table.filled if key in types}
        others = {key: value for key, value in table.filled.items() if key not in types}
        return {key: value for key, value in given.items() if value is not UNSET}, others

    def _field(self, table: _Table, key: str, type: Any) -> Any:
        """Return a value converted to the type of its field; UNSET, and a fault, when it does not fit."""
        value = table.filled[key]
        listed = [value] if key == "on" and isinstance(value, str) else value
        made = _converted(listed, type, strict=not table.is_filled(key))
        if made is UNSET or _is_infinite(made):
            return self._checked(table, key, made, _misfit(table, key, type))
        check = CHECKS.get(key) or CHECKS.get(f"{table.place[0]}.{key}")
        return self._checked(table, key, made, check(made, table.found(key)) if check and made is not None else "")

    def _checked(self, table: _Table, key: str, value: Any, message: str) -> Any:
        if not message:
            return value
        self._fault(table.place, quoted(key), message)
        return UNSET

    def _open(self, outer: tuple[str, ...], key: str, value: Any) -> _Table | None:
        place = (*outer, key)
        if not isinstance(value, dict):
            self._fault(outer, quoted(key), f"expected a table [{'.'.join(map(quoted, place))}], found {kind_of(value)}")
            return None
        before = len(self._faults)
        filled = self._filler.table(place, value)
        return _Table(place, value, filled, len(self._faults) == before)

    def _fault(self, place: tuple[str, ...], key: str, message: str) -> None:
        self._faults.append(Fault(place_of(self._path.name, place, key), message))


def _converted(value: Any, type: Any, *, strict: bool) -> Any:
    try:
        return msgspec.convert(value, type, strict=strict)
    except msgspec.ValidationError:
        return UNSET


def _is_infinite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _misfit(table: _Table, key: str, type: Any) -> str:
    """Return what was expected and found; where it was a string only the kind, as strings may be secrets."""
    wanted = expected(type)
    if get_origin(type) is dict and isinstance(table.written[key], dict):
        return "expected a table of strings, found a value in it that is none; quote it"
    found = table.kind(key) if "a string" in wanted or "of strings" in wanted else table.found(key)
    found = "an empty list" if table.written[key] == [] else found
    likely = nearest(str(table.written[key]).lower(), get_args(type)) if get_origin(type) is Literal else ""
    return f"expected {wanted}, found {found}{likely}"


def _fault_of_journal(url: str, found: str) -> str:
    scheme, separator, rest = url.partition(":")
    if url == "memory:" or (scheme == "sqlite" and rest and not rest.startswith("//")):
        return ""
    if separator and scheme not in (*BUILT_IN, "nats") and scheme.isidentifier() and len(url.split()) == 1:
        return ""  # a plugin may offer it: the host knows
    if scheme == "nats":
        return f'expected "sqlite:PATH" or "memory:", found a journal of "nats:", which is not supported yet; {LEAVE_OUT}'
    shown = f'"{scheme}:…"' if separator and not found.startswith("the value") else found
    return f'expected "sqlite:PATH" or "memory:", found {shown}; {LEAVE_OUT}'


def _fault_of_on(patterns: tuple[str, ...], found: str) -> str:
    if not patterns:
        return "expected a pattern of event types or a list of them, found none; leave `on` out to take every event"
    reasons = [why for why in map(pattern.fault_of, patterns) if why]
    return f'expected patterns of event types, as in "order.*", found {found}: {reasons[0]}' if reasons else ""


def _fault_of_key(key: str, found: str) -> str:
    import jmespath  # noqa: PLC0415 - few configurations have a key, and every command reads one

    try:
        jmespath.compile(key)
    except jmespath.exceptions.JMESPathError:
        return f'expected a JMESPath expression into the data, as in "customer.id", found {found}'
    return ""


def _fault_of_listen(listen: str, found: str) -> str:
    try:
        parse_listen(listen)
    except ValueError:
        return f"{LISTEN_FORM}, found {found}"
    return ""


def _fault_of_texts(texts: Iterable[str]) -> str:
    return "expected texts that a process can be given, found a NUL character in one; remove it" if "\0" in "".join(texts) else ""


def _fault_of_names(names: Iterable[str]) -> str:
    wrong = [name for name in names if not name or "=" in name]
    return f'expected names of variables, found "{wrong[0]}"; an "=" separates it from its value' if wrong else ""


CHECKS: Mapping[str, Callable[[Any, str], str]] = {
    "journal.url": _fault_of_journal,
    "functions.command": lambda words, _: _fault_of_texts(words),
    "functions.sandbox": lambda words, _: _fault_of_texts(words),
    "functions.env": lambda variables, _: _fault_of_texts((*variables, *variables.values())) or _fault_of_names(variables),
    "functions.url": lambda url, _: fault_of_url(url),
    "functions.grpc": lambda address, _: fault_of_grpc(address),
    "functions.headers": lambda headers, _: fault_of_headers(headers),
    "functions.metadata": lambda metadata, _: fault_of_metadata(metadata),
    "functions.handler": lambda handler, found: "" if HANDLER.fullmatch(handler) else f"{HANDLER_FORM}, found {found}",
    "on": _fault_of_on,
    "key": _fault_of_key,
    "listen": _fault_of_listen,
}
"""What types cannot say of a field, by its name, or by that and the kind of table; each takes the value and how a message may show it."""
