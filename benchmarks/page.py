"""Bring what was measured into docs/performance.md, between its marks, and draw the curves beside it: `python -m benchmarks.page`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from benchmarks import results
from benchmarks.results import Results
from benchmarks.sheet import Row

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
MARKED = re.compile(r"(<!-- (\w+) begins -->\n).*?(<!-- \2 ends -->)", re.DOTALL)


def number(value: float) -> str:
    """Return a number with as many digits as mean anything."""
    if value >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def shown(row: Row) -> str:
    """Return median, minimum and maximum of a row, or why there are none."""
    if not row.values:
        return row.note.partition(":")[0]
    low, high = number(min(row.values)), number(max(row.values))
    span = f" ({low} to {high})" if len(row.values) > 1 else ""
    return f"{number(row.median)} {row.unit}{span}"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table of Markdown."""
    lines = [list(head), ["---"] * len(list(head)), *map(list, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def goals(measured: Results) -> str:
    """Return the table of all rows with a goal; what is missed is in bold type."""
    rows = []
    for name, one in measured.items():
        for row in one.rows:
            if row.goal:
                verdict = row.verdict or "not measured"
                rows.append((name, row.what, shown(row), row.goal, verdict if verdict == "reached" else f"**{verdict}**"))
    return table(("", "what", "measured", "goal", ""), rows)


def subject(measured: Results, name: str) -> str:
    """Return the table of one subject."""
    return table(("what", "measured"), [(row.what, shown(row)) for row in measured[name].rows])


def about(measured: Results) -> str:
    """Return when, on what and with which versions it was measured; subjects that share all of that share a paragraph."""
    shared: dict[str, list[str]] = {}
    for name, one in measured.items():
        versions = ", ".join(f"{package} {version}" for package, version in one.versions.items())
        shared.setdefault(f"{one.date}, {one.rounds} rounds, on {one.machine}.\n\nVersions: {versions}.", []).append(name)
    return "\n".join(f"{', '.join(names)}: {text}\n" for text, names in shared.items())


def filled(page: str, measured: Results) -> str:
    """Return the page with its tables anew.

    Raises:
        KeyError: a mark names a subject that was not measured.
    """
    made = {"goals": goals, "about": about}

    def fill(found: re.Match[str]) -> str:
        name = found[2]
        text = made[name](measured) if name in made else subject(measured, name)
        return f"{found[1]}\n{text}\n{found[3]}"

    return MARKED.sub(fill, page)


def main() -> None:
    """Be the command."""
    from benchmarks import pictures  # noqa: PLC0415 - who only wants the tables needs no matplotlib

    measured = results.read(results.KEPT)
    PAGE.write_text(filled(PAGE.read_text(), measured))
    for curve in measured["curves"].curves:
        pictures.draw(curve, PAGE.with_name(f"performance-{curve.name}.svg"))


if __name__ == "__main__":
    main()
