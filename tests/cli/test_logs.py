"""The log: lines for people, or JSON a machine can read."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from runtime.cli.logs import JsonFormatter, set_up


@pytest.fixture
def _loggers() -> Iterator[None]:
    """Put the loggers back as they were."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()  # those of pytest, which `set_up` would close
    chatty = {name: logging.getLogger(name).level for name in ("uvicorn.error", "uvicorn.access", "watchdog")}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    for name, before in chatty.items():
        logging.getLogger(name).setLevel(before)


def line(message: str, *arguments: object, **more: Any) -> dict[str, Any]:
    record = logging.getLogger("functions.charge").makeRecord("functions.charge", logging.INFO, "a.py", 1, message, arguments, None, **more)
    record.created = 1_800_000_000.25
    found: dict[str, Any] = json.loads(JsonFormatter().format(record))
    return found


def test_a_line_of_json_has_time_level_logger_and_message() -> None:
    assert line("charged %s", "Größe") == {
        "time": "2027-01-15T08:00:00.250Z",
        "level": "info",
        "logger": "functions.charge",
        "message": "charged Größe",
    }


def test_what_extra_adds_stands_in_the_line_and_hides_nothing() -> None:
    found = line("charged", extra={"order": "7", "amount": 5, "odd": object, "time": "mine"})
    assert (found["order"], found["amount"], found["odd"]) == ("7", 5, "<class 'object'>")
    assert found["time"] == "2027-01-15T08:00:00.250Z"


def test_an_exception_is_a_field_of_its_line() -> None:
    error = ValueError("no")
    record = logging.makeLogRecord({"msg": "failed", "exc_info": (ValueError, error, None)})
    text = JsonFormatter().format(record)
    assert "\n" not in text
    assert json.loads(text)["traceback"].endswith("ValueError: no")


@pytest.mark.usefixtures("_loggers")
def test_the_log_goes_to_stderr_from_its_level_up(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("warning", "text")
    logging.getLogger("functions.charge").info("not told")
    logging.getLogger("functions.charge").warning("told")
    logging.getLogger("uvicorn.error").error("told too")
    captured = capsys.readouterr()
    assert captured.out == ""
    first, second = captured.err.splitlines()
    assert first.endswith("WARNING functions.charge: told")
    assert second.endswith("ERROR   uvicorn.error: told too")


@pytest.mark.usefixtures("_loggers")
def test_setting_up_again_replaces_what_was_set_up_and_takes_warnings_in(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("info", "text")
    set_up("info", "json")
    logging.getLogger("uvicorn.access").info("not told")
    logging.getLogger("runtime").info("told once")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("careful", stacklevel=1)
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first["message"] == "told once"
    assert "careful" in second["message"]
