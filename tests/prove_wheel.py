"""Proves the wheel: build it, install it into a fresh venv, and run a project from outside the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

FUNCTION = """
from runtime import function

@function(on="greeting")
async def greet(data: str) -> str:
    return f"hello {data}"
"""

CONFIG = """
[sources.lines]
plugin = "jsonl"
path = "in.jsonl"
type = "greeting"
[sinks.out]
plugin = "jsonl"
path = "out/greetings.jsonl"
[admin]
listen = "127.0.0.1:0"
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command to its end and return what it printed; its failure is ours."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\nexit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def main() -> None:
    """Build, install, run."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        run(sys.executable, "-m", "build", "--wheel", "--outdir", place / "dist", ROOT, cwd=place)
        (wheel,) = (place / "dist").glob("*.whl")
        venv.create(place / "venv", with_pip=True)
        runtime = place / "venv" / "bin" / "runtime"
        run(place / "venv" / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel, cwd=place)
        project = place / "project"
        (project / "functions").mkdir(parents=True)
        (project / "functions" / "greetings.py").write_text(FUNCTION)
        (project / "runtime.toml").write_text(CONFIG)
        (project / "in.jsonl").write_text('"you"\n"all"\n')
        run(runtime, "check", cwd=project)
        assert json.loads(run(runtime, "invoke", "greet", "--data", '"you"', cwd=project)) == "hello you"
        run(runtime, "run", "--once", cwd=project)
        lines = [json.loads(line) for line in (project / "out" / "greetings.jsonl").read_text().splitlines()]
        assert [(line["type"], line["data"]) for line in lines] == [("greeting", "you"), ("greeting", "all")], lines
    print(f"{wheel.name}: built, installed and run")  # noqa: T201 - a command tells what it did


if __name__ == "__main__":
    main()
