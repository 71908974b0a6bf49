"""The command `runtime`: one file per family of commands.

A command is imported when it is called, and imports what it needs then: `runtime --help` and the commands that only
talk to a running runtime should not pay for the web server, the watcher and the journal, nor `runtime run` for them.
"""

from __future__ import annotations

from typing import Any

import click

from runtime.cli.extensions import Extended

FAMILIES = {  # the commands, by their modules
    "inspection": ("check", "graph", "invoke"),
    "new": ("new",),
    "plugins": ("plugins", "schema"),
    "run": ("run",),
    "talk": ("discard", "emit", "events", "retry", "show"),
}


def _print_version(ctx: click.Context, _parameter: click.Parameter, wanted: Any) -> None:
    if wanted:
        from runtime.cli.version import installed_version  # noqa: PLC0415 - it searches what is installed

        click.echo(f"function-runtime {installed_version()}")
        ctx.exit()


@click.group(cls=Extended, families=FAMILIES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show the version and exit.")
def main() -> None:
    """Turn a folder of Python functions into a running, durable, event-driven system.

    Exit codes: 0 good, 1 the work failed, 2 wrong usage, config or function files, 3 no runtime answers.
    """
