"""`--data`: JSON, a file or standard input; what is no JSON is wrong usage."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime.cli.failures import Failure
from runtime.cli.options import print_json, read_data
from runtime.errors import EXIT_USAGE


def refused(text: str) -> str:
    with pytest.raises(Failure) as caught:
        read_data(text)
    assert caught.value.exit_code == EXIT_USAGE
    return caught.value.message


@pytest.mark.parametrize(
    ("text", "value"),
    [(None, None), ("5", 5), ('{"id": "7"}', {"id": "7"}), ('"größe"', "größe"), (" [1, null] ", [1, None]), ("true", True)],
)
def test_data_is_json(text: str | None, value: Any) -> None:
    assert read_data(text) == value


def test_data_may_be_in_a_file_or_on_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "order.json").write_text('{"id": "größe"}', "utf-8")
    assert read_data(f"@{tmp_path / 'order.json'}") == {"id": "größe"}
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'["x"]\n')))
    assert read_data("-") == ["x"]


def test_what_is_no_json_is_told_with_what_to_write() -> None:
    hint = "a text needs its quotes, as in --data '\"text\"'"
    assert refused("hello") == f"--data: `hello` is not JSON: JSON is malformed: invalid character (byte 0); {hint}"
    assert refused("") == f"--data: `` is not JSON: Input data was truncated; {hint}"
    assert refused("x" * 70).startswith(f"--data: `{'x' * 60}…` is not JSON: ")
    assert refused("[" * 200_000).startswith(f"--data: `{'[' * 60}…` is not JSON: ")


def test_a_file_with_no_json_or_no_text_is_told_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.json").write_bytes(b"{")
    Path("b.json").write_bytes(b'"\xff"')
    assert refused("@a.json").startswith("--data: a.json is not JSON: ")
    assert refused("@b.json").startswith("--data: b.json is not JSON: ")
    assert refused("@missing.json") == "--data: missing.json cannot be read: No such file or directory"
    assert refused("@.") == "--data: . cannot be read: Is a directory"


def test_standard_input_without_json_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert refused("-").startswith("--data: standard input is not JSON: ")


def test_json_is_printed_as_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"id": "größe", "n": [1, None]})
    assert capsys.readouterr().out == '{"id":"größe","n":[1,null]}\n'
