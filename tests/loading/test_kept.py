from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.loading.kept import LIST, Kept

SOURCES = {"a.py": b"A = 1\n", "sub/b.py": b"B = 1\n", "same.py": b"A = 1\n"}


def files(top: Path) -> list[Path]:
    return sorted(path for path in top.rglob("*") if path.is_file())


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    Kept(tmp_path, "functions").save(SOURCES)
    assert Kept(tmp_path, "functions").restore() == SOURCES
    assert Kept(tmp_path, "others").restore() is None


def test_only_what_is_needed_stays_and_what_is_the_same_is_not_written_again(tmp_path: Path) -> None:
    kept = Kept(tmp_path, "../shared/functions")
    kept.save(SOURCES)
    before = {path: path.stat().st_ino for path in files(tmp_path)}
    assert len(before) == 3, "two texts and the list"
    Kept(tmp_path, "../shared/functions").save(SOURCES)
    assert {path: path.stat().st_ino for path in files(tmp_path)} == before
    kept.save({"a.py": b"A = 2\n", "sub/b.py": b"B = 1\n"})
    after = {path: path.stat().st_ino for path in files(tmp_path)}
    assert len(after) == 3
    assert len(set(before.items()) & set(after.items())) == 1, "the text of sub/b.py"
    assert kept.restore() == {"a.py": b"A = 2\n", "sub/b.py": b"B = 1\n"}


def test_a_crash_at_any_step_leaves_the_last_sources_or_the_new_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = {"a.py": b"A = 2\n", "c.py": b"C = 1\n"}
    calls = ("fsync", "replace", "unlink", "rename", "close")
    found = set()
    for step in range(30):
        top = tmp_path / str(step)
        Kept(top, "functions").save(SOURCES)
        left = [step]

        def crash(name: str, left: list[int] = left) -> None:
            before = getattr(os, name)

            def call(*arguments: object, **named: object) -> object:
                if not left[0]:
                    raise OSError(5, "crashed")
                left[0] -= 1
                return before(*arguments, **named)

            patch.setattr(os, name, call)

        with monkeypatch.context() as patch:
            for name in calls:
                crash(name)
            try:
                Kept(top, "functions").save(new)
            except OSError:
                pass
            else:
                break
        restored = Kept(top, "functions").restore()
        assert restored in (SOURCES, new), f"crashed at step {step}"
        found.add(restored == new)
    assert found == {True, False}
    assert step > 5


@pytest.mark.parametrize("damage", ["list", "text", "cut", "gone"])
def test_what_is_damaged_is_as_good_as_none_and_is_written_anew(tmp_path: Path, damage: str) -> None:
    Kept(tmp_path, "functions").save(SOURCES)
    text = next(path for path in files(tmp_path) if path.name != LIST)
    if damage == "list":
        text.with_name(LIST).write_bytes(b"\0" * 20)
    elif damage == "text":
        text.write_bytes(b"A = 9\n")
    elif damage == "cut":
        text.write_bytes(b"")
    else:
        text.unlink()
    assert Kept(tmp_path, "functions").restore() is None
    Kept(tmp_path, "functions").save(SOURCES)
    assert Kept(tmp_path, "functions").restore() == SOURCES


def test_nobody_else_may_read_what_is_kept(tmp_path: Path) -> None:
    Kept(tmp_path, "functions").save(SOURCES)
    assert {path.stat().st_mode & 0o077 for path in files(tmp_path)} == {0}
