"""`runtime check`, `graph` and `invoke`: what can be said of a project without running it."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AbstractContextManager, redirect_stdout

import click

from runtime.cli.failures import Failure, usage
from runtime.cli.options import config_option, data_option, json_option, print_json, read_data
from runtime.errors import EXIT_USAGE, LoadError


@click.command()
@config_option
@json_option
@click.pass_context
def check(ctx: click.Context, config: str, as_json: bool) -> None:
    """Check config, plugins, functions and graph, and report every fault at once."""
    from runtime import check as checking  # noqa: PLC0415 - see runtime.cli

    with _aside():
        settings, graph, faults = checking.check(config)
    if as_json:
        print_json({"status": "degraded" if faults else "ok", "faults": [{"where": f.where, "message": f.message} for f in faults]})
    else:
        for fault in faults:
            click.echo(f"error: {fault}", err=True)
    if faults:
        ctx.exit(EXIT_USAGE)
    if graph is not None and not as_json:
        files = {function.file for function in graph.functions}
        counts = (
            _count(len(graph.functions), "function"),
            _count(len(files), "file"),
            _count(len(settings.sources), "source"),
            _count(len(settings.sinks), "sink"),
        )
        click.echo("ok: {} in {}, {}, {}".format(*counts))


def _aside() -> AbstractContextManager[object]:
    """Send what files and functions print to stderr: stdout is for the answer of the command."""
    return redirect_stdout(sys.stderr)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


@click.command()
@config_option
@click.option("--format", "style", type=click.Choice(["text", "mermaid", "dot", "json"]), default="text", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
def graph(config: str, style: str, as_json: bool) -> None:
    """Print the graph in topological order.

    With faults of config or plugins it is the graph of what there is without them, and the exit code is 2.
    """
    from runtime import check as checking  # noqa: PLC0415 - see runtime.cli
    from runtime.admin import shapes  # noqa: PLC0415
    from runtime.cli import drawing  # noqa: PLC0415

    with _aside():
        settings, found, faults = checking.check(config)
    if found is None:
        raise LoadError(faults)
    sources = shapes.source_types(settings.sources)
    if as_json or style == "json":
        print_json(shapes.graph_shape(found, sources))
    elif style == "text":
        click.echo(drawing.text(found))
    else:
        click.echo(getattr(drawing, style)(*shapes.graph_parts(found, sources)))
    if faults:  # of config or plugins: the graph may lack some of what it should have
        raise LoadError(faults)


@click.command()
@click.argument("name", required=False)
@data_option
@click.option("--type", "type", metavar="TYPE", help="The type of the event; without NAME its whole plan runs.")
@config_option
@json_option
def invoke(name: str | None, data: str | None, type: str | None, config: str, as_json: bool) -> None:  # noqa: ARG001 - options; the output is JSON anyway
    """Call one function in this process, or the whole plan of an event type; nothing is sent.

    The result is JSON on stdout; what it would have emitted is on stderr, a CloudEvent a line.
    """
    from runtime import cloudevents  # noqa: PLC0415 - see runtime.cli
    from runtime import config as configuration  # noqa: PLC0415
    from runtime import invoke as invocation  # noqa: PLC0415

    if name is None and type is None:
        raise usage("give the NAME of a function, or --type TYPE for all that an event of the type triggers")
    value = read_data(data)
    with _aside():
        given = asyncio.run(invocation.invoke(configuration.load(config), name, value, type=type))
    for event in given.emitted:
        click.echo(cloudevents.encode(event), err=True)
    if given.failed is not None:
        if os.environ.get("RUNTIME_DEBUG"):
            click.echo(given.traceback, err=True)
        raise Failure(given.failed)
    print_json(given.result)
