"""Options that several commands have, and the data they take."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from runtime.cli.failures import usage

F = TypeVar("F", bound=Callable[..., Any])

CONFIG = "runtime.toml"


def config_option(command: F) -> F:
    """Add `-c FILE`."""
    option = click.option("-c", "--config", default=CONFIG, show_default=True, metavar="FILE", help="The configuration file.")
    return option(command)


def json_option(command: F) -> F:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")(command)


def data_option(command: F) -> F:
    """Add `--data`."""
    text = "JSON, @FILE to read it from a file, or - for standard input."
    return click.option("--data", "-d", metavar="JSON|@FILE|-", help=text)(command)


def read_data(text: str | None) -> Any:
    """Return the value that `--data` means; None when it was not given.

    Raises:
        Failure: the file cannot be read or holds no JSON (exit 2).
    """
    if text is None:
        return None
    raw, where = _raw(text)
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"--data: {where} is not JSON: {error}; a text needs its quotes, as in --data '\"text\"'"
        raise usage(message) from None


def _raw(text: str) -> tuple[bytes, str]:
    if text == "-":
        return sys.stdin.buffer.read(), "standard input"
    if not text.startswith("@"):
        return text.encode(errors="replace"), f"`{text}`" if len(text) <= 60 else f"`{text[:60]}…`"
    try:
        return Path(text[1:]).read_bytes(), text[1:]
    except OSError as error:
        raise usage(f"--data: {text[1:]} cannot be read: {error.strerror}") from None


def print_json(value: Any) -> None:
    """Print a value as one line of JSON on stdout."""
    from runtime import codec  # noqa: PLC0415 - see runtime.cli

    click.echo(codec.to_json(value))
