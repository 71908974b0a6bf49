"""The pytest plugin that comes with the package: the fixture `harness` and its marker.

pytest imports it in every project where the package is installed, so that it imports the runtime only when a test
asks for the fixture.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from runtime.testing.harness import Harness

NAME = "runtime.toml"


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", "harness(config=…, sources=[…], sinks=[…], patience=…): arguments for the fixture `harness`")


@pytest.fixture
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    """Run the project around the test file: the nearest folder upwards with a `runtime.toml`, or the root of the tests."""
    from runtime.testing.harness import Harness  # noqa: PLC0415 - only the tests that use it pay for it

    given: dict[str, Any] = {}
    for marker in request.node.iter_markers("harness"):
        given = {**marker.kwargs, **given}  # the nearest one counts
    folder = project_of(request.path.parent, request.config.rootpath, given.get("config", NAME))
    with Harness(folder, **given) as harness:
        yield harness


def project_of(folder: Path, root: Path, config: str) -> Path:
    """Return the nearest folder that has the configuration, from `folder` upwards to `root`; that one when none has."""
    for place in (folder, *folder.parents):
        if (place / config).is_file():
            return place
        if place == root:
            break
    return root
