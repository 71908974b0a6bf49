"""What the head of an HTTP request says: itself, without secrets; and whether it may."""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from runtime import Answer, Problem, Request

from ._routes import Route, Target

Message = MutableMapping[str, Any]

_OURS = ("connection", "content-length", "date", "keep-alive", "transfer-encoding", "upgrade")  # headers that the server sets

_SECRET_FIELD = re.compile(r"((access|auth|id)_)?token|api_?key|secret|password|signature", re.IGNORECASE)
_is_secret_header = lru_cache(1024)(
    re.compile(r"authori[sz]|authent|x-auth|cookie|token|secret|api-?key|signature|passw|credential").search
)

_CHALLENGES = {
    "Bearer": ("send the token of this route: Authorization: Bearer …", "Bearer"),
    "Basic": ("send user and password of this route: Authorization: Basic …", 'Basic realm="runtime", charset="UTF-8"'),
}


def read_request(scope: Message, parameters: dict[str, str]) -> Request:
    """Return the request that an ASGI scope tells of."""
    query = scope["query_string"]
    return Request(
        method=scope["method"],
        path=scope["path"],
        params=parameters,
        query=dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True)) if query else {},
        headers={name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]},
    )


def without_secrets(request: Request) -> Request:
    """Return the request as it is recorded, without credentials; itself when there are none."""
    if not request.query and not any(map(_is_secret_header, request.headers)):
        return request
    return Request(
        method=request.method,
        path=request.path,
        params=request.params,
        query={name: value for name, value in request.query.items() if not _SECRET_FIELD.fullmatch(name)},
        headers={name: value for name, value in request.headers.items() if not _is_secret_header(name)},
    )


def cors(route: Route, request: Request) -> dict[str, str]:
    """Return the headers by which a browser lets pages of allowed origins call the route and read its answers."""
    origin = request.headers.get("origin", "")
    if isinstance(route.cors, bool) or "*" in route.cors:
        headers = {"access-control-allow-origin": "*"}
    else:
        headers = {"vary": "Origin", **({"access-control-allow-origin": origin} if origin in route.cors else {})}
    if request.method == "OPTIONS":
        headers["access-control-allow-methods"] = ", ".join(route.methods)
        headers["access-control-allow-headers"] = request.headers.get("access-control-request-headers", "content-type")
    return headers


def permission(route: Route, request: Request) -> dict[str, str] | None:
    """Return the headers that let a sender of CloudEvents send them here, as its `OPTIONS` asks for; None: it does not ask.

    It is no credential, but tells that events are expected at this path. The `rate` of the source makes senders wait.
    """
    if "webhook-request-origin" not in request.headers or "POST" not in route.methods:
        return None
    return {
        "webhook-allowed-origin": request.headers["webhook-request-origin"],
        "webhook-allowed-rate": "*",
        "allow": ", ".join(route.methods),
    }


def answer_headers(answer: Answer) -> dict[str, str | list[str]]:
    """Return the headers that a function answers with, by lower-case name; those of the connection are the server's."""
    headers: dict[str, str | list[str]] = {"content-type": "text/plain; charset=utf-8"}
    for name, value in (answer.headers or {}).items():
        if name.lower() not in _OURS:
            headers[name.lower()] = str(value).lower() if isinstance(value, bool) else str(value)
    return headers | ({"set-cookie": answer.cookies} if answer.cookies else {})


def check_origin(request: Request) -> None:
    """Refuse a page of another site: a browser lets it post to this machine, though not read the answer.

    Raises:
        Problem: it is one (403).
    """
    headers = request.headers
    if "origin" not in headers:
        return
    origin = headers["origin"]
    if origin.partition("://")[2].lower() != headers.get("host", "").lower():
        raise Problem(403, f'pages of "{origin}" may not call this; a route lets them with cors = ["{origin}"]')


def check_head(target: Target, request: Request) -> None:
    """Refuse what needs no body to be refused.

    Raises:
        Problem: method, credentials, coding or size are not what the route takes (401, 405, 413, 415).
    """
    route, headers = target.route, request.headers
    if request.method not in route.methods:
        allowed = ", ".join(route.methods)
        raise Problem(405, f"{request.method} is not allowed at this path; allowed: {allowed}", allow=allowed)
    if target.auth is not None and not target.auth.admits(headers.get("authorization", "")):
        detail, challenge = _CHALLENGES[target.auth.scheme]
        raise Problem(401, detail, www_authenticate=challenge)
    if "content-encoding" in headers and headers["content-encoding"].lower() != "identity":
        raise Problem(415, f'content-encoding "{headers["content-encoding"]}" is not supported; send the body as it is')
    if "expect" in headers and int(headers.get("content-length", 0)) > target.max_body:  # others read no answer before they have sent all
        raise Problem(413, f"the body is larger than {target.max_body} bytes", connection="close")
