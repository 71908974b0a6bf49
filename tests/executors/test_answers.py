"""Answers of functions elsewhere: a result, or an object with exactly one word that means something else."""

from __future__ import annotations

from typing import Any

import pytest
from support import attempt_of

from runtime.errors import CommandError, Reject, Skip
from runtime.executors.answers import take_answer
from runtime.function import Emission


def take(value: Any) -> tuple[Any, list[Emission]]:
    """Return the result of an answer, and what it has emitted."""
    attempt = attempt_of(lambda data: data)
    return take_answer(attempt, value, "thumb"), list(attempt.context.emitted)


@pytest.mark.parametrize("value", [None, 0, "skip", ["error"], {}, {"amount": 5}, {"errors": []}])
def test_all_else_is_the_result(value: Any) -> None:
    assert take(value) == (value, [])


def test_events_are_emitted_as_they_are_told() -> None:
    told = {"type": "made", "data": 1, "key": "k", "priority": 9, "delay": 2, "id": "i", "subject": "s"}
    assert take({"emit": [{"type": "noted"}, told]}) == (
        None,
        [Emission("noted"), Emission("made", 1, key="k", priority=9, delay=2.0, id="i", subject="s")],
    )
    assert take({"emit": []}) == (None, [])


def test_a_skip_and_a_rejection_carry_their_reason() -> None:
    with pytest.raises(Skip, match="not needed"):
        take({"skip": "not needed"})
    with pytest.raises(Reject, match="not you") as caught:
        take({"reject": "not you"})
    assert caught.value.status == 422
    with pytest.raises(Reject, match="not you") as caught:
        take({"reject": {"message": "not you", "status": 409}})
    assert caught.value.status == 409


UNDERSTOOD = "thumb: expected an answer that can be understood, found: "


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"error": "no luck"}, "thumb: no luck"),
        (
            {"emit": [], "result": 5},
            (
                "thumb: expected a result, or an object with exactly one of emit, skip, reject, error, found an object with emit, result; "
                "a result that has such a key is to be put into another object"
            ),
        ),
        ({"skip": None}, UNDERSTOOD + "Expected `str`, got `null` - at `$.skip`"),
        ({"error": {"message": "no"}}, UNDERSTOOD + "Expected `str`, got `object` - at `$.error`"),
        ({"emit": {"type": "a"}}, UNDERSTOOD + "Expected `array`, got `object` - at `$.emit`"),
        ({"emit": [{"data": 1}]}, UNDERSTOOD + "Object missing required field `type` - at `$.emit[0]`"),
        ({"emit": [{"type": "a", "dealy": 1}]}, UNDERSTOOD + "Object contains unknown field `dealy` - at `$.emit[0]`"),
        (
            {"emit": [{"type": "a.*"}]},
            UNDERSTOOD + 'emit: "a.*" is not an event type: it must not be empty or hold "*", ">" or spaces',
        ),
        (
            {"reject": {"message": "no", "status": 200}},
            UNDERSTOOD + "Reject: `status` is a whole number from 400 to 599, found 200",
        ),
    ],
)
def test_what_cannot_be_understood_is_an_error_that_says_why(value: Any, text: str) -> None:
    with pytest.raises(CommandError) as caught:
        take(value)
    assert str(caught.value) == text
