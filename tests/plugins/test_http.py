"""The source `http`, driven over real sockets and wired to the real flow."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import pytest
from cloudevents.core.bindings import http as sdk
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from runtime_plugins import http
from served import PATIENCE, PEM, detail, make, running, serving

from runtime import Answer, Event, Full, JournalError, NotRouted, Skip, Stopping, function, web, webserver


class FailingInlet:
    """An inlet whose runtime raises the same error for every event."""

    cursor: Any = None

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def put(self, events: Any, *, cursor: Any = None, wait: bool = True) -> list[str]:
        raise self._error

    async def call(self, event: Event, *, timeout: float | None = None, retries: int = 0) -> Any:  # noqa: ASYNC109 - the contract
        raise self._error


async def refused(error: Exception, path: str = "/events/echo") -> httpx.Response:
    async with running(make(), FailingInlet(error)) as client:
        return await client.post(path, json=1)


# --- /events ------------------------------------------------------------------------------------------

CLOUD_EVENT = {"specversion": "1.0", "id": "7", "source": "shop", "type": "echo", "data": {"a": 1}}
STRUCTURED = {"content-type": "application/cloudevents+json"}
BATCH = {"content-type": "application/cloudevents-batch+json"}
BINARY = {"ce-specversion": "1.0", "ce-id": "8", "ce-source": "shop", "ce-type": "echo", "content-type": "application/json"}


async def test_json_at_the_path_of_a_type_becomes_an_event() -> None:
    async with serving() as served:
        answer = await served.client.post("/events/order.placed", json={"id": "7", "total": 12.5})
        assert (answer.status_code, list(answer.json())) == (202, ["id"])
        assert answer.headers["content-type"] == "application/json"
        event = await served.event(answer.json()["id"])
        assert (event.type, event.source, event.data) == ("order.placed", "source/web", {"id": "7", "total": 12.5})
        assert (event.datacontenttype, event.request) == ("application/json", None)
        assert await served.status(event.id) == "done"


async def test_the_body_for_a_type_is_json_whatever_its_content_type_says() -> None:
    async with serving() as served:
        for media_type in ("application/x-www-form-urlencoded", "text/plain", "image/png"):
            answer = await served.client.post("/events/echo?wait=9", content=b'{"id": "7"}', headers={"content-type": media_type})
            assert (answer.status_code, answer.json()) == (200, {"id": "7"})


async def test_no_body_is_null_data() -> None:
    async with serving({"/ping": {"type": "echo", "reply": "result"}}) as served:
        for path in ("/events/echo?wait=9", "/ping"):
            answer = await served.client.post(path)
            assert (answer.status_code, answer.content) == (200, b"null")


async def test_what_is_not_a_type_is_refused() -> None:
    async with serving() as served:
        for type in ("a..b", ".a", "a.", "a.*", ">", "a b", "a\nb"):
            answer = await served.client.post(f"/events/{quote(type)}", json=1)
            expected = f'"{type}" is not an event type: it is words joined by single dots, without spaces, "*" and ">"'
            assert detail(answer, 400) == expected
        assert await served.accepted() == 0


async def test_structured_and_binary_cloudevents_are_accepted() -> None:
    async with serving() as served:
        answer = await served.client.post("/events", content=json.dumps(CLOUD_EVENT), headers=STRUCTURED)
        assert (answer.status_code, answer.json()) == (202, {"id": "7"})
        answer = await served.client.post("/events", content=b'{"a": 2}', headers=BINARY)
        assert (answer.status_code, answer.json()) == (202, {"id": "8"})
        assert [(await served.event(id)).data for id in "78"] == [{"a": 1}, {"a": 2}]


async def test_a_batch_is_answered_with_its_ids_in_order() -> None:
    async with serving() as served:
        batch = [{**CLOUD_EVENT, "id": id} for id in ("b", "a")]
        answer = await served.client.post("/events", content=json.dumps(batch), headers=BATCH)
        assert (answer.status_code, answer.json()) == (202, {"ids": ["b", "a"]})
        answer = await served.client.post("/events", content=b"[]", headers=BATCH)
        assert (answer.status_code, answer.json()) == (202, {"ids": []})


async def test_one_bad_event_refuses_its_whole_batch() -> None:
    async with serving() as served:
        batch = [CLOUD_EVENT, {**CLOUD_EVENT, "id": None}]
        answer = await served.client.post("/events", content=json.dumps(batch), headers=BATCH)
        assert detail(answer, 400) == 'batch[1]: attribute "id": expected a string, found nothing; every CloudEvent has one'
        assert await served.accepted() == 0


async def test_what_the_sdk_of_cloudevents_sends_is_what_arrives() -> None:
    attributes = {"id": "7", "source": "shop", "type": "echo", "subject": "ü %", "comexample": "x", "datacontenttype": "application/json"}
    event = CloudEvent(attributes, {"a": 1})
    modes = {
        "binary": sdk.to_binary(event, JSONFormat()),
        "structured": sdk.to_structured(event, JSONFormat()),
    }
    for message in modes.values():
        async with serving() as served:
            answer = await served.client.post("/events", content=message.body, headers=message.headers)
            assert answer.json() == {"id": "7"}
            found = await served.event("7")
            assert (found.data, found.subject, found.extensions) == ({"a": 1}, "ü %", {"comexample": "x"})


async def test_a_cloudevent_without_an_id_is_malformed() -> None:
    async with serving() as served:
        event = {name: value for name, value in CLOUD_EVENT.items() if name != "id"}
        answer = await served.client.post("/events", content=json.dumps(event), headers=STRUCTURED)
        assert detail(answer, 400) == 'attribute "id": expected a string, found nothing; every CloudEvent has one'


async def test_a_body_that_is_no_cloudevent_is_unsupported() -> None:
    async with serving() as served:
        answer = await served.client.post("/events", json=CLOUD_EVENT)
        assert "application/cloudevents+json" in detail(answer, 415)


async def test_a_cloudevent_can_be_waited_for_but_a_batch_cannot() -> None:
    async with serving() as served:
        answer = await served.client.post("/events?wait=9", content=json.dumps(CLOUD_EVENT), headers=STRUCTURED)
        assert (answer.status_code, answer.json()) == (200, {"a": 1})
        answer = await served.client.post("/events?wait=9", content=json.dumps([CLOUD_EVENT]), headers=BATCH)
        assert detail(answer, 400) == "wait: a batch has no result to wait for; send its events one by one, or leave `wait` out"
        assert await served.accepted() == 1


async def test_a_wait_that_is_no_time_is_refused() -> None:
    async with serving() as served:
        for wait in ("", "soon", "0", "-1", "nan", "inf", "86401"):
            answer = await served.client.post(f"/events/echo?wait={wait}", json=1)
            assert detail(answer, 400) == f'wait: "{wait}" is not allowed; it is a number of seconds above 0, at most 86400'
        assert await served.accepted() == 0


async def test_events_can_be_closed_and_its_paths_used_for_routes() -> None:
    async with serving({"/events/mine": {"type": "echo"}}, events=False) as served:
        assert detail(await served.client.post("/events/echo", json=1), 404) == "nothing is served at this path"
        assert detail(await served.client.post("/events", json=CLOUD_EVENT), 404) == "nothing is served at this path"
        assert (await served.client.post("/events/mine", json=1)).status_code == 202


# --- results ------------------------------------------------------------------------------------------


async def test_a_result_is_sent_as_it_is() -> None:
    async with serving({"/echo": {"type": "echo", "reply": "result"}}) as served:
        for text in ("5", '"a"', '{"a":[1]}', "null", "true", "1.5", "[]", '"ü"'):
            answer = await served.client.post("/echo", content=text)
            assert (answer.status_code, answer.text) == (200, text)
            assert answer.headers["content-type"] == "application/json"


async def test_a_function_may_answer_with_a_status_headers_and_cookies_of_its_own() -> None:
    def declare() -> None:
        @function(on="moved")
        def moved(name: str) -> Answer:
            return Answer(status=303, headers={"Location": f"/{name}", "X-Fresh": True}, body="gone", cookies=["a=1", "b=2"])

    routes = {"/moved": {"type": "moved", "reply": "result"}}
    async with serving(routes, functions=declare) as served:
        answer = await served.client.post("/moved", json="there")
        assert (answer.status_code, answer.text, answer.headers["content-type"]) == (303, "gone", "text/plain; charset=utf-8")
        assert (answer.headers["location"], answer.headers["x-fresh"]) == ("/there", "true")
        assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
        plain = await served.client.post("/events/moved?wait=5", json="there")
        assert (plain.status_code, plain.json()["statusCode"]) == (200, 303)


@pytest.mark.parametrize("answer", [{"status": 199}, {"headers": {"a b": "c"}}, {"headers": {"a": "b\nc: d"}}, {"cookies": ["a=\r\n"]}])
def test_an_answer_that_http_cannot_say_cannot_be_made(answer: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="of an answer is"):
        Answer(**answer)


async def test_only_skipped_leaves_give_null() -> None:
    def skips() -> None:
        @function(on="echo")
        async def skip(data: Any) -> None:
            raise Skip("not today")

    async with serving(functions=skips) as served:
        answer = await served.client.post("/events/echo?wait=9", json=1)
        assert (answer.status_code, answer.content) == (200, b"null")


async def test_a_type_nobody_handles_is_not_found_when_its_result_is_asked_for() -> None:
    async with serving() as served:
        answer = await served.client.post("/events/nobody?wait=9", json=1)
        assert detail(answer, 404) == 'no result for "nobody": no function handles it'
        assert await served.accepted() == 0
        answer = await served.client.post("/events/nobody", json=1)
        assert answer.status_code == 202
        assert await served.status(answer.json()["id"]) == "unrouted"


async def test_data_that_does_not_fit_is_refused_only_when_its_result_is_asked_for() -> None:
    async with serving({"/orders": {"type": "order.placed", "reply": "result"}}) as served:
        answer = await served.client.post("/orders", json={"id": "7", "total": "much"})
        assert "$.total" in detail(answer, 422)
        assert await served.accepted() == 0
        answer = await served.client.post("/events/order.placed", json={"id": "7", "total": "much"})
        assert answer.status_code == 202
        assert await served.status(answer.json()["id"]) == "dead"


async def test_a_failed_run_says_which_event_failed_and_nothing_more() -> None:
    async with serving({"/broken": {"type": "broken", "reply": "result"}}) as served:
        answer = await served.client.post("/broken", json=1, headers={"ce-id": "7"})
        assert detail(answer, 500) == "event 7 failed"
        assert await served.status("7") == "dead"


async def test_a_rejection_tells_its_reason_and_status() -> None:
    async with serving({"/refused": {"type": "refused", "reply": "result"}}) as served:
        for status in (409, 422, 503):
            answer = await served.client.post("/refused", json={"why": "sold out", "status": status})
            assert detail(answer, status) == "sold out"


async def test_a_rejection_without_a_reason_names_the_event() -> None:
    async with serving() as served:
        answer = await served.client.post("/events/refused?wait=9", json={"why": "", "status": 422}, headers={"ce-id": "7"})
        assert detail(answer, 422) == "event 7 was rejected"


async def test_a_result_that_takes_too_long_is_a_504_and_the_run_goes_on() -> None:
    release = asyncio.Event()

    def slow() -> None:
        @function(on="slow")
        async def wait(data: Any) -> None:
            await release.wait()

    async with serving({"/slow": {"type": "slow", "reply": "result", "timeout": 0.02}}, functions=slow) as served:
        answer = await served.client.post("/slow", json=1, headers={"ce-id": "7"})
        assert detail(answer, 504) == "event 7: no result after 0.02 s; it goes on"
        assert await served.status("7") == "queued"
        release.set()
        assert await served.status("7") == "done"


async def test_a_route_may_retry_and_without_saying_so_does_not() -> None:
    calls: list[str] = []

    def flaky() -> None:
        @function(on="flaky", backoff=0)
        async def second_time(data: str) -> int:
            calls.append(data)
            if calls.count(data) < 2:
                raise RuntimeError("no")
            return len(calls)

    routes = {"/once": {"type": "flaky", "reply": "result"}, "/twice": {"type": "flaky", "reply": "result", "retries": 1}}
    async with serving(routes, functions=flaky) as served:
        assert (await served.client.post("/once", json="a")).status_code == 500
        asked = asyncio.create_task(served.client.post("/twice", json="b"))
        while calls.count("b") < 2:
            await served.bench.clock.advance(1)
            await asyncio.sleep(0.001)
        assert (await asked).json() == 3


async def test_the_same_id_joins_the_first_event_and_redrives_a_dead_one() -> None:
    calls: list[int] = []

    def flaky() -> None:
        @function(on="flaky")
        async def second_time(data: int) -> int:
            calls.append(data)
            if len(calls) == 1:
                raise RuntimeError("no")
            return data

    async with serving({"/flaky": {"type": "flaky", "reply": "result"}}, functions=flaky) as served:
        answers = [await served.client.post("/flaky", json=5, headers={"x-github-delivery": "7"}) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [500, 200, 200]
        assert (calls, answers[2].json(), await served.accepted()) == ([5, 5], 5, 1)
        accepted = await served.client.post("/events/flaky", json=5, headers={"idempotency-key": "7"})
        assert (accepted.status_code, accepted.json(), await served.accepted()) == (202, {"id": "7"}, 1)


# --- routes -------------------------------------------------------------------------------------------


async def test_a_route_makes_events_with_its_type_priority_key_and_request() -> None:
    route = {"type": "order.placed", "priority": 7, "key": "customer.id", "methods": ["POST", "PUT"]}
    async with serving({"/shops/{shop}/orders/{id}": route}) as served:
        answer = await served.client.put(
            "/shops/north%2Fwest/orders/a%20b?dry=1&dry=2&empty=&access_token=swordfish",
            json={"id": "7", "customer": {"id": 12}},
            headers={"X-Trace": "t", "Authorization": "Bearer swordfish", "Cookie": "swordfish", "X-Hub-Signature-256": "swordfish"},
        )
        event = await served.event(answer.json()["id"])
        assert (event.type, event.source, event.priority, event.key) == ("order.placed", "source/web", 7, "12")
        request = event.request
        assert request is not None
        assert (request.method, request.path) == ("PUT", "/shops/north/west/orders/a b")
        assert request.params == {"shop": "north/west", "id": "a b"}
        assert request.query == {"dry": "2", "empty": ""}
        assert request.headers["x-trace"] == "t"
        assert b"swordfish" not in msgspec.json.encode(event)


async def test_a_literal_path_goes_before_a_parameter() -> None:
    routes = {"/o/{id}": {"type": "one"}, "/o/new": {"type": "new"}, "/{any}/x": {"type": "any"}, "/o/{id}/x": {"type": "x"}}
    async with serving(routes) as served:
        for path, type in [("/o/7", "one"), ("/o/new", "new"), ("/o/%6Eew", "new"), ("/p/x", "any"), ("/o/x", "one"), ("/o/7/x", "x")]:
            answer = await served.client.post(path, json=1)
            assert (await served.event(answer.json()["id"])).type == type, path


async def test_other_paths_are_not_found() -> None:
    async with serving({"/orders/{id}": {"type": "echo"}, "/a": {"type": "echo"}}) as served:
        for path in ("/", "/orders", "/orders/", "/orders/7/", "/a/", "/A", "/events/", "/events/a/b", "/..%2Fa"):
            assert detail(await served.client.post(path, json=1), 404) == "nothing is served at this path", path


async def test_other_methods_are_not_allowed() -> None:
    async with serving({"/orders": {"type": "echo", "methods": ["GET", "PUT"]}}) as served:
        answer = await served.client.post("/orders", json=1)
        assert detail(answer, 405) == "POST is not allowed at this path; allowed: GET, PUT"
        assert answer.headers["allow"] == "GET, PUT"
        assert (await served.client.head("/orders")).status_code == 405
        assert (await served.client.options("/orders")).status_code == 405
        answer = await served.client.get("/events")
        assert detail(answer, 405) == "GET is not allowed at this path; allowed: POST"
        assert (await served.client.delete("/events/echo")).headers["allow"] == "POST"


async def test_a_get_becomes_an_event_without_data() -> None:
    async with serving({"/hook/{id}": {"type": "hook", "methods": ["GET"]}}) as served:
        answer = await served.client.get("/hook/7?challenge=x")
        event = await served.event(answer.json()["id"])
        assert event.request is not None
        assert (event.data, event.request.params, event.request.query) == (None, {"id": "7"}, {"challenge": "x"})


async def test_a_route_takes_json_also_as_curl_announces_it() -> None:
    async with serving({"/orders": {"type": "order.placed", "reply": "result"}}) as served:
        for media_type in ("application/json; charset=utf-8", "application/vnd.github+json", "application/x-www-form-urlencoded"):
            answer = await served.client.post("/orders", content=b'{"id": "a=b"}', headers={"content-type": media_type})
            assert (answer.status_code, answer.json()) == (200, {"id": "a=b", "total": 0.0})
        answer = await served.client.post("/orders", content=b'{"id": "7"}')
        assert (answer.status_code, answer.json()) == (200, {"id": "7", "total": 0.0})


async def test_other_bodies_stay_bytes_as_they_are() -> None:
    async with serving({"/raw": {"type": "raw"}}) as served:
        for media_type in ("text/plain; charset=latin-1", "application/octet-stream", "application/x-www-form-urlencoded"):
            answer = await served.client.post("/raw", content=b"text=\xff&a=1", headers={"content-type": media_type})
            event = await served.event(answer.json()["id"])
            assert (event.data, event.datacontenttype) == (b"text=\xff&a=1", media_type)


async def test_forms_become_objects() -> None:
    async with serving({"/form": {"type": "echo", "reply": "result"}}) as served:
        answer = await served.client.post("/form", data={"name": "Zoë & co", "tag": ["a", "b"], "empty": ""})
        assert (answer.status_code, answer.json()) == (200, {"name": "Zoë & co", "tag": ["a", "b"], "empty": ""})
        file = {"photo": ("ü.png", b"\x89\r\n--", "image/png")}
        answer = await served.client.post("/form", data={"name": "Zoë"}, files=file)
        photo = {"filename": "ü.png", "content_type": "image/png", "content": "iQ0KLS0="}
        assert (answer.status_code, answer.json()) == (200, {"name": "Zoë", "photo": photo})
        answer = await served.client.post("/form", content=b"--x", headers={"content-type": "multipart/form-data; boundary=x"})
        assert detail(answer, 400) == "the form: expected at most 1000 parts and a last boundary behind them, found another end"


async def test_a_key_that_cannot_be_read_is_the_fault_of_the_data() -> None:
    async with serving({"/orders": {"type": "echo", "key": "length(id)"}}) as served:
        assert detail(await served.client.post("/orders", json={"id": 7}), 422).startswith(
            "the key of the event cannot be read from the data: "
        )
        assert await served.accepted() == 0


# --- who may call -------------------------------------------------------------------------------------


async def test_a_route_with_a_bearer_lets_in_only_those_who_send_it() -> None:
    async with serving({"/orders": {"type": "echo", "auth": {"bearer": "sésame"}}}) as served:
        for given in ("", "Bearer", "Bearer wrong", "Bearer sésam", "Basic sésame", "sésame"):
            answer = await served.client.post("/orders", json=1, headers={b"authorization": given.encode()})
            assert detail(answer, 401) == "send the token of this route: Authorization: Bearer …"
            assert answer.headers["www-authenticate"] == "Bearer"
        assert (await served.client.post("/orders", json=1)).status_code == 401
        assert await served.accepted() == 0
        answer = await served.client.post("/orders", json=1, headers={b"authorization": "bearer sésame".encode()})
        assert answer.status_code == 202


async def test_credentials_are_asked_for_before_the_body_is_read() -> None:
    async with serving({"/orders": {"type": "echo", "auth": {"bearer": "sesame"}}}) as served:
        reader, writer = await served.connect()
        writer.write(b"POST /orders HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n")
        assert await asyncio.wait_for(reader.readline(), PATIENCE) == b"HTTP/1.1 401 Unauthorized\r\n"
        writer.close()


async def test_a_route_may_ask_for_user_and_password() -> None:
    async with serving({"/orders": {"type": "echo", "auth": {"basic": "änn:se:same"}}}) as served:
        for auth in [("änn", "sesame"), ("ann", "se:same"), ("änn", ""), ("", "")]:
            answer = await served.client.post("/orders", json=1, auth=httpx.BasicAuth(*auth))
            assert detail(answer, 401) == "send user and password of this route: Authorization: Basic …"
            assert answer.headers["www-authenticate"] == 'Basic realm="runtime", charset="UTF-8"'
        for given in ("Basic", "Basic =", "Bearer w6RubjpzZTpzYW1l", "w6RubjpzZTpzYW1l"):
            assert (await served.client.post("/orders", json=1, headers={"authorization": given})).status_code == 401
        assert await served.accepted() == 0
        assert (await served.client.post("/orders", json=1, auth=httpx.BasicAuth("änn", "se:same"))).status_code == 202


async def test_the_auth_of_the_source_is_asked_for_where_a_path_has_no_check_of_its_own() -> None:
    routes = {
        "/plain": {"type": "echo"},
        "/own": {"type": "echo", "auth": {"bearer": "mine"}},
        "/signed": {"type": "echo", "signature": {"scheme": "github", "secret": "swordfish"}},
    }
    async with serving(routes, auth={"bearer": "sesame"}) as served:
        for path in ("/events/echo", "/events", "/plain"):
            assert detail(await served.client.post(path, json=1), 401) == "send the token of this route: Authorization: Bearer …"
        known = {"authorization": "Bearer sesame"}
        assert [(await served.client.post(path, json=1, headers=known)).status_code for path in ("/events/echo", "/plain")] == [202, 202]
        assert (await served.client.post("/events", json=1, headers=known)).status_code == 415
        assert (await served.client.post("/own", json=1, headers=known)).status_code == 401
        assert (await served.client.post("/own", json=1, headers={"authorization": "Bearer mine"})).status_code == 202
        assert detail(await served.client.post("/signed", json=1, headers=known), 401) == (
            "send the signature of this route: X-Hub-Signature-256: …"
        )
    with pytest.raises(ValueError, match=r"^`auth\.bearer` is empty; set the secret"):
        make(auth={"bearer": ""})


async def test_a_sender_of_cloudevents_that_asks_is_allowed_to_send_them() -> None:
    asks = {"webhook-request-origin": "eventemitter.example.com", "webhook-request-rate": "120"}
    routes = {"/hook": {"type": "echo", "auth": {"bearer": "k"}, "methods": ["PUT", "POST"]}, "/put": {"type": "echo", "methods": ["PUT"]}}
    async with serving(routes) as served:
        for path, methods in [("/events", "POST"), ("/events/echo", "POST"), ("/hook", "PUT, POST")]:
            answer = await served.client.options(path, headers=asks)
            assert (answer.status_code, answer.content) == (200, b"")
            assert answer.headers["webhook-allowed-origin"] == "eventemitter.example.com"
            assert (answer.headers["webhook-allowed-rate"], answer.headers["allow"]) == ("*", methods)
        assert (await served.client.options("/put", headers=asks)).status_code == 405
        assert (await served.client.options("/nowhere", headers=asks)).status_code == 404
        assert await served.accepted() == 0


async def test_pages_of_allowed_origins_may_call_a_route() -> None:
    async with serving({"/orders": {"type": "echo", "cors": ["https://shop.example"], "auth": {"bearer": "sesame"}}}) as served:
        asks = {
            "origin": "https://shop.example",
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization",
        }
        answer = await served.client.options("/orders", headers=asks)
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers["access-control-allow-origin"] == "https://shop.example"
        assert answer.headers["access-control-allow-methods"] == "POST"
        assert answer.headers["access-control-allow-headers"] == "authorization"
        for headers, status in [({"authorization": "Bearer sesame"}, 202), ({}, 401)]:
            answer = await served.client.post("/orders", json=1, headers={"origin": "https://shop.example", **headers})
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, "https://shop.example")
        answer = await served.client.options("/orders", headers={**asks, "origin": "https://evil.example"})
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["vary"] == "Origin"


async def test_a_route_may_be_called_by_pages_of_any_origin_or_of_none() -> None:
    async with serving({"/any": {"type": "echo", "cors": True}, "/none": {"type": "echo"}}) as served:
        headers = {"origin": "https://shop.example"}
        assert (await served.client.post("/any", json=1, headers=headers)).headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-origin" not in (await served.client.post("/none", json=1, headers=headers)).headers


# --- bodies that are wrong ----------------------------------------------------------------------------

HOSTILE = {
    "cut": b'{"id": ',
    "words": b"not json",
    "trailing": b'{"id": 1} x',
    "nan": b'{"id": NaN}',
    "infinity": b"[Infinity]",
    "too large a float": b"1e999",
    "too large an integer": b"1" * 30,
    "far too large an integer": b"1" * 5000,
    "not utf-8": b'"\xff"',
    "lone surrogate": b'"\\ud800"',
    "byte order mark": b"\xef\xbb\xbf{}",
    "nul": b"\x00",
    "deep": b"[" * 257 + b"]" * 257,
    "deeper": b'{"a":' * 900 + b"1" + b"}" * 900,
    "endless": b"[" * 100_000,
}


@pytest.mark.parametrize("reply", ["accepted", "result"])
async def test_broken_json_is_malformed_in_every_mode(reply: str) -> None:
    ways = [
        ("/events", "application/cloudevents+json"),
        ("/events/echo", "application/json"),
        ("/echo", "application/json"),
        ("/echo", "application/x-www-form-urlencoded"),
    ]
    async with serving({"/echo": {"type": "echo", "reply": reply}}) as served:
        for name, body in HOSTILE.items():
            for path, media_type in ways:
                answer = await served.client.post(path, content=body, headers={"content-type": media_type})
                assert detail(answer, 400), (name, path, media_type)
        assert await served.accepted() == 0


async def test_what_is_malformed_is_told() -> None:
    async with serving() as served:
        told = {
            b'{"id": ': "the body: expected JSON: Input data was truncated",
            b"1" * 30: "the body: expected integers of at most 64 bits, found a larger one; send it as a string",
            b"[" * 257 + b"]" * 257: "the body: expected JSON nested at most 256 levels deep, found more",
        }
        for body, text in told.items():
            assert detail(await served.client.post("/events/echo", content=body), 400) == text


async def test_json_within_the_limits_is_accepted_however_unusual() -> None:
    async with serving() as served:
        for body in (b"[" * 256 + b"]" * 256, b"[" + b"{}," * 1000 + b"{}]", b"18446744073709551615", b'"\\u0000"'):
            answer = await served.client.post("/events/echo?wait=9", content=body)
            assert (answer.status_code, answer.json()) == (200, json.loads(body))


async def test_a_body_that_is_too_large_is_refused() -> None:
    async with serving({"/small": {"type": "echo", "max_body": 10}, "/large": {"type": "echo", "max_body": 3_000_000}}) as served:
        text = json.dumps("x" * 2_000_000)
        assert detail(await served.client.post("/events/echo", content=text), 413) == "the body is larger than 1048576 bytes"
        assert detail(await served.client.post("/small", json="123456789"), 413) == "the body is larger than 10 bytes"
        assert (await served.client.post("/small", json="12345678")).status_code == 202
        assert (await served.client.post("/large", content=text)).status_code == 202
        assert await served.accepted() == 2


async def test_a_body_that_does_not_end_in_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "BODY_PATIENCE", 0.05)
    async with serving() as served:
        answer = await served.raw(b"POST /events/echo HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n{")
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert answer.endswith(b'"detail":"the body took longer than 0.05 s"}')
        assert await served.accepted() == 0


async def test_an_endless_body_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "DROPPED", 1000)

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 1000

    async with serving(max_body=10_000) as served:
        with suppress(httpx.TransportError):  # it may notice the end before it reads the answer
            answer = await served.client.post("/events/echo", content=endless())
            assert answer.status_code == 413
        assert await served.accepted() == 0


async def test_a_client_that_asks_first_need_not_send_a_body_that_is_too_large() -> None:
    async with serving() as served:
        answer = await served.raw(b"POST /events/echo HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 9999999\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert answer.endswith(b'"detail":"the body is larger than 1048576 bytes"}')


async def test_a_compressed_body_is_unsupported() -> None:
    async with serving() as served:
        answer = await served.client.post("/events/echo", content=gzip.compress(b"1"), headers={"content-encoding": "gzip"})
        assert detail(answer, 415) == 'content-encoding "gzip" is not supported; send the body as it is'


# --- clients that are wrong ---------------------------------------------------------------------------


AMBIGUOUS = [
    b"POST /events/echo HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /events/echo HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n1",
    b"POST /events/echo HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n1",
    b"POST /events/echo HTTP/1.1\r\nhost: a\r\ncontent-length : 1\r\n\r\n1",
    b"POST /events/\xff HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\n1",
    b"nonsense\r\n\r\n",
]


async def test_ambiguous_requests_are_refused_and_the_connection_closed() -> None:
    async with serving() as served:
        for request in AMBIGUOUS:
            assert (await served.raw(request)).startswith(b"HTTP/1.1 400 "), request
        assert await served.accepted() == 0


async def test_headers_that_do_not_end_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webserver, "HEAD_PATIENCE", 0.05)
    async with serving() as served:
        assert await served.raw(b"") == b""
        assert await served.raw(b"POST /events/echo HTTP/1.1\r\nhost:") == b""
        assert (await served.client.post("/events/echo", json=1)).status_code == 202
        assert (await served.client.post("/events/echo", json=1)).status_code == 202


async def test_headers_that_are_too_large_are_cut_off() -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        writer.write(b"POST /events/echo HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 100_000)
        with suppress(ConnectionError):  # one way to learn that it is cut
            assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
        writer.close()


async def test_half_open_connections_hold_up_nobody() -> None:
    async with serving() as served:
        opened = [await served.connect() for _ in range(100)]
        for _, writer in opened:
            writer.write(b"POST /events/echo HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n{")
        assert (await served.client.post("/events/echo?wait=9", json=1)).json() == 1
        for _, writer in opened:
            writer.close()
            await writer.wait_closed()
        assert await served.accepted() == 1


async def test_a_client_that_has_gone_leaves_its_run_alone() -> None:
    started, release = asyncio.Event(), asyncio.Event()

    def slow() -> None:
        @function(on="slow")
        async def wait(data: Any) -> None:
            started.set()
            await release.wait()

    async with serving(functions=slow) as served:
        _, writer = await served.connect()
        writer.write(b"POST /events/slow?wait=9 HTTP/1.1\r\nhost: a\r\nce-id: 7\r\ncontent-length: 1\r\n\r\n1")
        await asyncio.wait_for(started.wait(), PATIENCE)
        writer.close()
        await writer.wait_closed()
        release.set()
        assert await served.status("7") == "done"


# --- a runtime that cannot ----------------------------------------------------------------------------


async def test_a_full_runtime_says_when_to_try_again() -> None:
    async with serving(bench={"max_backlog": 0}) as served:
        for path in ("/events/echo", "/events/echo?wait=9"):
            answer = await served.client.post(path, json=1)
            assert detail(answer, 503) == "0 events are waiting and max_backlog is 0; try again in 1 s"
            assert answer.headers["retry-after"] == "1"


async def test_a_journal_that_cannot_be_written_is_told_without_its_reasons() -> None:
    answer = await refused(JournalError("disk full: /var/lib/journal.db"))
    assert detail(answer, 503) == "events cannot be recorded now; try again later"
    assert answer.headers["retry-after"] == "5"


async def test_a_runtime_that_stops_tells_those_who_wait() -> None:
    answer = await refused(Stopping("7"), "/events/echo?wait=9")
    assert detail(answer, 503) == "event 7: the runtime is stopping; send it again with the same id for its result"
    assert answer.headers["retry-after"] == "5"


async def test_a_type_whose_functions_were_removed_is_unavailable() -> None:
    answer = await refused(NotRouted("echo", removed=True), "/events/echo?wait=9")
    assert detail(answer, 503) == 'no result for "echo": the functions that handled it were removed'
    assert answer.headers["retry-after"] == "5"


async def test_the_seconds_to_try_again_are_whole() -> None:
    assert (await refused(Full(1, 1, retry_after=2.6))).headers["retry-after"] == "3"


async def test_an_error_nobody_thought_of_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    answer = await refused(RuntimeError("the password is swordfish"))
    assert detail(answer, 500) == "the request could not be answered; the log of the runtime says why"
    (record,) = [record for record in caplog.records if record.name == "sources.web"]
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "a request could not be answered")
    assert "swordfish" in caplog.text


async def test_requests_before_the_source_runs_are_asked_to_come_again() -> None:
    source = make()
    await source.open()
    async with httpx.AsyncClient(base_url=source.address()) as client:
        answer = await client.post("/events/echo", json=1)
    assert detail(answer, 503) == "the source is starting or stopping; try again in 1 s"
    assert answer.headers["retry-after"] == "1"
    await source.close()


async def test_a_source_that_closes_answers_its_callers_first() -> None:
    started, release = asyncio.Event(), asyncio.Event()

    def slow() -> None:
        @function(on="slow")
        async def wait(data: Any) -> Any:
            started.set()
            await release.wait()
            return data

    async with serving(functions=slow) as served:
        asked = asyncio.create_task(served.client.post("/events/slow?wait=9", json=5))
        await asyncio.wait_for(started.wait(), PATIENCE)
        closing = asyncio.create_task(served.source.close())
        await asyncio.sleep(0)
        assert not asked.done()
        release.set()
        assert (await asked).json() == 5
        await asyncio.wait_for(closing, PATIENCE)
        with pytest.raises(httpx.ConnectError):
            await served.client.post("/events/slow", json=5)


async def test_an_address_that_is_taken_is_an_error_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match=f"{listen}: Address already in use"):
            await make(listen=listen).open()


# --- where it listens ---------------------------------------------------------------------------------


async def test_it_listens_at_a_path_which_it_leaves_clean(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    with socket.socket(socket.AF_UNIX) as killed:  # which leaves its path behind
        killed.bind(str(path))
    async with serving(listen="unix:web.sock", folder=tmp_path) as served:
        assert served.source.address() == f"unix:{path}"
        answer = await served.client.post("/events/echo?wait=9", json=1, headers={"origin": "https://shop.example"})
        assert (answer.status_code, answer.json()) == (200, 1)
        twin = make(listen=f"unix:{path}")
        with pytest.raises(OSError, match=rf"^\[Errno \d+\] unix:{path}: Address already in use$"):
            await twin.open()
        assert (await served.client.post("/events/echo", json=1)).status_code == 202
    assert not path.exists()


async def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(OSError, match="Address already in use"):
        await make(listen=f"unix:{path}").open()
    assert path.read_text() == "mine"
    with pytest.raises(OSError, match="path too long"):
        await make(listen=f"unix:{tmp_path / ('x' * 200)}").open()


async def test_it_listens_by_tls() -> None:
    async with serving(tls={"cert": PEM.name, "key": PEM.name}, folder=PEM.parent) as served:
        assert served.source.address().startswith("https://127.0.0.1:")
        assert (await served.client.post("/events/echo?wait=9", json=1)).json() == 1
        with pytest.raises(httpx.RemoteProtocolError):
            await httpx.AsyncClient().post(served.source.address().replace("https", "http"), json=1)
        assert not served.source.reconfigure(make(tls={"cert": "other.pem", "key": PEM.name}).options)


async def test_a_certificate_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    source = make(tls={"cert": "cert.pem", "key": "key.pem"})
    source.folder = tmp_path
    for content, found in ((None, "FileNotFoundError"), ("swordfish", "SSLError")):
        if content:
            (tmp_path / "cert.pem").write_text(content)
            (tmp_path / "key.pem").write_text(content)
        with pytest.raises(OSError) as caught:
            await source.open()
        expected = f"a certificate in PEM at {tmp_path}/cert.pem and its key, without a password, at {tmp_path}/key.pem"
        assert str(caught.value).startswith(f"tls: expected {expected}, found {found}: ")
        assert "swordfish" not in str(caught.value)


# --- options ------------------------------------------------------------------------------------------


FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("orders", {}, "a path is like /orders or /orders/{id}: no empty segment, and a parameter is a whole one"),
    ("/a//b", {}, "a path is like /orders or /orders/{id}: no empty segment, and a parameter is a whole one"),
    ("/a b", {}, "a path is like /orders or /orders/{id}: no empty segment, and a parameter is a whole one"),
    ("/{id}.json", {}, "a path is like /orders or /orders/{id}: no empty segment, and a parameter is a whole one"),
    ("/a?b", {}, "a path is like /orders or /orders/{id}: no empty segment, and a parameter is a whole one"),
    ("/{a}/{a}", {}, "each parameter has a name of its own"),
    ("/events", {}, "/events is the source's own; choose another path or set `events = false`"),
    ("/events/x/y", {}, "/events is the source's own; choose another path or set `events = false`"),
    ("/a", {"type": "a.*"}, '`type` is one event type without wildcards, found "a.*"'),
    ("/a", {"methods": []}, "`methods` are one or more of DELETE, GET, PATCH, POST, PUT, found none"),
    ("/a", {"methods": ["POST", "FETCH"]}, "`methods` are one or more of DELETE, GET, PATCH, POST, PUT, found FETCH"),
    ("/a", {"timeout": 0}, "`timeout` is more than 0 and at most 86400 seconds, found 0"),
    ("/a", {"retries": -1}, "`retries` is 0 or more, found -1"),
    ("/a", {"priority": 10}, "`priority` is 0 (bulk) to 9 (urgent), found 10"),
    ("/a", {"max_body": 0}, "`max_body` is 1 byte or more, found 0"),
    ("/a", {"auth": {"bearer": ""}}, "`auth.bearer` is empty; set the secret, or remove `auth` to let anyone in"),
    (
        "/a",
        {"auth": {"basic": "ann"}},
        '`auth.basic` is "USER:PASSWORD", found no password; set the secret, or remove `auth` to let anyone in',
    ),
    ("/a", {"signature": {"scheme": "github", "secret": ""}}, "`signature.secret` is empty; set the secret, or remove `signature`"),
    (
        "/a",
        {"signature": {"scheme": "standard-webhooks", "secret": "whsec_swordfish!"}},
        '`signature.secret` is not base64, perhaps with "whsec_" before it, as `standard-webhooks` has it; copy it from the sender',
    ),
    ("/a", {"key": "a..b"}, '`key` is a JMESPath into the data, found "a..b"'),
]


@pytest.mark.parametrize(("path", "options", "message"), FAULTS)
def test_a_route_that_is_wrong_is_refused(path: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        make({path: {"type": "a", **options}})
    assert str(caught.value) == f'routes."{path}": {message}'


def test_everything_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(ValueError) as caught:
        make({"/a/{x}": {"type": "a", "retries": -1}, "/a/{y}": {"type": "a"}}, max_body=0)
    assert str(caught.value) == (
        'routes."/a/{x}": `retries` is 0 or more, found -1; '
        'routes."/a/{y}": takes the same paths as routes."/a/{x}"; remove one of them; '
        "`max_body` is 1 byte or more, found 0"
    )


def test_an_address_of_the_wrong_form_is_refused() -> None:
    with pytest.raises(ValueError) as caught:
        make(listen="8080")
    assert str(caught.value).startswith("`listen`: expected HOST:PORT")


async def test_the_source_tells_where_it_listens_and_never_ends() -> None:
    async with serving() as served:
        assert served.source.address() == f"http://127.0.0.1:{served.client.base_url.port}"
        assert not served.source.finite
    assert http.register_sources() == {"http": http.Http}


async def test_a_page_of_another_site_may_not_post_to_this_machine() -> None:
    async with serving({"/orders": {"type": "echo"}}) as served:
        for path in ("/events/echo", "/orders"):
            answer = await served.client.post(path, content=b"1", headers={"origin": "https://evil.example", "content-type": "text/plain"})
            assert detail(answer, 403) == (
                'pages of "https://evil.example" may not call this; a route lets them with cors = ["https://evil.example"]'
            )
        own = str(served.client.base_url).rstrip("/")
        assert (await served.client.post("/events/echo", json=1, headers={"origin": own})).status_code == 202


async def test_new_options_are_taken_while_it_serves_unless_it_is_to_listen_elsewhere() -> None:
    async with serving({"/old": {"type": "echo"}}) as served:
        given = {"/new": {"type": "echo", "reply": "result", "auth": {"bearer": "k"}, "cors": True}}
        assert served.source.reconfigure(make(given, events=False, max_body=3).options)
        assert (await served.client.post("/old", json=1)).status_code == 404
        assert (await served.client.post("/events/echo", json=1)).status_code == 404
        assert (await served.client.post("/new", json=1)).status_code == 401
        known = {"authorization": "Bearer k"}
        answer = await served.client.post("/new", json=1, headers=known)
        assert (answer.status_code, answer.json(), answer.headers["access-control-allow-origin"]) == (200, 1, "*")
        assert (await served.client.post("/new", json="long", headers=known)).status_code == 413
        assert not served.source.reconfigure(make(listen="127.0.0.1:1").options)
        assert (await served.client.post("/new", json=1, headers=known)).status_code == 200
