"""`runtime plugins` and `schema`: what can be configured here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

import click

from runtime.cli.failures import usage
from runtime.cli.options import config_option, json_option, print_json
from runtime.errors import EXIT_USAGE, ConfigError, Fault, nearest

if TYPE_CHECKING:
    from runtime.catalogue import Kind
    from runtime.describe import Option

CONFIGURED = ("source", "sink")  # what has options in runtime.toml


@click.command()
@click.argument("name", required=False)
@config_option
@json_option
@click.pass_context
def plugins(ctx: click.Context, name: str | None, config: str, as_json: bool) -> None:
    """List every kind of source and sink that can be used, and what else plugins add, or tell all of the one called NAME.

    All plugins are imported for it. With faults of the configuration the list is printed all the same, and the exit
    code is 2.
    """
    kinds, faults = _kinds(config)
    found = [kind for kind in kinds if name in (None, kind.name)]
    if not found:
        names = dict.fromkeys(kind.name for kind in kinds)
        raise usage(f'no plugin offers "{name}"{nearest(str(name), names)}; there are: {", ".join(names) or "none"}')
    if as_json:
        print_json({"plugins": [_shape(kind) | (_details(kind) if name else {}) for kind in found]})
    elif name is None:
        _print_list(found)
    else:
        _print_pages(found)
    if faults:
        raise ConfigError(faults)
    if name and not any(kind.part for kind in found):
        ctx.exit(EXIT_USAGE)


@click.command()
@config_option
@json_option
def schema(config: str, as_json: bool) -> None:  # noqa: ARG001 - every command takes it; the output is JSON anyway
    """Print the JSON schema of runtime.toml, with the options of all plugins, for editors that complete it.

    With faults of the configuration it is printed all the same, and the exit code is 2.
    """
    import msgspec  # noqa: PLC0415 - see runtime.cli

    from runtime.schema import make_schema  # noqa: PLC0415

    kinds, faults = _kinds(config)
    click.echo(msgspec.json.format(msgspec.json.encode(make_schema(kinds)), indent=2))
    if faults:
        raise ConfigError(faults)


def _kinds(config: str) -> tuple[list[Kind], list[Fault]]:
    """Return all kinds there are, and the faults of the configuration; what plugins print goes to stderr."""
    from runtime import config as configuration  # noqa: PLC0415 - see runtime.cli
    from runtime.catalogue import list_kinds  # noqa: PLC0415
    from runtime.clock import SystemClock  # noqa: PLC0415

    settings, faults = configuration.read(config)
    with redirect_stdout(sys.stderr):
        return list_kinds(settings, SystemClock()), faults


def _print_list(kinds: list[Kind]) -> None:
    from runtime.cli import drawing  # noqa: PLC0415 - see runtime.cli

    click.echo(drawing.table(list(map(_row, kinds))))


def _row(kind: Kind) -> tuple[str, ...]:
    return kind.name, kind.role or "broken", _origin(kind), kind.fault or _shape(kind)["doc"]


def _print_pages(kinds: list[Kind]) -> None:
    """Print all of each kind, and what is wrong with one as an error."""
    pages = ["\n".join(_page(kind)) for kind in kinds if kind.part]
    if pages:
        click.echo("\n\n".join(pages))
    for kind in kinds:
        if kind.fault:
            click.echo(f"error: {kind.fault}", err=True)


def _origin(kind: Kind) -> str:
    return f"{kind.origin}, instead of {kind.replaces}" if kind.replaces else kind.origin


def _shape(kind: Kind) -> dict[str, Any]:
    """Return a kind as JSON shows it."""
    from runtime.describe import first_sentence  # noqa: PLC0415 - see runtime.cli

    return {
        "name": kind.name,
        "role": kind.role or None,
        "from": kind.origin,
        "replaces": kind.replaces or None,
        "doc": first_sentence(kind.doc) if kind.part else "",
        "fault": kind.fault or None,
    }


def _details(kind: Kind) -> dict[str, Any]:
    """Return what JSON tells of one kind beside its line in the list."""
    from runtime.describe import example, options_of  # noqa: PLC0415 - see runtime.cli

    if kind.part is None:
        return {}
    if kind.role not in CONFIGURED:
        return {"doc": kind.doc}
    return {
        "doc": kind.doc,
        "options": options_of(kind.part.Options),
        "settings": _settings(kind.role),
        "example": example(kind.role, kind.name, kind.part.Options),
    }


def _page(kind: Kind) -> Iterator[str]:
    """Yield the lines that tell all of one kind."""
    from runtime.describe import example, one_line, options_of  # noqa: PLC0415 - see runtime.cli

    assert kind.part is not None
    yield f"{kind.role} {kind.name}, from {_origin(kind)}"
    yield from ("", kind.doc) if kind.doc else ()
    if kind.role not in CONFIGURED:
        return
    options = options_of(kind.part.Options)
    if options:
        yield from ("", f"Options: {one_line(kind.part.Options.__doc__)}".rstrip(), _table(options))
    else:
        yield from ("", "It has no options of its own.")
    yield from ("", f"Every {kind.role} has:", _table(_settings(kind.role)))
    yield from ("", "Example:", "", example(kind.role, kind.name, kind.part.Options))


def _settings(role: str) -> list[Option]:
    from runtime import settings  # noqa: PLC0415 - see runtime.cli
    from runtime.describe import settings_of  # noqa: PLC0415

    return settings_of(settings.SourceSettings if role == "source" else settings.SinkSettings)


def _table(options: list[Option]) -> str:
    """Return options as indented rows of key, default, what it takes and what it is."""
    from runtime.cli import drawing  # noqa: PLC0415 - see runtime.cli

    lines = drawing.table(list(_rows(options, ""))).splitlines()
    return "\n".join(f"  {line}" for line in lines)


def _rows(options: list[Option], outer: str) -> Iterator[tuple[str, ...]]:
    """Yield a row for each option, and below it for each key of the tables it takes."""
    from runtime.toml import written  # noqa: PLC0415 - see runtime.cli

    for one in options:
        default = "required" if one.required else "none" if one.default in (None, (), [], {}) else written(one.default)
        yield outer + one.name, default, one.type, one.doc
        below = ".NAME." if one.type == "tables by name" else "." if "list" not in one.type else "[]."
        yield from _rows(one.options, outer + one.name + below)
