"""The entries that somebody holds, so that there is one object for each in this process."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from weakref import ref

from runtime.records import Entry

CROWD: Final = 10_000  # entries that are known before those are forgotten that nobody holds any more


class Known:
    """Finds entries by `seq` as long as somebody holds them.

    References are looked through now and then: to be told of each that goes takes longer than all else that is done here.
    """

    def __init__(self) -> None:
        self._there: dict[int, ref[Entry]] = {}
        self._crowd = CROWD

    def add(self, entries: Iterable[Entry]) -> None:
        """Take these for the objects that stand for their entries."""
        there = self._there
        for entry in entries:
            there[entry.seq] = ref(entry)
        if len(there) > self._crowd:
            self._there = {seq: known for seq, known in there.items() if known() is not None}
            self._crowd = max(CROWD, 2 * len(self._there))

    def find(self, entry: Entry) -> Entry:
        """Return the object that stands for an entry; the one given when there is none."""
        known = self._there.get(entry.seq)
        return (known and known()) or entry

    def revive(self, entry: Entry) -> Entry:
        """Return the object that stands for an entry; from now on the one given when there is none."""
        found = self.find(entry)
        if found is entry:
            self.add((entry,))
        return found
