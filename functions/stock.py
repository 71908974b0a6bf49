"""The other branch after `validate`: the goods. It runs while `charge` does."""

import time
from typing import TypedDict

from runtime import function

from .orders import Order


class Reservation(TypedDict):
    """Where the goods lie."""

    shelf: str
    quantity: int


@function(after="validate")
def reserve(validate: Order) -> Reservation:
    """Reserve the goods; a plain `def` runs in a thread, so it may block."""
    time.sleep(0.01)
    return {"shelf": validate.item[0].upper(), "quantity": validate.quantity}
