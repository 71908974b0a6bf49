"""What of a text of others is shown to people: it may be endless, and repeat the secrets that it was sent."""

from __future__ import annotations

from collections.abc import Iterable

SHOWN = 300  # characters of a text in a message


def parts_of(values: Iterable[str]) -> list[str]:
    """Return values that are secrets, and what follows a word like `Bearer` in one."""
    return [part for value in values for part in (value, value.rpartition(" ")[2])]


def shown(text: str, secrets: Iterable[str]) -> str:
    """Return the beginning of a text of others, on one line and without secrets.

    What is shorter than four characters stays, as it would strike out all and sundry.
    """
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) > 3:
            text = text.replace(secret, "***")
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
