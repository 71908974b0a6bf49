"""What happens after an order is complete: its own run, started by the event `order.completed`."""

from typing import Any

from runtime import function


@function(on="order.completed", emits="parcel.packed", concurrency=4)
async def pack(data: dict[str, Any], state: dict[str, int]) -> dict[str, Any]:
    """Pack a parcel and number it; `state` is durable."""
    state["parcels"] = state.get("parcels", 0) + 1
    return {"order": data["order"], "parcel": state["parcels"]}
