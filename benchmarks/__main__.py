"""Measure, and print a line for each row."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from pathlib import Path

from benchmarks import results
from benchmarks.children import ChildError
from benchmarks.sheet import ROUNDS, Row, Sheet
from benchmarks.subjects import LONG, SUBJECTS

FULL_ROUNDS = 7


def told(row: Row) -> str:
    """Return a row as a line."""
    if not row.values:
        return f"  {row.what:62} {row.note or 'not measured'}"
    goal = f"  goal {row.goal}: {row.verdict}" if row.goal else ""
    low, middle, high = min(row.values), statistics.median(row.values), max(row.values)
    return f"  {row.what:62} {middle:14,.2f} {row.unit:9} ({low:,.2f} to {high:,.2f}){goal}"


def main() -> int:
    """Be the command; return its exit code, 1 when something that is installed could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SUBJECTS)}; without one all but {', '.join(LONG)}")
    parser.add_argument("--full", action="store_true", help="more rounds and more of everything: takes the better part of an hour")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the results in this file, beside those of other subjects")
    options = parser.parse_args()
    if unknown := set(options.names) - SUBJECTS.keys():
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(SUBJECTS)}")
    failed = False
    for name in options.names or [name for name in SUBJECTS if options.full or name not in LONG]:
        print(f"{name}: {(sys.modules[SUBJECTS[name].__module__].__doc__ or '').splitlines()[0]}", flush=True)
        sheet = Sheet(full=options.full, rounds=FULL_ROUNDS if options.full else ROUNDS, tell=lambda row: print(told(row), flush=True))
        load = os.getloadavg()[0]
        try:
            SUBJECTS[name](sheet)
        except ChildError as error:
            sheet.add(name, [], "", note=str(error))
        failed = failed or any(row.note.startswith("failed") for row in sheet.rows)
        if options.json:
            results.keep(options.json, {name: results.measured(sheet, load)})
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
