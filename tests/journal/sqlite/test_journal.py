"""The journal on SQLite passes the suite of its contract, and survives what a process and a disk do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.contracts import Clock, Journal
from runtime.journal.sqlite.journal import SqliteJournal
from runtime.testing import JournalSuite


class TestSqliteJournal(JournalSuite):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> Iterator[None]:
        self.folder = tmp_path
        yield

    def make(self, clock: Clock) -> Journal:
        return SqliteJournal(self.folder / "journal.db", clock, dedupe=60.0)
