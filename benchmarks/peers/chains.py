"""Graphs of functions: runs per second of a chain, and of a diamond (one function, then some that come together in a last one)."""

from __future__ import annotations

import os
import tempfile
import time
from typing import Any


def shape(kind: str, size: int) -> dict[str, list[str]]:
    """Return by function what it comes after, in topological order: of a `chain` or a `diamond` of so many functions."""
    names = [f"f{number}" for number in range(size)]
    if kind == "chain":
        return {name: names[number - 1 : number] if number else [] for number, name in enumerate(names)}
    return {names[0]: [], **dict.fromkeys(names[1:-1], names[:1]), names[-1]: names[1:-1]}


def hamilton(kind: str, size: int, count: int) -> float:
    """Run a driver of Hamilton for the last function; parameters are named after the functions they come from."""
    os.environ["HAMILTON_TELEMETRY_ENABLED"] = "false"
    from hamilton import ad_hoc_utils, driver

    functions: dict[str, Any] = {}
    for name, after in shape(kind, size).items():
        names = after or ["data"]
        exec(f"def {name}({', '.join(f'{one}: dict' for one in names)}) -> dict: return {names[0]}", functions)
    module = ad_hoc_utils.create_temporary_module(*(functions[name] for name in shape(kind, size)))
    last = f"f{size - 1}"
    built = driver.Builder().with_modules(module).build()
    began = time.perf_counter()
    for number in range(count):
        built.execute([last], inputs={"data": {"n": number}})
    return count / (time.perf_counter() - began)


async def prefect(steps: int, count: int) -> float:
    """Run a flow of tasks one after another, on the server that Prefect starts when none is configured."""
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        os.environ |= {"PREFECT_HOME": folder, "PREFECT_LOGGING_LEVEL": "CRITICAL", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        from prefect import flow, task

        @task
        async def step(data: Any) -> Any:
            return data

        @flow
        async def chain(data: dict[str, Any]) -> Any:
            for _ in range(steps):
                data = await step(data)
            return data

        await chain({"n": 0})
        began = time.perf_counter()
        for number in range(count):
            await chain({"n": number})
        return count / (time.perf_counter() - began)
