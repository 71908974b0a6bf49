"""All commands: the runtime's own, by their modules, and those that plugins add, by the hook `register_commands`.

These are looked for when a command is none of the runtime's own, in the plugins folder of the `runtime.toml` of the
working directory and among installed plugins that are called like the command; `--help` lists those of the folder.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import click

from runtime.cli.failures import Guarded
from runtime.cli.options import CONFIG

if TYPE_CHECKING:
    from runtime.plugins import Plugins


class Extended(Guarded):
    """The group of all commands; the runtime's own, named by `families`, go before those of plugins."""

    def __init__(self, *args: Any, families: Mapping[str, Sequence[str]], **options: Any) -> None:
        super().__init__(*args, **options)
        self._own = {name: module for module, names in families.items() for name in names}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        """Return the names of all commands that need no further search."""
        return sorted({*self._own, *_plugins().commands()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        """Return a command by its name; faults of plugins that may have offered it are told."""
        if cmd_name in self._own:
            return cast("click.Command", getattr(import_module(f"runtime.cli.{self._own[cmd_name]}"), cmd_name))
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
