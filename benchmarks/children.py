"""A process of its own for each measurement: nothing that one leaves behind slows the next down.

It has the loop and the garbage collector set as `runtime run` has them, for ours and for all others.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import uvloop

PATIENCE = 900.0  # seconds for one measurement
MISSING = 3  # exit code: a package is not installed


class ChildError(Exception):
    """Raised when a measurement cannot be made; the text says why: "not installed", or how it failed."""


def run(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of a module, async or not, in a child, and return what it returns; both ways by JSON.

    Raises:
        ChildError: a package that it imports is not installed, or it failed.
    """
    command = [sys.executable, "-m", "benchmarks.children", function.__module__, function.__qualname__, json.dumps(arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise ChildError(f"failed: not done after {PATIENCE:g} s") from None
    if done.returncode == MISSING:
        raise ChildError("not installed")
    if done.returncode:
        raise ChildError(f"failed: {(done.stderr.strip().splitlines() or [f'exit code {done.returncode}'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def child(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """Return a call that runs a function in a child."""
    return lambda: run(function, *arguments)


def settle_garbage() -> None:
    """Set the collector as `runtime run` does when it is ready."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def main(module: str, name: str, arguments: str) -> None:
    """Be the child."""
    function = getattr(import_module(module), name)
    settle_garbage()
    try:
        if inspect.iscoroutinefunction(function):
            with asyncio.Runner(loop_factory=uvloop.Loop) as runner:
                result = runner.run(function(*json.loads(arguments)))
        else:
            result = function(*json.loads(arguments))
    except ModuleNotFoundError as error:
        print(error, file=sys.stderr)
        sys.exit(MISSING)
    print(f"\n{json.dumps(result)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
