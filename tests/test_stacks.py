"""Where threads are."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from faults.ledger import until

from runtime.stacks import line_of


@contextmanager
def waiting(wait: Callable[[queue.Queue[int]], object]) -> Iterator[int]:
    """Run something in a thread that waits for a queue, until the end of the block."""
    numbers: queue.Queue[int] = queue.Queue()
    thread = threading.Thread(target=wait, args=(numbers,), daemon=True)
    thread.start()
    assert thread.ident is not None
    yield thread.ident
    numbers.put(1)
    thread.join()


def helper(numbers: queue.Queue[int]) -> int:
    return numbers.get()


def outer(numbers: queue.Queue[int]) -> int:
    return helper(numbers) + 1


def test_the_function_is_the_outermost_and_the_line_the_innermost_of_the_user() -> None:
    with waiting(outer) as thread:
        until(lambda: line_of(thread) == ("outer", f"tests/test_stacks.py:{helper.__code__.co_firstlineno + 1}"))


def test_without_code_of_the_user_it_is_the_line_in_the_library() -> None:
    with waiting(queue.Queue.get) as thread:
        until(lambda: (found := line_of(thread)) is not None and found[0] == "wait" and "threading.py:" in found[1])


def test_a_thread_that_has_ended_is_nowhere() -> None:
    with waiting(outer) as thread:
        pass
    assert line_of(thread) is None
