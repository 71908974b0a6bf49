"""One branch after `validate`: the money."""

import asyncio

import msgspec

from runtime import Context, function

from ._catalogue import price
from .orders import Order


class Charge(msgspec.Struct):
    """What was paid."""

    amount: float
    currency: str
    reference: str


@function(after="validate", retries=5, timeout=10)
async def charge(validate: Order, context: Context) -> Charge:
    """Charge the customer; the idempotency key makes a repeated attempt harmless at the bank."""
    await asyncio.sleep(0.01)  # a bank is slow
    currency = context.settings.get("currency", "EUR")
    return Charge(price(validate.item, validate.quantity), currency, context.idempotency_key)
