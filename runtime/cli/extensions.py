"""Commands that plugins add, by the hook `register_commands`.

They are looked for when a command is none of the runtime's own, in the plugins folder of the `runtime.toml` of the
working directory and among installed plugins that are called like the command; `--help` lists those of the folder.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

import click

from runtime.cli.failures import Guarded
from runtime.cli.options import CONFIG

if TYPE_CHECKING:
    from runtime.plugins import Plugins


class Extended(Guarded):
    """The group of all commands; the runtime's own go before those of plugins."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands that need no further search."""
        return sorted({*super().list_commands(ctx), *_plugins().commands()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by its name; faults of plugins that may have offered it are told."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        plugins = _plugins()
        plugins.add_installed(cmd_name)
        found = plugins.commands().get(cmd_name)
        for fault in plugins.faults if found is None else ():
            click.echo(f"warning: {fault}", err=True)
        return found


def _plugins() -> Plugins:
    """Return the plugins of the folder; what they print when they are imported goes to stderr."""
    from runtime import config  # noqa: PLC0415 - see runtime.cli
    from runtime.clock import SystemClock  # noqa: PLC0415
    from runtime.plugins import load_folder  # noqa: PLC0415

    settings, _ = config.read(CONFIG)
    with redirect_stdout(sys.stderr):
        return load_folder(settings, SystemClock())
