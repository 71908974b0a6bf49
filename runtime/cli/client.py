"""The client of the admin API, for the commands that talk to a running runtime."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlencode

import click
import msgspec

from runtime.cli.failures import Failure, NotRunning, usage
from runtime.cli.options import config_option
from runtime.errors import EXIT_FAILED, EXIT_USAGE

F = TypeVar("F", bound=Callable[..., Any])

PATIENCE = 30.0  # seconds to wait for an answer, beyond what was asked for


class Address(NamedTuple):
    """Where the admin API is, and the token it wants."""

    url: str
    token: str


def address_options(command: F) -> F:
    """Add `-c`, `--url` and `--token`."""
    url = click.option("--url", metavar="URL", help="The admin address of the runtime, instead of [admin] in the config.")
    token = click.option("--token", envvar="RUNTIME_TOKEN", metavar="TOKEN", help="Its token (or in RUNTIME_TOKEN); for use with --url.")
    return config_option(url(token(command)))


def find_runtime(config: str, url: str | None, token: str | None) -> Address:
    """Return where the runtime of a configuration is; its token goes to no other `url`."""
    if url:
        if not url.startswith(("http://", "https://")):
            raise usage(f'--url: "{url}" is not an address; it looks like http://127.0.0.1:8090')
        return Address(url.rstrip("/"), token or "")
    from runtime import config as configuration  # noqa: PLC0415 - see runtime.cli

    admin = configuration.load(config).admin
    host, port = configuration.parse_listen(admin.listen)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - compared, not bound
    return Address(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}", token or admin.token or "")


def get(address: Address, path: str, **parameters: object) -> Any:
    """Return what the API answers to a GET; parameters that are None are left out."""
    query = urlencode({name: value for name, value in parameters.items() if value is not None})
    return _call(address, "GET", f"{path}?{query}" if query else path, None, {}, PATIENCE)


def post(address: Address, path: str, body: Any = None, *, media_type: str = "application/json", wait: float | None = None) -> Any:
    """Return what the API answers to a POST of a JSON body; with `wait` it waits so many seconds for a result."""
    raw = msgspec.json.encode({} if body is None else body)
    target = path if wait is None else f"{path}?wait={wait:g}"
    return _call(address, "POST", target, raw, {"content-type": media_type}, PATIENCE + (wait or 0.0))


def event_path(id: str, *suffix: str) -> str:
    """Return the path of an event in the API; ids may hold anything."""
    return "/".join(["/api/events", quote(id, safe=""), *suffix])


def _call(address: Address, method: str, path: str, body: bytes | None, headers: dict[str, str], timeout: float) -> Any:
    if address.token:
        headers["authorization"] = f"Bearer {address.token}"
    request = urllib.request.Request(address.url + path, data=body, headers=headers, method=method)  # noqa: S310 - the scheme was checked
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a runtime is near: no proxy stands between
    try:
        with opener.open(request, timeout=timeout) as response:
            return msgspec.json.decode(response.read())
    except urllib.error.HTTPError as error:
        raise _refused(address.url, error.code, error.read()) from None
    except urllib.error.URLError as error:
        reason = getattr(error.reason, "strerror", None) or str(error.reason)
        raise NotRunning(address.url, reason) from None
    except (OSError, http.client.HTTPException) as error:
        raise NotRunning(address.url, str(error) or type(error).__name__) from None
    except msgspec.DecodeError:
        raise NotRunning(address.url, "what answers there is not the admin API") from None


def _refused(url: str, status: int, body: bytes) -> Failure:
    """Return the failure that an answer of the API means."""
    try:
        detail = msgspec.json.decode(body)["detail"]
    except (msgspec.DecodeError, KeyError, TypeError):
        return NotRunning(url, f"what answers there, with {status}, is not the admin API")
    if status == 401:
        detail = f"{detail}; set `token` in [admin], --token or RUNTIME_TOKEN"
    return Failure(str(detail), EXIT_USAGE if status in (400, 401, 403) else EXIT_FAILED)
