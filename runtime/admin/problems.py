"""Answers of the admin API: JSON, and errors as problem+json (RFC 9457)."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from runtime import codec
from runtime.web import Problem


def answer(value: Any, status: int = 200) -> Response:
    """Return a value as a JSON response."""
    return Response(codec.to_json(value), status, media_type="application/json")


def refusal(problem: Problem) -> Response:
    """Return a problem as a problem+json response."""
    return Response(problem.body(), problem.status, problem.headers, media_type="application/problem+json")
