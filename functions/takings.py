"""The day's takings: added up as orders are completed, and told when the shop closes, which is a schedule in runtime.toml."""

from typing import Any

from runtime import Event, Skip, function


@function(on=["order.completed", "shop.closed"], emits="day.ended")
def takings(event: Event, state: dict[str, float]) -> dict[str, Any] | None:
    """Keep the sum in `state`, which is durable; what a function that `emits` returns is an event, and None is none."""
    if event.type == "order.completed":
        state["orders"] = state.get("orders", 0) + 1
        state["total"] = round(state.get("total", 0) + event.data["charged"], 2)
        return None
    if not state:
        raise Skip("nothing was sold")
    day = dict(state)
    state.clear()
    return day
