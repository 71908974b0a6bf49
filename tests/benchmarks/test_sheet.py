from __future__ import annotations

from benchmarks.children import ChildError
from benchmarks.sheet import Row, Sheet


def test_contestants_are_measured_in_turn_and_compared_round_by_round() -> None:
    order: list[str] = []
    given = {"ours": [30.0, 40.0, 50.0], "bare": [10.0, 20.0, 100.0]}

    def contestant(name: str) -> float:
        order.append(name)
        return given[name][order.count(name) - 1]

    told: list[Row] = []
    sheet = Sheet(rounds=3, tell=told.append)
    sheet.compare("events/s", {"ours": lambda: contestant("ours"), "bare": lambda: contestant("bare")})
    sheet.ratio("ours", "bare", "≥ 2.0")
    assert order == ["ours", "bare"] * 3
    assert sheet.values("ours / bare") == [3.0, 2.0, 0.5]
    assert [row.verdict for row in told] == ["", "", "reached"]


def test_one_that_cannot_be_measured_is_noted_and_left_out() -> None:
    asked = 0

    def missing() -> float:
        nonlocal asked
        asked += 1
        raise ChildError("not installed")

    sheet = Sheet(rounds=3)
    sheet.compare("events/s", {"ours": lambda: 1.0, "theirs": missing})
    sheet.ratio("ours", "theirs", "≥ 25")
    assert asked == 1
    assert [(row.what, row.values, row.note) for row in sheet.rows] == [
        ("ours", [1.0] * 3, ""),
        ("theirs", [], "not installed"),
        ("ours / theirs", [], "not installed"),
    ]
    assert sheet.rows[-1].verdict == ""


def test_the_median_is_held_against_the_goal() -> None:
    def verdict(goal: str, *values: float) -> str:
        return Row(what="it", unit="ms", values=list(values), goal=goal).verdict

    assert verdict("≥ 1,000", 999.0, 1000.0, 1.0) == "missed"
    assert verdict("≥ 1,000", 999.0, 1000.0, 2000.0) == "reached"
    assert verdict("≤ 20", 20.0) == "reached"
    assert verdict("< 20", 20.0) == "missed"
