"""The order of all that waits: the lanes, and a heap of the places of their first entries."""

from __future__ import annotations

import heapq
from typing import Final

from runtime.flow.lanes import Lane

MANY_LANES: Final = 10_000  # when there are more, those that are empty are dropped


class Order:
    """The lanes by type and level; `heads` has the places `(rank, seq, lane)`, of which some are out of date."""

    def __init__(self) -> None:
        self.lanes: dict[tuple[str, int], Lane] = {}
        self.heads: list[tuple[float, int, Lane]] = []
        self._many = MANY_LANES

    def lane(self, type: str, level: int) -> Lane:
        """Return the lane of a type and level."""
        place = (type, level)
        lane = self.lanes.get(place)
        if lane is None:
            if len(self.lanes) >= self._many:
                self.lanes = {place: lane for place, lane in self.lanes.items() if lane or lane.more}
                self._many = max(MANY_LANES, 2 * len(self.lanes))
            lane = self.lanes[place] = Lane(type, level)
        return lane

    def offer(self, lane: Lane) -> None:
        """Let a lane take part in the order again."""
        head = lane.head()
        if head is not None:
            heapq.heappush(self.heads, (head.rank, head.seq, lane))

    def put_back(self, lane: Lane, rank: float) -> None:
        """Give a lane the place of its first entry; `rank` is that of the one it had before."""
        following = lane.head()
        if following is not None:
            heapq.heappush(self.heads, (following.rank, following.seq, lane))
        elif lane.loading:
            heapq.heappush(self.heads, (rank, lane.loaded, lane))  # where its next one can stand at best
