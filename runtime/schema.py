"""The JSON Schema of `runtime.toml`, with the options of every plugin, for editors that complete and check it.

It takes every file that the runtime takes: a placeholder may stand for any single value, and in the options of a
plugin any text that reads as a number or a boolean for one. What only code can say (that an expression is one, that
two options exclude each other) it leaves to `runtime check`. Which plugin a table is for is told by `if`, so that an
editor names the key that is wrong. Beside it stands an `anyOf` that refuses nothing: from that editors of TOML complete,
who do not look into an `if`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from runtime import settings
from runtime.catalogue import Kind
from runtime.describe import one_line, options_of
from runtime.function import Options
from runtime.specs import MINIMA, POSITIVE

Node = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
PLACEHOLDER = r"\$\{"
NUMBER = r"^-?([0-9]|[Ii][Nn][Ff]|[Nn][Aa][Nn])"
BOOLEAN = r"^([Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee]|[01])$"
AS_TEXT = {"integer": NUMBER, "number": NUMBER, "boolean": BOOLEAN, None: NUMBER}
"""What text reads as a value of a type, or as one of several, where the runtime takes text for it."""
ABOUT = ("title", "description", "default", "examples")

TEXT = {"type": "string"}
ONE_OR_LIST = {"anyOf": [TEXT, {"type": "array", "items": TEXT}]}
NULL_AS_TEXT = {"type": "string", "pattern": "^[Nn][Uu][Ll][Ll]$"}
FILLED_IN = {"type": "string", "pattern": PLACEHOLDER}


def make_schema(kinds: Iterable[Kind]) -> Node:
    """Return the schema of a configuration that may use these kinds."""
    known, definitions = list(kinds), dict[str, Node]()
    tables = {
        "runtime": _section(settings.RuntimeSettings),
        "log": _section(settings.LogSettings),
        "journal": _section(settings.JournalSettings),
        "dispatch": _section(settings.DispatchSettings),
        "sources": _named(_connector("source", settings.SourceSettings, known, definitions)),
        "sinks": _named(_connector("sink", settings.SinkSettings, known, definitions)),
        "functions": _named(_function()),
        "resources": _named({"type": "object", "description": "for the resource itself: its parameter `settings`"}),
        "admin": _section(settings.AdminSettings),
    }
    return {"$schema": DIALECT, "title": "runtime.toml"} | _table(tables) | {"$defs": definitions}


def _named(table: Node) -> Node:
    """Return the schema of tables by name."""
    return {"type": "object", "additionalProperties": table}


def _table(properties: Node, required: Iterable[str] = (), doc: str | None = None) -> Node:
    """Return the schema of a table that has no other keys."""
    about = {"description": one_line(doc)} if doc else {}
    return {"type": "object"} | about | {"properties": properties, "required": list(required), "additionalProperties": False}


def _section(model: type[msgspec.Struct]) -> Node:
    return _table(_settings(model), doc=model.__doc__)


def _settings(model: type[msgspec.Struct]) -> Node:
    """Return the keys of a table that are the runtime's own."""
    properties, _ = _properties(model, "")
    properties.pop("options", None)
    if "on" in properties:
        properties["on"] = ONE_OR_LIST | {"default": properties["on"]["default"]}  # one pattern stands for a list of one
    return {key: _filled(node, lax=False) for key, node in properties.items()}


def _function() -> Node:
    """Return the schema of `[functions.NAME]`."""
    properties, _ = _properties(Options, "")
    del properties["name"]
    for key, node in properties.items():
        limits = {"exclusiveMinimum": 0} if key in POSITIVE else {"minimum": MINIMA[key]} if key in MINIMA else {}
        for one in node.get("anyOf", [node]):
            one.update(limits if one.get("type") in ("integer", "number") else {})
    filled = {key: _filled(node, lax=False) for key, node in properties.items()}
    filled |= {key: node for key, node in _settings(settings.ProcessSettings).items() if key not in filled}
    own: Node = {"settings": {"type": "object", "description": "for the function itself: `context.settings`"}}
    services = _settings(settings.CommandSettings) | _settings(settings.ServiceSettings) | _settings(settings.GrpcSettings)
    handler = {"type": "string", "minLength": 1, "description": "FILE.FUNCTION that is written for another system"}
    own["handler"] = _filled(handler, lax=False)
    return _table(filled | services | own, doc=Options.__doc__)


def _connector(role: str, model: type[msgspec.Struct], kinds: list[Kind], definitions: Node) -> Node:
    """Return the schema of a source or sink; adds what it refers to to the definitions."""
    own = _settings(model)
    parts = {kind.name: kind.part for kind in kinds if kind.role == role and kind.part}
    for name, part in parts.items():
        definitions[_reference(role, name)] = _plugin(role, name, part, own, definitions)
    broken = {kind.name for kind in kinds if kind.part is None and kind.role in (role, "")}
    tables = {name: {"$ref": f"#/$defs/{_reference(role, name)}"} for name in parts}
    return {
        "type": "object",
        "properties": {"plugin": {"anyOf": [{"enum": sorted({*parts, *broken})}, FILLED_IN]}},
        "required": ["plugin"],
        "allOf": [{"if": _is(name), "then": table} for name, table in tables.items()] or [{}],
        "anyOf": [*tables.values(), {}],
    }


def _is(name: str) -> Node:
    return {"properties": {"plugin": {"const": name}}, "required": ["plugin"]}


def _reference(role: str, name: str) -> str:
    return f"{role}_" + re.sub("[^A-Za-z0-9]", lambda match: f"_{ord(match[0]):x}_", name)


def _plugin(role: str, name: str, part: type[Any], own: Node, definitions: Node) -> Node:
    """Return the schema of a table with a plugin: its keys beside those that every source or sink has, which go first."""
    properties, components = _properties(part.Options, f"{_reference(role, name)}_")
    definitions |= {key: _filled(node, lax=True) for key, node in components.items()}
    options = {key: _filled(node, lax=True) for key, node in properties.items()}
    required = [option.name for option in options_of(part.Options) if option.required and option.name not in own]
    return _table(options | own | {"plugin": {"const": name}}, ["plugin", *required], part.__doc__)


def _properties(model: type[msgspec.Struct], prefix: str) -> tuple[Node, Node]:
    """Return the schema of each key of a record with its default, and of each record they refer to, with the prefix."""
    types = [field.type for field in msgspec.structs.fields(model)]
    nodes, components = msgspec.json.schema_components(
        types, schema_hook=lambda other: {"title": other.__name__}, ref_template=f"#/$defs/{prefix}{{name}}"
    )
    defaults = [{} if option.default is None else {"default": option.default} for option in options_of(model)]
    names = [option.name for option in options_of(model)]
    properties = {name: node | default for name, node, default in zip(names, nodes, defaults, strict=True)}
    return properties, {f"{prefix}{name}": node for name, node in components.items()}


def _filled(node: Node, *, lax: bool) -> Node:
    """Return a schema that also takes a placeholder for each single value, and `lax` any text that reads as one.

    TOML cannot say null, so that is left out, or stays as text.
    """
    about = {key: node[key] for key in ABOUT if node.get(key) is not None}
    bare = {key: value for key, value in node.items() if key not in ABOUT}
    if "format" in bare:  # of a text that also stands as a date or a number
        return about | {"type": ["string", "number"]}
    for key in ("properties", "$defs"):
        if key in bare:
            bare[key] = {name: _filled(inner, lax=lax) for name, inner in bare[key].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(bare.get(key), dict):
            bare[key] = _filled(bare[key], lax=lax)
    for key in ("anyOf", "prefixItems"):
        if key in bare:
            values = [_filled(inner, lax=lax) for inner in bare[key] if inner != {"type": "null"}]
            bare[key] = values + ([NULL_AS_TEXT] if lax and {"type": "null"} in bare[key] else [])
    return about | _or_text(bare, lax=lax)


def _or_text(node: Node, *, lax: bool) -> Node:
    """Return a schema of a single value that also takes text for it."""
    kind = node.get("type")
    is_limited_text = kind == "string" and node.keys() != {"type"}
    if kind not in ("integer", "number", "boolean") and not is_limited_text and not node.keys() & {"enum", "const"}:
        return node
    ways = [node, FILLED_IN]
    if lax and kind != "string":
        ways.append({"type": "string", "pattern": AS_TEXT[kind]})
    if lax and kind == "boolean":
        ways.append({"enum": [0, 1]})
    return {"anyOf": ways}
