"""What a user reads when something goes wrong: the whole text of every error with one of its own."""

from __future__ import annotations

import inspect

import pytest

from runtime import errors
from runtime.errors import (
    EXIT_FAILED,
    EXIT_NOT_RUNNING,
    EXIT_OK,
    EXIT_USAGE,
    ConfigError,
    Error,
    Fault,
    Faulty,
    Full,
    LoadError,
    MalformedEvent,
    NotRouted,
    PartialFailure,
    PluginError,
    Reject,
    ResultTimeout,
    RunFailed,
    Skip,
    Stopping,
    Unavailable,
    nearest,
)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Full(12, 10), "12 events are waiting and max_backlog is 10; try again in 1 s"),
        (Full(12, 10, retry_after=2.5), "12 events are waiting and max_backlog is 10; try again in 2.5 s"),
        (NotRouted("order.placed"), 'no result for "order.placed": no function handles it'),
        (NotRouted("order.placed", removed=True), 'no result for "order.placed": the functions that handled it were removed'),
        (RunFailed("7", "charge", "ValueError", "no money"), 'event 7: "charge" failed: ValueError: no money'),
        (ResultTimeout("7", 1.5), "event 7: no result after 1.5 s; it goes on"),
        (Stopping("7"), "event 7: the runtime is stopping; send it again with the same id for its result"),
        (PartialFailure({"1": "full", "2": "lost"}), "1: full, 2: lost"),
        (PartialFailure({"1": Reject("unknown"), "2": "lost"}), "1: unknown, 2: lost"),
        (Unavailable("closed for lunch", retry_after=3600), "closed for lunch"),
        (Skip("not today"), "not today"),
        (Reject("no such order"), "no such order"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_error_says_what_happened_and_what_to_do(error: Exception, text: str) -> None:
    assert str(error) == text


@pytest.mark.parametrize("kind", [ConfigError, LoadError, PluginError])
def test_an_error_of_files_holds_every_fault_and_shows_one_a_line(kind: type[Faulty]) -> None:
    faults = [Fault("functions/a.py:3", "this"), Fault("runtime.toml [admin] listen", "that")]
    error = kind(faults)
    assert error.faults == faults
    assert str(error) == "functions/a.py:3: this\nruntime.toml [admin] listen: that"


def test_errors_carry_their_values() -> None:
    failure = RunFailed("7", "charge", "Reject", "no", status=409, rejected=True)
    assert (failure.id, failure.step, failure.error, failure.reason) == ("7", "charge", "Reject", "no")
    assert (failure.status, failure.rejected) == (409, True)
    assert RunFailed("7", "charge", "ValueError", "no").status == 500
    assert (Reject("no").status, Reject("no", status=409).status, Reject("no").reason) == (422, 409, "no")
    assert PartialFailure({"1": "full"}).failures == {"1": "full"}
    assert (Unavailable().retry_after, Unavailable("no", 2.5).retry_after, Unavailable("no").reason) == (0.0, 2.5, "no")
    assert MalformedEvent("no").unsupported is False
    assert MalformedEvent("no", unsupported=True).unsupported is True
    assert NotRouted("a", removed=True).removed is True
    assert Full(1, 1, 3.0).retry_after == 3.0


@pytest.mark.parametrize(("asked", "given"), [(-1, 0), (1e300, 86_400), (float("inf"), 86_400), (float("nan"), 0)])
def test_nobody_is_sent_away_for_more_than_a_day(asked: float, given: float) -> None:
    assert Unavailable("later", asked).retry_after == given


def test_the_nearest_word_is_offered_when_there_is_one_near() -> None:
    assert nearest("retires", ["retries", "timeout"]) == ' (did you mean "retries"?)'
    assert nearest("colour", ["retries", "timeout"]) == ""
    assert nearest("x", []) == ""


def test_exit_codes_are_those_of_the_contract() -> None:
    assert (EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_NOT_RUNNING) == (0, 1, 2, 3)


def test_every_error_has_one_base_and_says_when_it_is_raised() -> None:
    kinds = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, Exception)]
    signals = {Skip, Reject, PartialFailure, Unavailable}
    assert {kind for kind in kinds if not issubclass(kind, Error)} == signals
    for kind in kinds:
        assert (kind.__doc__ or "").startswith("Raise in a " if kind in signals else ("Raised when ", "Base of ")), kind
