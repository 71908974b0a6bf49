"""A folder whose functions tell what they were made from, and the states it can be in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

HELPER = "STAMP = {}\n"

FIRST = """
import asyncio

from functions._version import STAMP
from runtime import function


@function(on="chain")
async def first(data: dict) -> list:
    await asyncio.sleep(data["pause"])
    return [{}, STAMP]
"""

SECOND = """
import asyncio

from functions import _version
from runtime import Context, function


@function(after="first", backoff=0.1)
async def second(first: list, data: dict, context: Context) -> list:
    await asyncio.sleep(data["pause"])
    if context.attempt <= data["failures"]:
        raise OSError("not now")
    return [{}, _version.STAMP]
"""

THIRD = """
import time

from runtime import function


@function(after=["first", "second"])
def third(first: list, second: list, data: dict) -> list:
    from functions._version import STAMP
    time.sleep(data["pause"])
    return [{}, STAMP]
"""

ALONE = """
import asyncio

from runtime import function


@function(on="alone")
async def alone(data: dict) -> list:
    await asyncio.sleep(data["pause"])
    return [{}, 0]
"""

TEXTS = {"_version": HELPER, "first": FIRST, "second": SECOND, "third": THIRD, "alone": ALONE}
NEEDS = {"first": {"_version"}, "second": {"_version", "first"}, "third": {"first", "second"}}
ROOTS = {"chain": "first", "alone": "alone"}
PLAIN = "{text}"
SLOW = "import time\ntime.sleep(0.15)\n{text}"
BREAKAGES = {
    "syntax": "def broken{stamp}(:\n{text}",
    "import": "import nothing_{stamp}\n{text}",
    "raise": "raise RuntimeError({stamp})\n{text}",
    "half": "{text}\nHALF = [{stamp},\n",
}


@dataclass(frozen=True)
class File:
    """What a file says; `stamp` tells its saves apart."""

    role: str
    stamp: int
    frame: str = PLAIN

    @property
    def text(self) -> str:
        return self.frame.format(stamp=self.stamp, text=TEXTS[self.role].format(self.stamp))

    @property
    def is_broken(self) -> bool:
        return self.frame in BREAKAGES.values()


State = Mapping[str, File]


def stamps(state: State) -> dict[str, int]:
    """Return the stamp of each role that has a file."""
    return {file.role: file.stamp for file in state.values()}


def lacking(state: State) -> set[str]:
    """Return the paths of files without what they need."""
    return {path for path, file in state.items() if not NEEDS.get(file.role, set()) <= stamps(state).keys()}


def is_good(state: State) -> bool:
    return not lacking(state) and not any(file.is_broken for file in state.values())


def digests(state: State) -> dict[str, str]:
    return {path: hashlib.sha256(file.text.encode()).hexdigest() for path, file in state.items()}


def handles(state: State, type: str) -> bool:
    return ROOTS[type] in stamps(state)


def told(state: State, function: str) -> list[int] | None:
    """Return the result of a function in this state; None when it is not there."""
    stamp = stamps(state)
    if function not in stamp:
        return None
    return [stamp[function], 0 if function == "alone" else stamp["_version"]]
