"""The sheet of one subject: rows of numbers, one for each round, some with a goal."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from benchmarks.children import ChildError

ROUNDS = 5
COMPARE = {"≥": operator.ge, "≤": operator.le, "<": operator.lt}


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One quantity: `values` has one for each round, `goal` is such as `≥ 25` and is held against the median.

    `note` says why there are no values.
    """

    what: str
    unit: str
    values: list[float] = []
    goal: str = ""
    note: str = ""

    @property
    def median(self) -> float:
        """The value in the middle."""
        return statistics.median(self.values)

    @property
    def verdict(self) -> Literal["reached", "missed", ""]:
        """How the median stands to the goal; empty when one of them is missing."""
        if not self.goal or not self.values:
            return ""
        sign, _, number = self.goal.partition(" ")
        return "reached" if COMPARE[sign](self.median, float(number.replace(",", ""))) else "missed"


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """How a quantity grows: `lines` by label, each of them `(x, y)` with the median of all rounds."""

    name: str
    x: str
    y: str
    lines: dict[str, list[tuple[float, float]]]


class Sheet:
    """Takes what one subject measures; `full` asks for all there is, however long it takes; `tell` is given each row."""

    def __init__(self, *, full: bool = False, rounds: int = ROUNDS, tell: Callable[[Row], object] = lambda _: None) -> None:
        self.full = full
        self.rounds = rounds
        self.rows: list[Row] = []
        self.curves: list[Curve] = []
        self._tell = tell

    def add(self, what: str, values: Sequence[float], unit: str, goal: str = "", note: str = "") -> None:
        """Add a row."""
        row = Row(what=what, unit=unit, values=list(values), goal=goal, note=note)
        self.rows.append(row)
        self._tell(row)

    def compare(self, unit: str, contestants: Mapping[str, Callable[[], float]], rounds: int | None = None) -> None:
        """Measure contestants in turn, round after round, and add a row for each; one that fails is noted and left out from then on."""
        values: dict[str, list[float]] = {name: [] for name in contestants}
        notes: dict[str, str] = {}
        for _ in range(rounds or self.rounds):
            for name, measure in contestants.items():
                if name not in notes:
                    try:
                        values[name].append(measure())
                    except ChildError as error:
                        notes[name] = str(error)
        for name in contestants:
            self.add(name, [] if name in notes else values[name], unit, note=notes.get(name, ""))

    def values(self, what: str) -> list[float]:
        """Return the values of a row of this sheet."""
        return self._row(what).values

    def ratio(self, over: str, under: str, goal: str = "", what: str = "") -> None:
        """Add a row: in each round, the one divided by the other."""
        first, second = self._row(over), self._row(under)
        values = [one / other for one, other in zip(first.values, second.values, strict=False)]
        self.add(what or f"{over} / {under}", values, "x", goal, first.note or second.note)

    def _row(self, what: str) -> Row:
        return next(row for row in self.rows if row.what == what)
