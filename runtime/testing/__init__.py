"""For tests: a virtual clock, and the suites every implementation of a contract passes.

A suite is a class of tests to inherit from: `class TestMine(JournalSuite)` with the method that makes the
implementation. They need pytest with pytest-asyncio in auto mode.
"""

from __future__ import annotations

from runtime.testing.clock import START, VirtualClock
from runtime.testing.journals import JournalSuite, entry

__all__ = ["START", "JournalSuite", "VirtualClock", "entry"]
