"""The sample's own connector: rows that a spreadsheet opens."""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from runtime_plugins.spreadsheet import Spreadsheet, register_sinks

from runtime import Event, Reject

COLUMNS = ["order", "item"]


def event(id: str, **data: Any) -> Event:
    return Event(type="order.completed", source="test", id=id, data=data)


def made(folder: Path) -> Spreadsheet:
    sink = Spreadsheet("sales", msgspec.convert({"path": "out/sales.csv", "columns": COLUMNS}, Spreadsheet.Options))
    sink.folder = folder
    return sink


def rows(folder: Path) -> list[list[str]]:
    with (folder / "out" / "sales.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.fixture
async def sink(tmp_path: Path) -> AsyncIterator[Spreadsheet]:
    sink = made(tmp_path)
    await sink.open()
    yield sink
    await sink.close()


async def test_each_event_is_a_row_of_the_named_fields(sink: Spreadsheet, tmp_path: Path) -> None:
    await sink.write([event("1", order="7", item="tea", more="is left out"), event("2", item='a "cup",\nwhite')])
    assert rows(tmp_path) == [["id", *COLUMNS], ["1", "7", "tea"], ["2", "", 'a "cup",\nwhite']]


async def test_a_file_that_is_there_is_gone_on_with_under_one_heading(sink: Spreadsheet, tmp_path: Path) -> None:
    await sink.write([event("1", order="7")])
    again = made(tmp_path)
    await again.open()
    await again.write([event("2", order="8")])
    await again.close()
    assert [row[0] for row in rows(tmp_path)] == ["id", "1", "2"]


async def test_data_without_fields_is_refused_for_good(sink: Spreadsheet) -> None:
    with pytest.raises(Reject, match=r"^expected data with the fields order, item, found none$"):
        await sink.write([Event(type="order.completed", source="test", id="1", data=7)])


def test_it_is_offered_under_its_name() -> None:
    assert register_sinks() == {"spreadsheet": Spreadsheet}
