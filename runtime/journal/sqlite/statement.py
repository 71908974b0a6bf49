"""A statement of SQL for any number of rows, in one step for up to a thousand."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Final

import apsw

CACHED: Final = 16_384  # bytes of a text above which apsw compiles it each time
SIZES: Final = sorted({*(2**power for power in range(11)), *(3 * 2**power for power in range(9))})


class Statement:
    """A text with `(ROWS)` where a table of `width` columns stands, which are called `column1` and so on.

    There is a text for a few numbers of rows, so that each is compiled once; what is left of one is filled up with rows
    of NULL, which the text has to pass over.
    """

    def __init__(self, text: str, width: int) -> None:
        self.width = width
        row = f"({','.join('?' * width)})"
        texts = {size: text.replace("(ROWS)", f"(VALUES {','.join([row] * size)})") for size in SIZES}
        self._texts = {size: text for size, text in texts.items() if len(text) < CACHED}
        self._sizes = list(self._texts)

    def run(self, connection: apsw.Connection, rows: Sequence[tuple[Any, ...]], *more: object) -> Iterator[tuple[Any, ...]]:
        """Execute it, with further values behind the rows; return what it finds."""
        found: list[Iterator[tuple[Any, ...]]] = []
        most = self._sizes[-1]
        for begin in range(0, len(rows), most):
            part = rows[begin : begin + most]
            size = self._sizes[bisect_left(self._sizes, len(part))]
            filling = (None,) * (self.width * (size - len(part)))
            found.append(connection.execute(self._texts[size], (*chain.from_iterable(part), *filling, *more)))
        return chain.from_iterable(found)
