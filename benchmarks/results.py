"""What has been measured, as it is kept in a file of JSON: by subject, each with its date, machine and versions."""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import msgspec

from benchmarks.sheet import Curve, Row, Sheet

KEPT = Path(__file__).with_name("results.json")
PACKAGES = (
    *("function-runtime", "uvloop", "msgspec", "apsw", "uvicorn", "httptools"),
    *("taskiq", "huey", "dramatiq", "celery", "litequeue", "persist-queue", "dbos", "prefect", "apache-hamilton"),
    *("functions-framework", "fastapi", "pydantic"),
)


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One subject: `date` is a day, `load` how many others wanted the processor before it began, the rest of the head is for people."""

    date: str
    load: float
    rounds: int
    full: bool
    machine: str
    versions: dict[str, str]
    rows: list[Row]
    curves: list[Curve] = []


Results = dict[str, Measured]


def machine() -> str:
    """Return processor, memory, system and the file system that temporary files are on, in one line."""
    processor = platform.processor() or platform.machine()
    about = Path("/proc/cpuinfo")
    if about.exists():
        names = [line.partition(":")[2].strip() for line in about.read_text().splitlines() if line.startswith("model name")]
        processor = names[0] if names else processor
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    stat = subprocess.run(["stat", "-f", "-c", "%T", tempfile.gettempdir()], capture_output=True, text=True, check=False)
    disk = stat.stdout.strip() or "an unknown file system"
    return f"{processor}, {os.cpu_count()} cores, {memory:.0f} GB, {platform.system()} {platform.release()}, temporary files on {disk}"


def versions() -> dict[str, str]:
    """Return the versions of Python and of what is installed of `PACKAGES`."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def measured(sheet: Sheet, load: float) -> Measured:
    """Return what a sheet holds, as it is kept; `load` is as in `Measured`."""
    return Measured(
        date=datetime.now(UTC).date().isoformat(),
        load=round(load, 1),
        rounds=sheet.rounds,
        full=sheet.full,
        machine=machine(),
        versions=versions(),
        rows=sheet.rows,
        curves=sheet.curves,
    )


def read(path: Path) -> Results:
    """Return the results of a file; none when there is no file."""
    return msgspec.json.decode(path.read_bytes(), type=Results) if path.exists() else {}


def keep(path: Path, results: Results) -> None:
    """Write results to a file, in place of those of the same subjects that are there."""
    text = msgspec.json.format(msgspec.json.encode(read(path) | results), indent=1)
    path.write_bytes(text + b"\n")
