"""The command `runtime`: one file per family of commands.

Commands import what they need when they are called: `runtime --help` and the commands that only talk to
a running runtime should not pay for the web server, the watcher and the journal.
"""

from __future__ import annotations

import click

from runtime.cli import inspection, new, plugins, run, talk
from runtime.cli.extensions import Extended
from runtime.cli.version import installed_version


@click.group(cls=Extended, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(installed_version(), prog_name="function-runtime", message="%(prog)s %(version)s")
def main() -> None:
    """Turn a folder of Python functions into a running, durable, event-driven system.

    Exit codes: 0 good, 1 the work failed, 2 wrong usage, config or function files, 3 no runtime answers.
    """


for _command in (new.new, run.run, inspection.check, inspection.graph, inspection.invoke):
    main.add_command(_command)
for _command in (talk.emit, talk.events, talk.show, talk.retry, talk.discard):
    main.add_command(_command)
for _command in (plugins.plugins, plugins.schema):
    main.add_command(_command)
