"""Proves the wheel: build it, follow the README in a fresh venv away from the checkout, and add a package with a plugin."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from running import Running

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
SDIST = {"LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg"}
JUNK = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".hypothesis", ".runtime", "__pycache__", "*.egg-info", "build", "dist", "out")

PROJECT = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "beats"
version = "1.0"
dependencies = ["function-runtime"]

[project.entry-points."runtime.plugins"]
beats = "beats"

[tool.setuptools]
py-modules = ["beats"]
"""

PLUGIN = '''
from runtime import Event, Source, hookimpl


class Beats(Source):
    """Brings three beats."""

    async def run(self, inlet):
        await inlet.put([Event(type="beat", source="beats", data=number) for number in range(3)])


@hookimpl
def register_sources():
    return {"beats": Beats}
'''

CONFIG = """
[sources.heart]
plugin = "beats"
[sinks.out]
plugin = "jsonl"
path = "beats.jsonl"
[admin]
listen = "127.0.0.1:0"
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command to its end and return what it printed; its failure is ours."""
    ours = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=ours, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\nexit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def build(place: Path) -> Path:
    """Build the sdist of a copy of the checkout and, from that, the wheel, and look at what both contain."""
    shutil.copytree(ROOT, place / "checkout", ignore=JUNK)
    run(sys.executable, "-m", "build", "--outdir", place / "dist", place / "checkout", cwd=place)
    (wheel,) = (place / "dist").glob("*.whl")
    (sdist,) = (place / "dist").glob("*.tar.gz")
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "runtime").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    plugins = {f"plugins/{path.name}" for path in (ROOT / "plugins").glob("*.py")}
    functions = {f"functions/{path.name}" for path in (ROOT / "functions").glob("*.py")}
    sample = {".gitignore", "runtime.toml", "plugins/spreadsheet.py", "tests/functions/test_orders.py"} | functions
    with zipfile.ZipFile(wheel) as archive:
        there = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert any(name.endswith("/licenses/LICENSE") for name in archive.namelist()), "the wheel has no LICENSE"
    expect(wheel, there, sources | {f"runtime_{name}" for name in plugins} | {f"runtime_sample/{name}" for name in sample})
    with tarfile.open(sdist) as archive:
        names = {one.name.partition("/")[2] for one in archive.getmembers() if one.isfile() and ".egg-info/" not in one.name}
    expect(sdist, names, sources | plugins | sample | SDIST)
    return wheel


def expect(archive: Path, found: set[str], expected: set[str]) -> None:
    """End with what an archive lacks and what it should not have, when there is any."""
    if found != expected:
        sys.exit(f"{archive.name}: missing {sorted(expected - found)}, not expected {sorted(found - expected)}; see [tool.setuptools]")


def follow_the_readme(place: Path, wheel: Path) -> Path:
    """Run the commands of the README's start as they stand, but for the name of the package, and return the new project."""
    (block,) = re.findall(r"^```sh\n(.*?^runtime new .*?)^runtime run\n```$", README, re.MULTILINE | re.DOTALL)
    (place / "python3").symlink_to(sys.executable)
    commands = block.replace("pip install function-runtime", f"pip install --quiet --disable-pip-version-check {wheel} pytest")
    assert str(wheel) in commands
    *_, folder = run("bash", "-ec", f'PATH="{place}:$PATH"\n{commands}pwd', cwd=place).split()
    return Path(folder)


def try_the_project(project: Path, binaries: Path) -> None:
    """Check, test and run the new project, order what the README orders, and stop it."""
    run(binaries / "runtime", "check", cwd=project)
    run(binaries / "pytest", cwd=project)
    with (project / "runtime.toml").open("a") as file:
        file.write('\n[admin]\nlisten = "127.0.0.1:0"\n')
    command = ("env", "-u", "PYTHONPATH", "LISTEN=127.0.0.1:0", str(binaries / "runtime"), "run")
    (curl,) = re.findall(r"^curl -d .* 127\.0\.0\.1:8080/orders$", README, re.MULTILINE)
    (answer,) = re.findall(r"^It answers with the result of the run: `(.*)`\.$", README, re.MULTILINE)
    with Running(project, command) as running:
        ordered = run("sh", "-c", curl.replace("127.0.0.1:8080", running.web.removeprefix("http://")), cwd=project)
        assert ordered == answer, ordered
        events = json.loads(run(binaries / "runtime", "events", "--json", "--url", running.banner["admin"], cwd=project))["events"]
        assert {"order.placed", "order.completed"} <= {event["type"] for event in events}, events
        code = running.stop()
        assert code == 0, running.log
    assert "tea,8.4,EUR" in (project / "out" / "sales.csv").read_text()


def try_a_package_with_a_plugin(place: Path, binaries: Path) -> None:
    """Install a wheel that offers a source of its own, and use that."""
    package, project = place / "package", place / "heart"
    package.mkdir()
    (project / "functions").mkdir(parents=True)
    (package / "pyproject.toml").write_text(PROJECT)
    (package / "beats.py").write_text(PLUGIN)
    (project / "runtime.toml").write_text(CONFIG)
    run(binaries / "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", place / "dist", package, cwd=place)
    run(binaries / "pip", "install", "--quiet", "--no-index", place / "dist" / "beats-1.0-py3-none-any.whl", cwd=place)
    listed = json.loads(run(binaries / "runtime", "plugins", "--json", cwd=project))["plugins"]
    assert [(kind["role"], kind["doc"]) for kind in listed if kind["name"] == "beats"] == [("source", "Brings three beats.")], listed
    run(binaries / "runtime", "run", "--once", cwd=project)
    assert [json.loads(line)["data"] for line in (project / "beats.jsonl").read_text().splitlines()] == [0, 1, 2]


def main() -> None:
    """Build, install, use."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        wheel = build(place)
        binaries = place / ".venv" / "bin"
        try_the_project(follow_the_readme(place, wheel), binaries)
        try_a_package_with_a_plugin(place, binaries)
    print(f"{wheel.name}: built, installed and run")  # noqa: T201 - a command tells what it did


if __name__ == "__main__":
    main()
