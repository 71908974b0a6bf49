"""The last good sources, kept so that a restart on a broken folder has something to run.

Each text is a file that is called by its sha256, and one list says which text stands at which path. The list is
replaced in one step when all it names is on disk, so that a crash at any moment leaves the last good sources or the
new ones; a text that is not what its name says makes all of it worthless.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import msgspec

LIST = "sources.json"


class Kept:
    """The sources kept below `top`, for the folder that the configuration calls `functions`; blocks."""

    def __init__(self, top: Path, functions: str) -> None:
        self._folder = top / "kept" / quote(functions, safe="")
        self._digests: dict[str, str] | None = None

    def save(self, sources: Mapping[str, bytes]) -> None:
        """Keep texts by relative path instead of those before; nothing is written when they are the same.

        Raises:
            OSError: they cannot be written; what was kept before still is.
        """
        digests = {name: _digest(text) for name, text in sources.items()}
        if self._digests is None and (before := self.restore()) is not None:
            self._digests = {name: _digest(text) for name, text in before.items()}
        if digests == self._digests:
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        there = set(os.listdir(self._folder)) if self._digests is not None else set()  # noqa: PTH208 - names are enough
        for name, digest in digests.items():
            if digest not in there:
                self._write(digest, sources[name])
        self._sync()  # the list must not be there before what it names
        self._write(LIST, msgspec.json.encode(digests, order="sorted"))
        self._sync()  # nor the old ones be gone before the list
        self._digests = digests
        for name in set(os.listdir(self._folder)) - {LIST, *digests.values()}:  # noqa: PTH208
            (self._folder / name).unlink(missing_ok=True)

    def restore(self) -> dict[str, bytes] | None:
        """Return the texts by relative path; None when there are none, or they are not as they were written."""
        try:
            digests = msgspec.json.decode((self._folder / LIST).read_bytes(), type=dict[str, str])
            sources = {name: (self._folder / digest).read_bytes() for name, digest in digests.items()}
        except (OSError, ValueError):
            return None
        whole = sources and all(_digest(text) == digests[name] for name, text in sources.items())
        return sources if whole else None

    def _sync(self) -> None:
        """Have the names in the folder on disk."""
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _write(self, name: str, content: bytes) -> None:
        """Put a file in its place when all of it is on disk."""
        new = self._folder / f".{name}.{os.getpid()}"
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._folder / name)


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()
