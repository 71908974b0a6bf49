"""`kill -9` at random moments under load: nothing that was accepted is lost, nothing is recorded twice, keys keep their order."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from faults import broken
from faults.ledger import Ledger, check, crash, project
from running import Running

SOAK = int(os.environ.get("SOAK_KILLS", "300"))  # a kill takes about a second


def survive(folder: Path, kills: int, seed: int) -> None:
    ledger = Ledger()
    crash(project(folder), ledger, kills, random.Random(seed))
    with Running(folder) as running:
        check(running, ledger)
        assert running.api.get("/health").json()["status"] == "ok"
        assert running.stop() == 0


@pytest.mark.timeout(180)
def test_fifteen_kills_under_load_lose_nothing_and_do_nothing_twice(tmp_path: Path) -> None:
    survive(tmp_path, kills=15, seed=random.randrange(10**6))


@pytest.mark.soak
@pytest.mark.timeout(20 * SOAK + 600)
def test_hundreds_of_kills_under_load_lose_nothing_and_do_nothing_twice(tmp_path: Path) -> None:
    survive(tmp_path, kills=SOAK, seed=random.randrange(10**6))


@pytest.mark.timeout(60)
def test_an_answer_before_the_commit_would_be_noticed(tmp_path: Path) -> None:
    ledger = Ledger()
    crash(project(tmp_path), ledger, 3, random.Random(1), broken.command("early"))
    with Running(tmp_path) as running, pytest.raises(AssertionError, match="accepted events are lost"):
        check(running, ledger)
