"""The behaviours that the suite of executors asks for, as the text of a file of functions."""

from __future__ import annotations

from pathlib import Path

from runtime import config
from runtime.graph import Graph
from runtime.loading.loader import load_graph

BEHAVIOURS = """
import asyncio, os, time
from pathlib import Path
from runtime import Context, Reject, Skip, function, resource

deeper = lambda: int("no luck")

@function(on="go")
def first(data): return data

@function(on="go")
def echo(data): return data

@function(after="first")
def after(first): return first

@function(on="go")
def fail(data): deeper()

@function(on="go")
def skip(data): raise Skip("not needed")

@function(on="go")
def reject(data): raise Reject("not you", status=409)

@function(on="go")
def emit(data: list, context: Context):
    for n in data:
        context.emit("noted", {"n": n}, key="k", priority=7, delay=5)

@function(on="go")
def large(data: int): return "x" * data

@function(on="go")
def hang(data):
    for _ in range(1000):
        time.sleep(0.03)

@function(on="go")
def wait(data):
    while not Path(data).exists():
        time.sleep(0.01)
    return "old"

@function(on="go")
def die(data): os._exit(3)

@function(on="go")
def misfit(data: int): return data

@function(on="go", emits="noted")
def generate(data: list):
    for n in data:
        yield n

@function(on="go")
def context(data, context: Context):
    return {"attempt": context.attempt, "key": context.idempotency_key, "settings": dict(context.settings)}

@function(on="go")
def state(data: int, state: dict):
    state["n"] = state.get("n", 0) + data
    return state["n"]
"""

SHARED = """
@resource
def shelf(): return "A"

@function(on="go", name="resource")
def takes(data, shelf): return shelf
"""
"""What shares something with other calls, and so cannot be in a process of its own."""

REPLACED = """
from runtime import function

@function(on="go")
def wait(data): return "new"
"""

SETTINGS = '[functions.context.settings]\ncurrency = "EUR"\n'


def asynchronous(text: str) -> str:
    """Return behaviours as async functions."""
    return text.replace("def ", "async def ").replace("time.sleep", "await asyncio.sleep")


def behaving(folder: Path, text: str, tables: str = "") -> Graph:
    """Return the graph of a folder with this one file of functions and these tables of `runtime.toml`."""
    (folder / "functions").mkdir(parents=True, exist_ok=True)
    (folder / "functions" / "behaviours.py").write_text(text)
    (folder / "runtime.toml").write_text(tables)
    return load_graph(config.load(folder / "runtime.toml"))
