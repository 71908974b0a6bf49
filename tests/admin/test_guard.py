"""Who may talk to the admin API: this machine's pages and tools, and elsewhere who has the token."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from runtime.admin.guard import Guard, host_of


async def inner(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer what a caller is trusted with."""
    await JSONResponse({"trusted": Request(scope).state.trusted})(scope, receive, send)


async def ask(host: str = "127.0.0.1", token: str = "", *, method: str = "GET", path: str = "/api/stats", **headers: str) -> httpx.Response:
    """Send a request to an API that listens on `host`, with these headers (`Host` is 127.0.0.1:8090 unless given)."""
    transport = httpx.ASGITransport(Guard(inner, host, token))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8090") as client:
        return await client.request(method, path, headers=[(name.encode(), value.encode()) for name, value in headers.items()])


def refused(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    return str(body["detail"])


# --- Host and Origin ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8090", "127.0.0.1", "127.8.8.8:1", "localhost:8090", "LOCALHOST", "localhost.:8090", "[::1]:8090"]
)
async def test_on_loopback_every_name_of_this_machine_is_a_host(host: str) -> None:
    assert (await ask(Host=host)).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8090", "localhost.evil.example", "192.168.1.5:8090", ""])
@pytest.mark.parametrize("path", ["/health", "/api/stats", "/"])
async def test_on_loopback_a_foreign_host_is_refused_everywhere(host: str, path: str) -> None:
    detail = refused(await ask(path=path, Host=host), 403)
    assert detail == f'the Host "{host}" is not this machine; use 127.0.0.1'


async def test_a_foreign_host_is_refused_also_with_the_token() -> None:
    refused(await ask(token="s3cret", Host="evil.example", Authorization="Bearer s3cret"), 403)


async def test_the_name_that_is_listened_on_is_a_host() -> None:
    assert (await ask("localhost", Host="localhost:8090")).status_code == 200


@pytest.mark.parametrize("host", ["runtime.example:8090", "10.0.0.7:8090", "127.0.0.1:8090"])
async def test_off_loopback_the_host_may_be_any_name_of_the_machine(host: str) -> None:
    assert (await ask("0.0.0.0", "s3cret", Host=host, Authorization="Bearer s3cret")).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:8080", "http://127.0.0.1", "https://localhost:8090"])
@pytest.mark.parametrize("path", ["/health", "/api/events"])
async def test_a_page_of_another_address_is_refused(origin: str, path: str) -> None:
    detail = refused(await ask(method="POST", path=path, Origin=origin), 403)
    assert detail == f'the Origin "{origin}" is foreign: only pages of this address may call it'


async def test_a_page_of_another_address_is_refused_off_loopback_too() -> None:
    answer = await ask("0.0.0.0", "s3cret", Host="runtime.example", Origin="http://evil.example", Authorization="Bearer s3cret")
    refused(answer, 403)


@pytest.mark.parametrize("host", ["127.0.0.1:8090", "localhost:8090", "[::1]:8090"])
async def test_its_own_pages_may_call(host: str) -> None:
    assert (await ask(method="POST", Host=host, Origin=f"http://{host}")).status_code == 200


# --- the token ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("authorization", [None, "Bearer", "Bearer wrong", "Bearer s3cret2", "Basic s3cret", "s3cret", "Bearer größe"])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_without_the_token_nothing_but_health_is_told(authorization: str | None, host: str) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    for method, path in (("GET", "/api/stats"), ("POST", "/health"), ("GET", "/health/"), ("GET", "/"), ("GET", "/metrics")):
        answer = await ask(host, "s3cret", method=method, path=path, **headers)
        assert refused(answer, 401) == "the token is missing or wrong; send it as `Authorization: Bearer TOKEN`"
        assert answer.headers["www-authenticate"] == "Bearer"
    assert (await ask(host, "s3cret", path="/health", **headers)).status_code == 200


@pytest.mark.parametrize("authorization", ["Bearer s3cret", "bearer s3cret", "Bearer  s3cret "])
async def test_with_the_token_all_is_told(authorization: str) -> None:
    assert (await ask("0.0.0.0", "s3cret", Authorization=authorization)).status_code == 200


async def test_without_a_token_set_nobody_needs_one() -> None:
    assert (await ask()).status_code == 200
    assert (await ask(Authorization="Bearer whatever")).status_code == 200


@pytest.mark.parametrize(
    ("host", "token", "authorization", "trusted"),
    [
        ("127.0.0.1", "", None, True),
        ("127.0.0.1", "s3cret", None, True),
        ("0.0.0.0", "s3cret", None, False),
        ("0.0.0.0", "s3cret", "Bearer wrong", False),
        ("0.0.0.0", "s3cret", "Bearer s3cret", True),
    ],
)
async def test_health_tells_details_on_loopback_and_elsewhere_with_the_token(
    host: str, token: str, authorization: str | None, trusted: bool
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    assert (await ask(host, token, path="/health", **headers)).json() == {"trusted": trusted}


# --- what is a host -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("authority", "host"),
    [("127.0.0.1:8090", "127.0.0.1"), ("Example.ORG", "example.org"), ("[::1]:80", "::1"), ("[::1]", "::1"), ("", "")],
)
def test_the_host_of_an_authority(authority: str, host: str) -> None:
    assert host_of(authority) == host
