"""Ordering keys: of the events that share one only the first stands in a lane, the others wait behind it."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

from runtime.flow.lanes import Ranking
from runtime.records import Entry, Shelf

BUDGET = 10  # windows of entries that wait for all keys together before any further one is left in the journal

LAST: tuple[float, int] = (float("inf"), 0)  # behind every place in the order
FIRST: tuple[float, int] = (float("-inf"), 0)


class KeyQueue:
    """The events of one key: the holder stands in a lane or runs, the others wait here.

    When it is `spilled` further ones, behind `last`, are only in the journal; there is no holder while they are read.
    """

    __slots__ = ("holder", "last", "missed", "resumes", "spilled", "started", "waiting")

    def __init__(self, holder: Entry) -> None:
        self.holder: Entry | None = holder
        self.started = False
        self.resumes = False
        self.spilled = False
        self.missed = False
        self.last = holder.order
        self.waiting: list[tuple[float, int, Entry]] = []

    def park(self, entry: Entry) -> None:
        """Let an entry wait behind the holder."""
        self.last = max(self.last, entry.order)
        heapq.heappush(self.waiting, (entry.rank, entry.seq, entry))


class Keys:
    """The queues of all keys that are in use; of each at most `window` entries wait in memory, more are asked for by `feed`.

    `is_deep` tells whether there are entries that only the journal has: then a key that comes into use is read there
    first, since an earlier entry of it may stand in a lane that is not in memory.
    """

    def __init__(self, ranking: Ranking, window: int, feed: Callable[[Shelf, int], None], is_deep: Callable[[], bool]) -> None:
        self._is_deep = is_deep
        self._parked = 0
        self._ranking = ranking
        self._window = window
        self._feed = feed
        self._queues: dict[str, KeyQueue] = {}

    def claim(self, key: str, entry: Entry) -> bool:
        """Return whether an entry may stand in its lane; otherwise it waits here, or is read again when its turn is near."""
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = KeyQueue(entry)
            if entry.begun or not self._is_deep():
                return True
            self._park(queue, entry)
            queue.holder = None
            self._feed(Shelf("key", key), 0)
            return False
        may_spill = not entry.begun and not entry.due and entry.order > queue.last
        if may_spill and (queue.spilled or len(queue.waiting) >= self._window or self._parked >= BUDGET * self._window):
            queue.spilled = queue.missed = True
            entry.held = False
        elif queue.holder is None or queue.started or queue.holder.order < entry.order:
            self._park(queue, entry)
        else:
            self._park(queue, queue.holder)  # overtaken: it stays behind in its lane, where it is passed over
            queue.holder = entry
            return True
        return False

    def _park(self, queue: KeyQueue, entry: Entry) -> None:
        self._parked += 1
        queue.park(entry)

    def holder(self, key: str) -> Entry | None:
        """Return the entry that stands first for a key, if it is in use."""
        queue = self._queues.get(key)
        return queue.holder if queue is not None else None

    def start(self, key: str, entry: Entry) -> bool:
        """Return whether an entry that comes out of its lane is the one to start; the key is held from now on."""
        queue = self._queues.get(key)
        if queue is None or queue.holder is not entry or (queue.started and not queue.resumes):
            return False
        queue.started, queue.resumes = True, False
        return True

    def resume(self, key: str) -> None:
        """Let the holder of a key start once more; it holds the key all the while."""
        self._queues[key].resumes = True

    def release(self, key: str, entry: Entry) -> Entry | None:
        """Let go of a key and return the entry that may stand in its lane now, if one is in memory."""
        queue = self._queues.get(key)
        if queue is None or queue.holder is not entry:
            return None
        queue.started = False
        return self._next(key, queue)

    def _next(self, key: str, queue: KeyQueue) -> Entry | None:
        queue.holder = None
        if queue.waiting:
            self._parked -= 1
            queue.holder = heapq.heappop(queue.waiting)[2]
        elif queue.spilled:
            queue.missed = False
            self._feed(Shelf("key", key), 0)
        else:
            del self._queues[key]
        return queue.holder

    def fill(self, key: str, levels: Sequence[Sequence[Entry]], limit: int) -> Entry | None:
        """Take the entries of a key that were asked for, by level, and return the one that may stand in its lane.

        Where a level has `limit` entries there may be others behind them: what would go behind those is left out.
        """
        queue = self._queues[key]
        for entries in levels:
            for entry in entries:
                entry.rank = self._ranking.rank(entry.event.priority, entry.accepted)
        cuts = [entries[-1].order for entries in levels if len(entries) >= limit]
        cut = min(cuts, default=LAST)
        queue.spilled = bool(cuts) or queue.missed
        queue.last = max((one[:2] for one in queue.waiting), default=FIRST)
        for entries in levels:
            for entry in entries:
                if entry.order <= cut and not entry.held:
                    entry.held = True
                    self._park(queue, entry)
        return self._next(key, queue)
