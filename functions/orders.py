"""Orders are checked first; what else happens to them stands in the other files."""

import msgspec

from functions._catalogue import PRICES
from runtime import Reject, function


class Order(msgspec.Struct):
    """What a customer asks for."""

    id: str
    item: str = "tea"
    quantity: int = 1


@function(on="order.placed")
def validate(order: Order) -> Order:
    """Let only orders pass that can be fulfilled."""
    if order.item not in PRICES:
        raise Reject(f'there is no "{order.item}" in the catalogue; there are {", ".join(sorted(PRICES))}')
    if order.quantity < 1:
        raise Reject(f"quantity is 1 or more, found {order.quantity}")
    return order
