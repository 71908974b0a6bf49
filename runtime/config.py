"""Settings: `runtime.toml` read, filled in and checked, with every fault at once.

Each table is kept twice, as written and as filled in. Values are checked as filled in; messages show them as
written, so that a secret that came out of a `${…}` is in none of them.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import msgspec
import tomli
from msgspec import UNSET, Meta, inspect

from runtime import pattern
from runtime.errors import ConfigError, Fault, nearest
from runtime.specs import FIELDS, check_options

M = TypeVar("M", bound=msgspec.Struct)
S = TypeVar("S", "SourceSettings", "SinkSettings", "FunctionSettings")

Name = Annotated[str, Meta(min_length=1)]
Seconds = Annotated[float, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]

DEFAULT_NAME = "runtime.toml"  # the one file that may be missing
TABLES = ("runtime", "log", "journal", "dispatch", "sources", "sinks", "functions", "admin")
EXTERNAL = {"command": "commands", "url": "remote services", "grpc": "remote services", "handler": "handlers of other conventions"}
"""Keys of the contract in `[functions.NAME]` that are refused, never ignored, until their executor exists."""

PLACEHOLDER = re.compile(r"\$\$\{|\$\{(?P<inside>[^}]*)(?P<end>\}?)")
INSIDE = re.compile(r"(?P<variable>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?|file:(?P<file>.+)", re.DOTALL)
LISTEN = re.compile(r"(?:\[(?P<six>[^\s\]]*:[^\s\]]*)\]|(?P<host>[^\s:/\[\]]*)):(?P<port>[0-9]{1,5})")
LISTEN_FORM = 'expected HOST:PORT with a port of 0 … 65535, as in "127.0.0.1:8080" or "[::1]:8080"'
KINDS = {bool: "a boolean", int: "a whole number", float: "a number", str: "a string", list: "a list", dict: "a table"}


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


class JournalSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[journal]`: where events are recorded; `keep` and `dedupe` in seconds, `max_backlog` in events."""

    url: str = "memory:"
    keep: Seconds = 86_400.0
    max_bytes: Count = 10_000_000_000
    dedupe: Seconds = 3600.0
    max_backlog: Count = 10_000_000


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


class FunctionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[functions.NAME]`: `overrides` are options of `@function`, `settings` is the table for the function itself."""

    overrides: dict[str, Any] = {}
    settings: dict[str, Any] = {}


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
    admin: AdminSettings = AdminSettings()

    @property
    def functions_dir(self) -> Path:
        """The folder of the function files."""
        return self.path.parent / self.runtime.functions

    @property
    def plugins_dir(self) -> Path:
        """The folder of the project's own plugins."""
        return self.path.parent / self.runtime.plugins


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
    that cannot be filled in are left out, as are functions of a kind that does not exist yet.
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
        return self._unfilled(key) or _kind(self.written[key])

    def found(self, key: str) -> str:
        """Return what stands there as written."""
        return self._unfilled(key) or _shown(self.written[key])

    def _unfilled(self, key: str) -> str:
        value = self.written[key]
        return f"the value of {_shown(value)}" if isinstance(value, str) and self.is_filled(key) else ""


class _Reader:
    """Makes settings of the tables of a file, and adds a fault for all that is wrong in them."""

    def __init__(self, path: Path, written: dict[str, Any], faults: list[Fault]) -> None:
        self._path = path
        self._written = written
        self._faults = faults

    def settings(self) -> Settings:
        """Return the settings."""
        allowed = ", ".join(f"[{name}]" for name in TABLES)
        for key, value in self._written.items():
            if key in TABLES:
                continue
            if isinstance(value, dict):
                self._fault((_quoted(key),), "", f"unknown table{nearest(key, TABLES)}; allowed: {allowed}")
            else:
                self._fault((), _quoted(key), f"expected the key in a table, found it in none; allowed: {allowed}")
        return Settings(
            path=self._path,
            runtime=self._section("runtime", RuntimeSettings),
            log=self._section("log", LogSettings),
            journal=self._section("journal", JournalSettings),
            dispatch=self._section("dispatch", DispatchSettings),
            sources=self._sources(),
            sinks=self._named("sinks", lambda table: self._connector(table, SinkSettings)),
            functions=self._named("functions", self._function),
            admin=self._admin(),
        )

    def _section(self, name: str, model: type[M]) -> M:
        table = self._open((), name, self._written.get(name, {}))
        if table is None:
            return model()
        given, others = self._fields(table, model)
        allowed = model.__struct_fields__
        for key in others:
            self._fault(table.place, _quoted(key), f"unknown key{nearest(key, allowed)}; allowed: {', '.join(allowed)}")
        return model(**given)

    def _sources(self) -> dict[str, SourceSettings]:
        if "sources" not in self._written:
            return {"web": SourceSettings(plugin="http")}
        return self._named("sources", lambda table: self._connector(table, SourceSettings))

    def _named(self, group: str, read: Callable[[_Table], S | None]) -> dict[str, S]:
        """Return what `read` makes of each table `[group.NAME]`."""
        tables = self._written.get(group, {})
        if not isinstance(tables, dict):
            self._fault((), group, f"expected tables [{group}.NAME], found {_kind(tables)}")
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
        external = [key for key in table.written if key in EXTERNAL]
        for key in external:
            self._fault(table.place, key, f"{EXTERNAL[key]} are not supported yet; write the function in Python, or remove the table")
        if external:
            return None
        settings = table.filled.get("settings", {})
        if not isinstance(settings, dict):
            self._fault(table.place, "settings", f"expected a table, found {table.kind('settings')}")
            settings = {}
        values = {key: self._override(table, key) for key in table.filled if key != "settings"}
        return FunctionSettings(overrides={key: value for key, value in values.items() if value is not UNSET}, settings=settings)

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
            message = f"expected {_expected(field.type)}, found {table.found(key)}"
        else:
            message = "".join(why for _, why in check_options({key: value}))
            if message and field and is_filled:  # it shows the value
                message = f"`{key}` does not take {table.found(key)}"
        return self._checked(table, key, value, message)

    def _admin(self) -> AdminSettings:
        admin = self._section("admin", AdminSettings)
        admin = msgspec.structs.replace(admin, token=(admin.token or "").strip() or None)
        is_told = any(fault.where == self._where(("admin",), "token") for fault in self._faults)
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
        check = CHECKS.get(key)
        return self._checked(table, key, made, check(made, table.found(key)) if check and made is not None else "")

    def _checked(self, table: _Table, key: str, value: Any, message: str) -> Any:
        if not message:
            return value
        self._fault(table.place, _quoted(key), message)
        return UNSET

    def _open(self, outer: tuple[str, ...], key: str, value: Any) -> _Table | None:
        place = (*outer, _quoted(key))
        if not isinstance(value, dict):
            self._fault(outer, _quoted(key), f"expected a table [{'.'.join(place)}], found {_kind(value)}")
            return None
        before = len(self._faults)
        filled = self._fill_table(place, value)
        return _Table(place, value, filled, len(self._faults) == before)

    def _fill_table(self, place: tuple[str, ...], table: Mapping[str, Any]) -> dict[str, Any]:
        filled = {key: self._fill(place, _quoted(key), value) for key, value in table.items()}
        return {key: value for key, value in filled.items() if value is not UNSET}

    def _fill(self, place: tuple[str, ...], key: str, value: Any) -> Any:
        """Return the value with its placeholders filled in; UNSET, and a fault, when one cannot be."""
        if isinstance(value, dict):
            return self._fill_table((*place, key), value)
        if isinstance(value, list):
            items = [self._fill(place, f"{key}[{index}]", item) for index, item in enumerate(value)]
            return UNSET if UNSET in items else items
        if not isinstance(value, str):
            return value
        before = len(self._faults)
        text = PLACEHOLDER.sub(lambda match: self._fill_one(place, key, match), value)
        return text if len(self._faults) == before else UNSET

    def _fill_one(self, place: tuple[str, ...], key: str, match: re.Match[str]) -> str:
        if match["inside"] is None:
            return "${"
        inside = INSIDE.fullmatch(match["inside"])
        if inside is None or not match["end"] or "${" in match["inside"]:
            form = "expected ${VAR}, ${VAR:-default} or ${file:PATH}"
            self._fault(place, key, f"{form}, found {_shown(match[0])}; write $${{ for a ${{ that is meant as it is")
            return ""
        try:
            return _read_secret(self._path.parent / inside["file"]) if inside["file"] else _variable(inside)
        except LookupError as error:
            self._fault(place, key, error.args[0])
            return ""

    def _fault(self, place: tuple[str, ...], key: str, message: str) -> None:
        self._faults.append(Fault(self._where(place, key), message))

    def _where(self, place: tuple[str, ...], key: str) -> str:
        table = f"[{'.'.join(place)}]" if place else ""
        return " ".join(part for part in (self._path.name, table, key) if part)


def _variable(inside: re.Match[str]) -> str:
    """Return an environment variable or its default; as in a shell, the default also stands for an empty one."""
    name, default = inside["variable"], inside["default"]
    value = os.environ.get(name)
    if value is None and default is None:
        raise LookupError(f"environment variable {name} is not set; set it, or give a default as in ${{{name}:-…}}")
    return value or default or ""


def _read_secret(path: Path) -> str:
    try:
        return path.read_text("utf-8").rstrip("\r\n")
    except OSError as error:
        why = str(error.strerror)
    except ValueError:
        why = "no text in UTF-8"
    raise LookupError(f"expected the file {path}, found: {why}; make it, or correct the path, which is relative to the configuration file")


def _converted(value: Any, type: Any, *, strict: bool) -> Any:
    try:
        return msgspec.convert(value, type, strict=strict)
    except msgspec.ValidationError:
        return UNSET


def _is_infinite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _misfit(table: _Table, key: str, type: Any) -> str:
    """Return what was expected and found; where it was a string only the kind, as strings may be secrets."""
    expected = _expected(type)
    found = table.kind(key) if expected.startswith("a string") else table.found(key)
    likely = nearest(str(table.written[key]).lower(), get_args(type)) if get_origin(type) is Literal else ""
    return f"expected {expected}, found {found}{likely}"


def _expected(type: Any) -> str:
    if get_origin(type) is Literal:
        return " or ".join(f'"{value}"' for value in get_args(type))  # in the order of the declaration
    return _described(inspect.type_info(type))


def _described(info: inspect.Type) -> str:
    """Return the values a type allows, in words."""
    match info:
        case inspect.UnionType(types=types):
            return " or ".join(_described(one) for one in types if not isinstance(one, inspect.NoneType))
        case inspect.IntType() | inspect.FloatType():
            noun = "a whole number" if isinstance(info, inspect.IntType) else "a number"
            return noun + _range_of(info)
        case inspect.StrType(min_length=shortest):
            return "a string that is not empty" if shortest else "a string"
        case inspect.VarTupleType():
            return "a string or a list of strings"
        case _:
            return "a list of strings"


def _range_of(info: inspect.IntType | inspect.FloatType) -> str:
    if info.ge is not None and info.le is not None:
        return f" of {info.ge:g} … {info.le:g}"
    if info.gt is not None:
        return f" of more than {info.gt:g}"
    return f" of {info.ge:g} or more" if info.ge is not None else ""


def _fault_of_journal(url: str, found: str) -> str:
    if url == "memory:":
        return ""
    for scheme in ("sqlite:", "nats:"):
        if url.startswith(scheme):
            return f'expected "memory:", found a journal of "{scheme}", which is not supported yet; use "memory:" or leave `url` out'
    scheme, separator, _ = url.partition("://")
    shown = f'"{scheme}://…"' if separator and not found.startswith("the value") else found
    return f'expected "memory:", found {shown}; use "memory:" or leave `url` out'


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


CHECKS: Mapping[str, Callable[[Any, str], str]] = {
    "url": _fault_of_journal,
    "on": _fault_of_on,
    "key": _fault_of_key,
    "listen": _fault_of_listen,
}
"""What types cannot say of a field, by its name; each takes the value and how a message may show it."""


def _quoted(key: str) -> str:
    """Return a key as TOML writes it."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else msgspec.json.encode(key).decode()


def _kind(value: Any) -> str:
    return KINDS.get(type(value), "a date or time")


def _shown(value: Any) -> str:
    """Return a value as TOML writes it, cut when it is long."""
    if isinstance(value, dict):
        return _kind(value)
    if isinstance(value, list):
        text = f"[{', '.join(map(_shown, value))}]"
    else:
        text = msgspec.json.encode(value).decode() if isinstance(value, str | bool) else str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
