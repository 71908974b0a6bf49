"""The sample system does what its README says, started by the README's own command."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from running import Running

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Start `make run` in a copy of the checkout that listens on free ports and shares the environment of the tests."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("Makefile", "pyproject.toml", "runtime.toml"):
        shutil.copy2(ROOT / name, folder / name)
    for name in ("functions", "plugins"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    binaries = folder / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "runtime").write_text(f'#!/bin/sh\nexec {sys.executable} -m runtime "$@"\n')
    (binaries / "runtime").chmod(0o755)
    (binaries / "python").symlink_to(sys.executable)
    (folder / ".venv" / "installed").touch()
    toml = folder / "runtime.toml"
    toml.write_text(toml.read_text() + '\n[admin]\nlisten = "127.0.0.1:0"\n')
    with Running(folder, ("env", "LISTEN=127.0.0.1:0", "make", "run")) as running:
        yield running


def order(sample: Running, path: str = "/orders", **data: object) -> httpx.Response:
    return httpx.post(f"{sample.web}{path}", content=json.dumps(data), headers={"content-type": "application/x-www-form-urlencoded"})


def test_an_order_is_answered_with_the_result_of_the_chain(sample: Running) -> None:
    answer = order(sample, id="7", item="tea", quantity=2)
    assert (answer.status_code, answer.json()) == (200, {"order": "7", "item": "tea", "charged": 8.4, "currency": "EUR", "shelf": "T"})


def test_it_is_whole_and_the_banner_names_what_was_loaded(sample: Running) -> None:
    line = subprocess.run(
        [sys.executable, "-m", "runtime", "check"], cwd=sample.folder, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert line == "ok: 6 functions in 6 files, 2 sources, 2 sinks"
    assert sample.banner["functions"] == "6 in 6 files, generation 1"
    assert sample.web.startswith("http://127.0.0.1:")


def test_branches_of_the_diamond_run_at_the_same_time_and_join(sample: Running) -> None:
    order(sample, id="diamond", item="cup")
    (event,) = (one for one in sample.api.get("/api/events?type=order.placed&limit=1").json()["events"])
    steps = {step["function"]: step for step in sample.api.get(f"/api/events/{event['uid']}").json()["steps"]}
    assert {step["status"] for step in steps.values()} == {"done"}
    assert steps["charge"]["started"] < steps["reserve"]["finished"]
    assert steps["reserve"]["started"] < steps["charge"]["finished"]
    assert steps["receipt"]["started"] >= max(steps["charge"]["finished"], steps["reserve"]["finished"])


def test_a_bad_order_is_refused_with_the_reason(sample: Running) -> None:
    answer = order(sample, id="8", item="gold")
    assert (answer.status_code, answer.json()["detail"]) == (422, 'there is no "gold" in the catalogue; there are coffee, cup, tea')
    assert order(sample, id="8", item="tea", quantity=0).json()["detail"] == "quantity is 1 or more, found 0"


def test_the_express_lane_is_urgent_and_the_bulk_lane_only_accepts(sample: Running) -> None:
    assert order(sample, "/orders/express", id="e", item="tea").status_code == 200
    answer = order(sample, "/orders/bulk", id="b", item="tea")
    assert (answer.status_code, set(answer.json())) == (202, {"id"})
    events = sample.api.get("/api/events?type=order.placed&limit=2").json()["events"]
    assert [event["priority"] for event in events] == [0, 9]


def test_everything_is_audited(sample: Running) -> None:
    order(sample, id="audited", item="coffee")
    end = time.monotonic() + 20
    while True:
        path = sample.folder / "out" / "audit.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        types = [line["type"] for line in lines if "audited" in (line["data"].get("id"), line["data"].get("order"))]
        if types == ["order.placed", "order.completed", "parcel.packed"]:
            return
        assert time.monotonic() < end, types
        time.sleep(0.02)


def test_what_is_sold_is_a_row_of_the_spreadsheet(sample: Running) -> None:
    order(sample, id="sold", item="cup", quantity=3)
    end = time.monotonic() + 20
    while True:
        path = sample.folder / "out" / "sales.csv"
        head, *rows = path.read_text().splitlines() if path.exists() else [""]
        if [row.partition(",")[2] for row in rows if ",sold," in row] == ["sold,cup,29.7,EUR"]:
            break
        assert time.monotonic() < end, rows
        time.sleep(0.02)
    assert head == "id,order,item,charged,currency"


def test_an_edit_is_live_on_the_next_request(sample: Running) -> None:
    file = sample.folder / "functions" / "receipts.py"
    file.write_text(file.read_text().replace('"shelf": reserve["shelf"],', '"shelf": reserve["shelf"], "thanks": True,'))
    end = time.monotonic() + 20
    while "thanks" not in order(sample, id="9", item="tea").json():
        assert time.monotonic() < end, sample.log
    file.write_text("def broken(:\n")
    while sample.api.get("/health").json()["status"] == "ok":
        assert time.monotonic() < end, sample.log
    assert sample.api.get("/health").json()["faults"][0]["where"] == "functions/receipts.py:1"
    assert order(sample, id="10", item="tea").json()["thanks"] is True


def test_it_stops_when_it_is_told_to(sample: Running) -> None:
    os.kill(sample.process.pid, 0)
    sample.stop()
    assert re.search(r"Traceback", sample.log) is None
