"""Orders from beginning to end: `harness` runs the project in the test, with a clock that moves when the test says so."""

import pytest

from runtime import RunFailed
from runtime.testing import Harness


def test_an_order_is_completed_packed_and_put_into_the_books(harness: Harness) -> None:
    harness.emit("order.placed", {"id": "7", "item": "tea", "quantity": 2})
    [completed] = harness.events("order.completed")
    assert completed.data == {"order": "7", "item": "tea", "charged": 8.4, "currency": "EUR", "shelf": "T"}
    [packed] = harness.events("parcel.packed")
    assert packed.data == {"order": "7", "parcel": 1}
    assert [event.id for event in harness.delivered("sales")] == [completed.id]


def test_an_order_that_cannot_be_fulfilled_is_refused(harness: Harness) -> None:
    with pytest.raises(RunFailed, match='there is no "gold" in the catalogue'):
        harness.call("order.placed", {"id": "8", "item": "gold"})
    assert harness.events("order.completed") == []


def test_the_takings_are_told_when_the_shop_closes(harness: Harness) -> None:
    for id in ("9", "10"):
        harness.emit("order.placed", {"id": id, "item": "coffee"})
    harness.clock.advance(24 * 3600)
    [day] = harness.events("day.ended")
    assert day.data == {"orders": 2, "total": 13.0}
