"""For tests: a harness that runs functions on a virtual clock, and the suites every implementation of a contract passes.

A suite is a class of tests to inherit from: `class TestMine(JournalSuite)` with the method that makes the
implementation. They need pytest with pytest-asyncio in auto mode. Each part is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from runtime.testing.clock import START, VirtualClock

if TYPE_CHECKING:
    from runtime.testing.executors import ExecutorSuite, SuiteCall
    from runtime.testing.harness import Harness, HarnessClock
    from runtime.testing.journals import JournalSuite, entry
    from runtime.testing.sinks import SinkSuite
    from runtime.testing.sources import SourceSuite

_PLACES = {
    "ExecutorSuite": "executors",
    "Harness": "harness",
    "HarnessClock": "harness",
    "JournalSuite": "journals",
    "SinkSuite": "sinks",
    "SourceSuite": "sources",
    "SuiteCall": "executors",
    "entry": "journals",
}

__all__ = [
    "START",
    "ExecutorSuite",
    "Harness",
    "HarnessClock",
    "JournalSuite",
    "SinkSuite",
    "SourceSuite",
    "SuiteCall",
    "VirtualClock",
    "entry",
]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(f"runtime.testing.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
