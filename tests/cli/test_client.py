"""The client of the admin API: where it looks, what it sends, and what it makes of each answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from runtime import ConfigError
from runtime.cli.client import Address, event_path, find_runtime, get, post
from runtime.cli.failures import Failure, NotRunning

HINT = "start it with `runtime run`, or name another with --url or -c"


@contextmanager
def answering(status: int = 200, body: bytes = b"{}") -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Run a server that gives one answer to everything; yield its URL and the requests it gets."""
    requests: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = self.rfile.read(int(self.headers.get("content-length", 0)))
            requests.append({"method": self.command, "path": self.path, "headers": self.headers, "body": content})
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the name that the server looks for

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", requests
        server.shutdown()


def configured(folder: Path, text: str) -> str:
    (folder / "runtime.toml").write_text(text)
    return str(folder / "runtime.toml")


# --- where it looks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("localhost:9000", "http://localhost:9000"),
        ("[::1]:9000", "http://[::1]:9000"),
        ("0.0.0.0:9000", "http://127.0.0.1:9000"),
        ("[::]:9000", "http://[::1]:9000"),
    ],
)
def test_the_runtime_is_where_the_configuration_says(tmp_path: Path, listen: str, url: str) -> None:
    assert find_runtime(configured(tmp_path, f'[admin]\nlisten = "{listen}"\ntoken = "s3cret"\n'), None, None) == Address(url, "s3cret")


def test_without_a_configuration_it_is_at_the_default(tmp_path: Path) -> None:
    assert find_runtime(str(tmp_path / "runtime.toml"), None, None) == Address("http://127.0.0.1:8090", "")


def test_the_token_of_a_configuration_goes_to_no_other_address(tmp_path: Path) -> None:
    config = configured(tmp_path, '[admin]\ntoken = "s3cret"\n')
    assert find_runtime(config, "http://elsewhere:1/", None) == Address("http://elsewhere:1", "")
    assert find_runtime(config, "http://elsewhere:1", "mine") == Address("http://elsewhere:1", "mine")
    assert find_runtime(config, None, "mine").token == "mine"


def test_an_address_without_a_scheme_is_wrong_usage() -> None:
    with pytest.raises(Failure) as caught:
        find_runtime("runtime.toml", "127.0.0.1:8090", None)
    assert caught.value.exit_code == 2
    assert caught.value.message == '--url: "127.0.0.1:8090" is not an address; it looks like http://127.0.0.1:8090'


def test_a_broken_configuration_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        find_runtime(configured(tmp_path, "[admin"), None, None)


# --- what it sends ------------------------------------------------------------------------------------


def test_parameters_that_are_not_given_are_not_sent() -> None:
    with answering(body=b'{"a":1}') as (url, requests):
        assert get(Address(url, ""), "/api/events", status="dead", type=None, limit=5) == {"a": 1}
        get(Address(url, ""), "/api/stats", type=None)
    assert [(request["method"], request["path"]) for request in requests] == [
        ("GET", "/api/events?status=dead&limit=5"),
        ("GET", "/api/stats"),
    ]
    assert "authorization" not in requests[0]["headers"]


def test_a_body_is_sent_as_json_with_the_token_and_the_wait() -> None:
    with answering() as (url, requests):
        post(Address(url, "s3cret"), "/api/events", {"id": "1"}, media_type="application/cloudevents+json", wait=2.5)
        post(Address(url, "s3cret"), "/api/retry")
    event, retry = requests
    assert (event["method"], event["path"], json.loads(event["body"])) == ("POST", "/api/events?wait=2.5", {"id": "1"})
    assert event["headers"]["content-type"] == "application/cloudevents+json"
    assert event["headers"]["authorization"] == "Bearer s3cret"
    assert (retry["path"], retry["body"], retry["headers"]["content-type"]) == ("/api/retry", b"{}", "application/json")


def test_no_proxy_stands_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with answering(body=b"5") as (url, _):
        assert get(Address(url, ""), "/api/stats") == 5


def test_an_id_may_hold_anything() -> None:
    assert event_path("a/b c?#%ö") == "/api/events/a%2Fb%20c%3F%23%25%C3%B6"
    assert event_path("7", "retry") == "/api/events/7/retry"


# --- what it makes of answers -------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "code"), [(400, 2), (401, 2), (403, 2), (404, 1), (409, 1), (422, 1), (500, 1), (503, 1), (504, 1)])
def test_a_refusal_is_told_in_the_words_of_the_runtime(status: int, code: int) -> None:
    with answering(status, b'{"detail": "because"}') as (url, _), pytest.raises(Failure) as caught:
        get(Address(url, ""), "/api/stats")
    hint = "; set `token` in [admin], --token or RUNTIME_TOKEN" if status == 401 else ""
    assert (caught.value.message, caught.value.exit_code) == (f"because{hint}", code)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"error": 1}', b""])
def test_what_refuses_in_other_words_is_no_runtime(body: bytes) -> None:
    with answering(404, body) as (url, _), pytest.raises(NotRunning) as caught:
        get(Address(url, ""), "/api/stats")
    assert caught.value.message == f"no runtime answers at {url} (what answers there, with 404, is not the admin API); {HINT}"
    assert caught.value.exit_code == 3


def test_what_answers_no_json_is_no_runtime() -> None:
    with answering(200, b"<html>") as (url, _), pytest.raises(NotRunning) as caught:
        get(Address(url, ""), "/api/stats")
    assert caught.value.message == f"no runtime answers at {url} (what answers there is not the admin API); {HINT}"


def test_where_nobody_listens_is_no_runtime() -> None:
    with pytest.raises(NotRunning) as caught:
        get(Address("http://127.0.0.1:1", ""), "/api/stats")
    assert caught.value.message == f"no runtime answers at http://127.0.0.1:1 (Connection refused); {HINT}"
    assert caught.value.exit_code == 3


def test_who_does_not_answer_in_time_or_speaks_no_http_is_no_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr("runtime.cli.client.PATIENCE", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(NotRunning) as caught:
        get(Address(f"http://127.0.0.1:{silent.getsockname()[1]}", ""), "/api/stats")
    assert "(timed out)" in caught.value.message
