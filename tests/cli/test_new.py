"""`runtime new`: the sample of this repository becomes a project of one's own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from running import COMMAND, Running, run

from runtime.cli import main
from runtime.cli import new as module
from runtime.cli.new import ORDER, sample

ROOT = Path(__file__).resolve().parent.parent.parent


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_writes_the_files_that_the_repository_runs(tmp_path: Path) -> None:
    done = run(tmp_path, "new", "shop")
    assert (done.returncode, done.stderr) == (0, "")
    written = files_of(tmp_path / "shop")
    assert {name: (ROOT / name).read_bytes() for name in written if not name.startswith("tests/")} == {
        name: text for name, text in written.items() if not name.startswith("tests/")
    }
    assert {path.name for path in (ROOT / "functions").glob("*.py")} == {path.name for path in (tmp_path / "shop" / "functions").iterdir()}
    assert {"runtime.toml", ".gitignore", "plugins/spreadsheet.py", "tests/test_orders.py"} < written.keys()


def test_it_tells_what_to_do_next_as_the_readme_does(tmp_path: Path) -> None:
    done = run(tmp_path, "new", "my shop")
    assert done.stdout.startswith(f"Made my shop with {len(list(sample()))} files. Now:\n\n  cd 'my shop'\n  runtime run\n")
    assert f"\n  {ORDER}\n" in done.stdout
    assert f"\n{ORDER}\n" in (ROOT / "README.md").read_text()
    assert f"#   {ORDER}\n" in (tmp_path / "my shop" / "runtime.toml").read_text()


def test_the_new_project_has_no_faults_and_answers_the_order(tmp_path: Path) -> None:
    run(tmp_path, "new", "shop")
    shop = tmp_path / "shop"
    checked = run(shop, "check")
    assert (checked.returncode, checked.stderr) == (0, "")
    with (shop / "runtime.toml").open("a") as file:
        file.write('\n[admin]\nlisten = "127.0.0.1:0"\n')
    with Running(shop, ("env", "LISTEN=127.0.0.1:0", *COMMAND)) as running:
        sent = ORDER.replace("127.0.0.1:8080", running.web.removeprefix("http://"))
        answer = subprocess.run(["sh", "-c", sent], capture_output=True, text=True, check=True, timeout=30).stdout
        assert json.loads(answer)["charged"] == 8.4
        assert running.stop() == 0


def test_parents_that_are_missing_are_made_and_json_names_the_files(tmp_path: Path) -> None:
    told = json.loads(run(tmp_path, "new", "a/b/shop", "--json").stdout)
    assert told["folder"] == "a/b/shop"
    assert set(told["files"]) == files_of(tmp_path / "a" / "b" / "shop").keys()


@pytest.mark.parametrize(
    ("make", "found"), [("mkdir shop", "folder"), ("touch shop", "file"), ("ln -s nowhere shop", "file"), ("ln -s . shop", "folder")]
)
def test_what_exists_is_left_alone_and_is_exit_2(tmp_path: Path, make: str, found: str) -> None:
    subprocess.run(make.split(), cwd=tmp_path, check=True)
    done = run(tmp_path, "new", "shop")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: shop: expected a place where nothing is yet, found a {found}; choose another DIR\n"
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]
    assert files_of(tmp_path / "shop") == {}


def test_a_parent_that_is_no_folder_is_exit_1(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run(tmp_path, "new", "file/shop")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: file/shop: expected to make a folder, found: Not a directory; choose another DIR\n"


def test_a_failure_half_way_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *_ = sample()
    monkeypatch.setattr(module, "sample", lambda: iter([first, (tmp_path / "is not there", "functions/lost.py")]))
    done = CliRunner().invoke(main, ["new", str(tmp_path / "a" / "shop")])
    assert done.exit_code == 1
    assert "found: No such file or directory; choose another DIR" in done.stderr
    assert list(tmp_path.iterdir()) == []
