from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks import results

ROOT = Path(__file__).parents[2]


def test_a_subject_is_measured_shown_and_kept_beside_others(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    first = results.read(results.KEPT)["graph"]
    results.keep(file, {"graph": first})
    command = [sys.executable, "-m", "benchmarks", "crowd", "--json", str(file)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "goal < 20" in said
    found = results.read(file)
    assert found["graph"] == first
    (row,) = found["crowd"].rows
    assert len(row.values) == 200
    assert found["crowd"].versions["Python"].startswith("3.")


def test_an_unknown_subject_is_refused_with_those_there_are() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks", "speed"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no speed; there are memory, sqlite, latency" in done.stderr
