"""docs/performance.md shows what was measured, all of it: what is missed as well as what is reached."""

from __future__ import annotations

import re

import pytest

from benchmarks import page, results
from benchmarks.sheet import Row
from benchmarks.subjects import SUBJECTS

MEASURED = results.read(results.KEPT)
TEXT = page.PAGE.read_text()
GOALS = {
    "memory": ["≥ 1.0", "≥ 25", "≥ 25", "≥ 2.0", "≥ 0.7", "≥ 0.6"],
    "sqlite": ["≥ 0.8", "≥ 100", "≥ 1,000", "≥ 30", "≥ 1.0"],
    "latency": ["≤ 20", "≤ 40"],
    "http": ["≥ 0.85", "≥ 20", "≥ 4", "≥ 0.5"],
    "chains": ["≥ 0.25", "≥ 30", "≥ 20", "≥ 1,000", "≥ 1,000", "≥ 1,000", "≥ 1,000", "< 1"],
    "graph": ["≤ 0.5", "< 2"],
    "isolate": ["≥ 2", "≥ 20", "≤ 10"],
    "reload": ["≤ 20", "< 100"],
    "backlog": ["< 2", "< 150", "< 50"],
    "start": ["< 50", "< 0.6", "< 0.5", "< 70"],
    "crowd": ["< 20"],
}


def test_the_tables_are_those_of_the_results() -> None:
    assert page.filled(TEXT, MEASURED) == TEXT, "python -m benchmarks.page writes them"


def test_every_subject_was_measured_and_is_shown() -> None:
    assert list(MEASURED) == list(SUBJECTS)
    assert {name for _, name in re.findall(r"(<!-- (\w+) begins -->)", TEXT)} == {"about", "goals", *SUBJECTS}


def test_every_goal_was_measured_and_none_was_moved() -> None:
    rows = {name: [row for row in one.rows if row.goal] for name, one in MEASURED.items()}
    assert {name: [row.goal for row in found] for name, found in rows.items() if found} == GOALS
    assert [row.what for found in rows.values() for row in found if not row.verdict] == []
    assert all(len(row.values) >= 5 for name, found in rows.items() for row in found if row.what != "idle: memory")


def test_of_everything_that_is_compared_it_is_told_what_it_promises() -> None:
    ours = {"function-runtime", "uvloop", "msgspec", "apsw", "httptools", "pydantic"}
    told = TEXT.partition("## What the others promise")[2].partition("\n## ")[0].lower()
    assert [name for name in results.PACKAGES if name not in ours and name.removeprefix("apache-") not in told] == []


def test_each_curve_has_its_picture() -> None:
    drawn = {path.name for path in page.PAGE.parent.glob("performance-*.svg")}
    assert {f"performance-{curve.name}.svg" for curve in MEASURED["curves"].curves} == drawn
    for name in drawn:
        assert f"]({name})" in TEXT
        picture = (page.PAGE.parent / name).read_text()
        assert len(picture) < 40_000
        assert "<dc:date>" not in picture


@pytest.mark.parametrize(
    ("value", "text"), [(2_104_567.0, "2,100,000"), (12_345.0, "12,300"), (999.6, "1000"), (61.84, "61.8"), (1.0, "1"), (0.02861, "0.0286")]
)
def test_numbers_have_as_many_digits_as_mean_anything(value: float, text: str) -> None:
    assert page.number(value) == text


def test_what_is_missed_is_shown_and_so_is_what_is_not_there() -> None:
    assert page.shown(Row(what="it", unit="x", values=[1.0, 3.0, 2.0])) == "2 x (1 to 3)"
    assert page.shown(Row(what="it", unit="ms", values=[0.5])) == "0.5 ms"
    assert page.shown(Row(what="it", unit="ms", note="failed: no room")) == "failed"
    one = MEASURED["graph"]
    rows = [Row(what="it", unit="x", values=[1.0], goal="≥ 2"), Row(what="that", unit="x", goal="≥ 2", note="not installed")]
    import msgspec

    text = page.goals({"graph": msgspec.structs.replace(one, rows=rows)})
    assert "| graph | it | 1 x | ≥ 2 | **missed** |\n" in text
    assert "| graph | that | not installed | ≥ 2 | **not measured** |\n" in text
