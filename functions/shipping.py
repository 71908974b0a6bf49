"""What happens after an order is complete: a run of its own, started by the event `order.completed`."""

from typing import Any

from runtime import function


@function(on="order.completed", emits="parcel.packed")
async def pack(data: dict[str, Any], state: dict[str, int]) -> dict[str, Any]:
    """Pack a parcel and number it; `state` is durable, and a function that takes it runs one at a time."""
    state["parcels"] = state.get("parcels", 0) + 1
    return {"order": data["order"], "parcel": state["parcels"]}
