"""`invoke` calls functions once, in this process, and sends nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from runtime import LoadError, config
from runtime.invoke import Invocation, invoke

FUNCTIONS = """
import msgspec
from runtime import Reject, Skip, function, resource

class Order(msgspec.Struct):
    id: str
    total: float = 1.0

@function(on="order.placed")
def validate(order: Order) -> Order:
    if order.total < 0:
        raise Reject("no negative totals")
    return order

@function(after="validate", emits="order.charged")
async def charge(validate: Order, context) -> dict:
    context.emit("audit", {"order": validate.id})
    return {"amount": validate.total}

@function(after=["validate", "charge"])
async def receipt(validate: Order, charge: dict) -> str:
    return f"{validate.id}: {charge['amount']}"

@function
async def alone(data: int) -> int:
    raise Skip("not needed")

@resource
async def ledger(settings, shelf):
    yield [settings["name"], shelf]
    CLOSED.append("ledger")

@resource
def shelf():
    yield "A"
    CLOSED.append("shelf")

@function(on="goods.counted")
async def count(data: int, ledger: list) -> list:
    return [*ledger, data]

@function(after="count")
def recount(count: list, ledger: list) -> list:
    return [len(CLOSED), *count]

@resource
async def broken():
    raise OSError("refused")

@function
async def fail(data: int, broken) -> None: ...

@function(timeout=0.01)
async def slow(data: int) -> None:
    import asyncio
    await asyncio.Event().wait()
"""


async def call(folder: Path, name: str | None, data: Any, **more: Any) -> Invocation:
    (folder / "functions").mkdir(exist_ok=True)
    (folder / "functions" / "orders.py").write_text(FUNCTIONS)
    return await invoke(config.load(folder / "runtime.toml"), name, data, **more)


async def test_one_function_is_called_with_the_data(tmp_path: Path) -> None:
    done = await call(tmp_path, "validate", {"id": "7"})
    assert (done.result, done.emitted, done.failed) == ({"id": "7", "total": 1.0}, [], None)


async def test_a_function_after_one_other_is_given_its_result_and_after_several_an_object(tmp_path: Path) -> None:
    done = await call(tmp_path, "charge", {"id": "7", "total": 3})
    assert done.result == {"amount": 3.0}
    assert [(event.type, event.data) for event in done.emitted] == [("audit", {"order": "7"}), ("order.charged", {"amount": 3.0})]
    done = await call(tmp_path, "receipt", {"validate": {"id": "7"}, "charge": {"amount": 2}})
    assert done.result == "7: 2"
    with pytest.raises(LoadError) as failure:
        await call(tmp_path, "receipt", {"validate": {"id": "7"}})
    assert str(failure.value) == (
        'invoke: "receipt" comes after several functions: give their results as data, {"validate": …, "charge": …}'
    )


async def test_a_whole_plan_is_run_by_type(tmp_path: Path) -> None:
    done = await call(tmp_path, None, {"id": "7", "total": 5}, type="order.placed")
    assert done.result == "7: 5.0"
    assert [event.type for event in done.emitted] == ["audit", "order.charged"]


async def test_failures_are_told_and_skips_are_none(tmp_path: Path) -> None:
    done = await call(tmp_path, None, {"id": "7", "total": -5}, type="order.placed")
    assert done.failed == '"validate" failed: Reject: no negative totals'
    assert "orders.py" in done.traceback
    assert (await call(tmp_path, "alone", 1)).result is None
    assert (await call(tmp_path, "slow", 1)).failed == '"slow" failed: StepTimeout: "slow" took longer than 0.01 s'
    misfit = await call(tmp_path, "validate", {"id": 7})
    assert misfit.failed == (
        '"validate" failed: DataError: parameter "order" of "validate" does not fit: Expected `str`, got `int` - at `$.id`'
    )


async def test_unknown_names_and_types_are_told(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match='there is no function "chrage" \\(did you mean "charge"\\?\\)'):
        await call(tmp_path, "chrage", None)
    with pytest.raises(LoadError, match='no function handles events of type "nothing"'):
        await call(tmp_path, None, None, type="nothing")


async def test_resources_are_opened_when_they_are_needed_and_closed_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    monkeypatch.setattr("builtins.CLOSED", closed, raising=False)
    (tmp_path / "runtime.toml").write_text('[resources.ledger]\nname = "main"\n')
    done = await call(tmp_path, None, 3, type="goods.counted")
    assert done.result == [0, "main", "A", 3], "kept from one step to the next"
    assert closed == ["ledger", "shelf"]
    failed = (await call(tmp_path, "fail", 1)).failed
    assert failed is not None
    assert failed.startswith('"fail" failed: ResourceError: the resource "broken" (functions/orders.py:')
    assert failed.endswith(") could not be opened: OSError: refused")


async def test_a_command_is_called_like_any_function_and_its_process_ends(tmp_path: Path) -> None:
    command = 'echo $$ >> pids; read -r line; echo \'{"emit": [{"type": "noted", "data": 1}]}\'; read -r line'
    (tmp_path / "runtime.toml").write_text(f"[functions.note]\ncommand = ['sh', '-c', \"\"\"{command}\"\"\"]\nafter = 'validate'\n")
    done = await call(tmp_path, "note", {"id": "7"})
    assert (done.failed, done.result, [event.type for event in done.emitted]) == (None, None, ["noted"])
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pids").read_text()), 0)
