"""`runtime new`: a small working project, the files of the sample system.

They are those that the repository itself runs and tests, shipped as the package `runtime_sample`.
"""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click

from runtime.cli.failures import Failure, usage
from runtime.cli.options import json_option, print_json

PARTS = {  # where they stand in the sample, and in the new project
    ".gitignore": ".",
    "runtime.toml": ".",
    "functions/*.py": "functions",
    "plugins/spreadsheet.py": "plugins",
    "tests/functions/test_orders.py": "tests",
}
ORDER = """curl -d '{"id": "7", "item": "tea", "quantity": 2}' 127.0.0.1:8080/orders"""


@click.command()
@click.argument("folder", metavar="DIR")
@json_option
def new(folder: str, as_json: bool) -> None:
    """Write a small working project to the new folder DIR."""
    target = Path(os.path.abspath(folder))  # noqa: PTH100 - without following links
    shown = click.format_filename(folder)
    if os.path.lexists(target):
        found = "folder" if target.is_dir() else "file"
        raise usage(f"{shown}: expected a place where nothing is yet, found a {found}; choose another DIR")
    try:
        files = _write(target)
    except OSError as error:
        raise Failure(f"{shown}: expected to make a folder, found: {error.strerror or error}; choose another DIR") from error
    if as_json:
        print_json({"folder": shown, "files": files})
    else:
        click.echo(_next_steps(shown, files))


def sample() -> Iterator[tuple[Path, str]]:
    """Yield the files of the sample, and the name of each in a new project."""
    place = next(path for path in map(Path, import_module("runtime_sample").__path__) if path.is_dir())
    for pattern, folder in PARTS.items():
        for path in sorted(place.glob(pattern)):
            yield path, os.path.normpath(f"{folder}/{path.name}")


def _write(target: Path) -> list[str]:
    """Write the project, with the parents it lacks, beside its place, and move it there: it is there as a whole, or not at all."""
    top = next(path for path in (*reversed(target.parents), target) if not os.path.lexists(path))
    names = []
    with tempfile.TemporaryDirectory(prefix=".runtime-new-", dir=top.parent) as stage:
        made = Path(stage) / top.name
        for path, name in sample():
            file = made / target.relative_to(top) / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(path.read_bytes())
            names.append(name)
        made.rename(top)
    return names


def _next_steps(shown: str, files: list[str]) -> str:
    return f"""Made {shown} with {len(files)} files. Now:

  cd {shlex.quote(shown)}
  runtime run

and from another terminal:

  {ORDER}

Its test runs with `pip install pytest` and `pytest`. Read runtime.toml first."""
