"""Escalation: what overran its timeout in a thread is isolated until it is made of something else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from support import graph_of

from runtime import function, resource
from runtime.executors.escalation import Escalation
from runtime.specs import FunctionSpec, Isolation


def spec(text: bytes = b"", *, takes_resource: bool = False) -> FunctionSpec:
    def declare() -> None:
        @resource
        def shelf() -> str:
            return ""

        if takes_resource:

            @function(on="go")
            def slow(data: Any, shelf: str) -> None: ...

        else:

            @function(on="go", name="slow")
            def other(data: Any) -> None: ...

    (made,) = graph_of(declare).functions
    return msgspec.structs.replace(made, isolation=Isolation(name="slow", folder="functions", texts={"a.py": text}))


def test_it_lasts_over_generations_until_what_it_is_made_of_changes(caplog: pytest.LogCaptureFixture) -> None:
    escalation = Escalation()
    assert spec() not in escalation
    assert escalation.add(spec())
    assert escalation.add(spec())
    assert len(caplog.messages) == 1
    assert [one.executor for one in escalation.adopt([spec()])] == ["process"]
    assert spec() in escalation
    assert [one.executor for one in escalation.adopt([spec(b"mended")])] == ["thread"]
    assert spec(b"mended") not in escalation
    assert spec() not in escalation


def test_one_that_takes_a_resource_or_comes_from_no_file_stays_in_threads() -> None:
    escalation = Escalation()
    assert not escalation.add(spec(takes_resource=True))
    assert not escalation.add(msgspec.structs.replace(spec(), isolation=None))
    assert [one.executor for one in escalation.adopt([spec(takes_resource=True)])] == ["thread"]
