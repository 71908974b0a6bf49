"""Who may talk to the admin API: hosts, origins and the token, checked before anything else."""

from __future__ import annotations

import hmac

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from runtime.admin.problems import refusal
from runtime.config import is_loopback
from runtime.web import Problem


def host_of(authority: str) -> str:
    """Return the host of `host:port`, lower case and without the brackets of an IPv6 address."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0].lower()
    return authority.partition(":")[0].lower()


class Guard:
    """Refuses foreign hosts and origins (403) and callers without the token (401).

    A page of another site can make a browser send requests to loopback: its `Origin` gives it away, or,
    when its name was rebound to 127.0.0.1, its `Host`. Only `GET /health` needs no token; whether its
    caller may see details is left in `scope["state"]["trusted"]`.
    """

    def __init__(self, app: ASGIApp, host: str, token: str) -> None:
        self._app = app
        self._host = host
        self._loopback = is_loopback(host)
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request or hand it on."""
        if scope["type"] == "http":
            request = Request(scope)
            problem = self._problem(request)
            if problem is not None:
                await refusal(problem)(scope, receive, send)
                return
            trusted = self._has_token(request) if self._token else self._loopback
            scope.setdefault("state", {})["trusted"] = trusted or self._loopback
        await self._app(scope, receive, send)

    def _problem(self, request: Request) -> Problem | None:
        authority = request.headers.get("host", "")
        host = host_of(authority)
        if self._loopback and not (is_loopback(host) or host == self._host.lower()):
            return Problem(403, f'the Host "{authority}" is not this machine; use {self._host}')
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != authority.lower():
            return Problem(403, f'the Origin "{origin}" is foreign: only pages of this address may call it')
        if request.url.path == "/health" and request.method in ("GET", "HEAD"):
            return None
        if self._token and not self._has_token(request):
            detail = "the token is missing or wrong; send it as `Authorization: Bearer TOKEN`"
            return Problem(401, detail, www_authenticate="Bearer")
        return None

    def _has_token(self, request: Request) -> bool:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), self._token)
