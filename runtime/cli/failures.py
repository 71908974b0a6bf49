"""How commands fail: a short message on stderr and an exit code, never a traceback for bad input."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from runtime.errors import EXIT_FAILED, EXIT_NOT_RUNNING, EXIT_USAGE, Error, Faulty


class Failure(click.ClickException):
    """Raised to end a command with a message on stderr and an exit code."""

    def __init__(self, message: str, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click declares it for the class and reads it of the instance

    def show(self, file: Any = None) -> None:
        """Print the message as a line on stderr."""
        click.echo(f"error: {self.message}", file=file, err=True)


class NotRunning(Failure):
    """Raised when no runtime answers at the address of the admin API."""

    def __init__(self, url: str, why: str) -> None:
        message = f"no runtime answers at {url} ({why}); start it with `runtime run`, or name another with --url or -c"
        super().__init__(message, EXIT_NOT_RUNNING)


def usage(message: str) -> Failure:
    """Return the failure of a wrong usage."""
    return Failure(message, EXIT_USAGE)


def print_faults(error: Faulty) -> None:
    """Print every fault as `error: where: message` on stderr."""
    for fault in error.faults:
        click.echo(f"error: {fault}", err=True)


class Guarded(click.Group):
    """A group whose commands end with a message and an exit code whatever goes wrong.

    `RUNTIME_DEBUG=1` shows the traceback of what nobody expected.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Invoke the command."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Faulty as error:
            print_faults(error)
            ctx.exit(EXIT_USAGE)
        except Error as error:
            raise Failure(str(error)) from error
        except BrokenPipeError:  # the reader of the output has gone, as in `runtime events | head`
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - for the interpreter's last flush
            ctx.exit(EXIT_FAILED)
        except Exception as error:
            if os.environ.get("RUNTIME_DEBUG"):
                raise
            text = " ".join(str(error).split())
            message = f"{type(error).__name__}: {text}; RUNTIME_DEBUG=1 shows where" if text else type(error).__name__
            raise Failure(message) from error
