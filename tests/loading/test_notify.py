from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime.loading import notify
from runtime.loading.notify import AGAIN, Hints, matters


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "functions"
    made.mkdir()
    (made / "a.py").write_text("A = 1\n")
    return made


@contextmanager
def following(*folders: Path) -> Iterator[tuple[Hints, threading.Event]]:
    hinted = threading.Event()
    hints = Hints(folders, hinted.set)
    hints.follow(0.0)
    try:
        yield hints, hinted
    finally:
        hints.stop()


def save(path: Path, hinted: threading.Event) -> bool:
    """Return whether a save gives a hint."""
    hinted.clear()
    path.write_text(path.read_text() + "\n")
    return hinted.wait(5)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        *(("a.py", True), ("sub", True), ("", True), ("..data", True)),
        *((".x/a.py", False), ("__pycache__/a", False), ("a.pyc", False), ("..2026/a.py", False)),
    ],
)
def test_hints_are_filtered_by_the_part_of_the_path_below_the_folder(path: str, expected: bool) -> None:
    folder = Path("/home/.hidden/functions")
    assert matters(folder, str(folder / path)) is expected
    assert not matters(folder, "/elsewhere/a.py")


def refusing(error: OSError) -> Callable[[], object]:
    def observer() -> object:
        raise error

    return observer


@pytest.mark.parametrize("error", [OSError(28, "inotify watch limit reached"), OSError(24, "inotify instance limit reached")])
def test_a_limit_of_the_system_is_told_once_with_its_name_and_tried_again_later(
    error: OSError, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hinted = threading.Event()
    hints = Hints([folder], hinted.set)
    with monkeypatch.context() as patch:
        patch.setattr(notify, "Observer", refusing(error))
        for now in (0.0, AGAIN / 2, AGAIN):
            hints.follow(now)
    (record,) = caplog.records
    assert record.getMessage() == (
        f"there are no file notifications for functions ({error}): files are looked at every few seconds instead; on Linux more are "
        "allowed with `sysctl fs.inotify.max_user_watches=524288 fs.inotify.max_user_instances=512`"
    )
    hints.follow(AGAIN * 2)
    assert save(folder / "a.py", hinted)
    hints.stop()


def test_a_thread_that_has_died_is_told_and_replaced(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with following(folder) as (hints, hinted), caplog.at_level(logging.WARNING):
        observer = hints._observer
        assert observer is not None
        observer.stop()
        observer.join(5)
        hints.follow(1.0)
        assert save(folder / "a.py", hinted)
    assert "the thread that is notified of changed files has died; another is started" in caplog.text


def test_the_thread_of_one_folder_that_has_died_is_replaced(folder: Path) -> None:
    with following(folder) as (hints, hinted):
        assert hints._observer is not None
        (emitter,) = hints._observer.emitters
        emitter.stop()
        emitter.join(5)
        hints.follow(1.0)
        assert save(folder / "a.py", hinted)


def test_a_folder_that_comes_goes_and_comes_again_is_followed(tmp_path: Path) -> None:
    folder = tmp_path / "functions"
    with following(folder) as (hints, hinted):
        for _ in range(2):
            folder.mkdir()
            (folder / "a.py").write_text("A = 1\n")
            hints.follow(1.0)
            assert save(folder / "a.py", hinted)
            shutil.rmtree(folder)


LIMITED = """
import logging, sys
from pathlib import Path
from runtime.loading.notify import Hints
logging.basicConfig(format="%(message)s")
Path("/proc/sys/user/" + sys.argv[2]).write_text("0")
Hints([Path(sys.argv[1])], lambda: None).follow(0.0)
"""


@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run(["unshare", "-Ur", "true"], check=False, capture_output=True).returncode != 0,
    reason="user namespaces are not allowed here",
)
@pytest.mark.parametrize("limit", ["max_inotify_instances", "max_inotify_watches"])
def test_the_real_limits_of_linux_are_survived(folder: Path, limit: str) -> None:
    command = ["unshare", "-Ur", sys.executable, "-c", LIMITED, str(folder), limit]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, env=dict(os.environ))
    assert ended.returncode == 0, ended.stderr
    assert "there are no file notifications for functions" in ended.stderr
    assert "limit reached" in ended.stderr
