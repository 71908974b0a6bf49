"""The join: runs once both branches are done, and emits an event of its own."""

from typing import Any

from runtime import Context, function

from .orders import Order
from .payment import Charge
from .stock import Reservation


@function(after=["validate", "charge", "reserve"], emits="order.completed")
async def receipt(validate: Order, charge: Charge, reserve: Reservation, context: Context) -> dict[str, Any]:
    """Put together what the customer gets to see."""
    context.log.info("order %s is complete", validate.id)
    return {
        "order": validate.id,
        "item": validate.item,
        "charged": charge.amount,
        "currency": charge.currency,
        "shelf": reserve["shelf"],
    }
