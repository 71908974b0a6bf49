"""What the shop sells. A helper: files whose name begins with `_` declare no functions."""

PRICES = {"tea": 4.20, "coffee": 6.50, "cup": 9.90}


def price(item: str, quantity: int) -> float:
    """Return what `quantity` pieces of an item cost, rounded to cents."""
    return round(PRICES[item] * quantity, 2)
