"""What a request to the source `http` becomes: the events it says, and the data of its body."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any

import jmespath
import msgspec
from jmespath.exceptions import JMESPathError

from runtime import Answer, Event, Problem, Request, cloudevents, codec, read_wait

from ._forms import MULTIPART, URLENCODED, read_multipart, read_urlencoded
from ._requests import without_secrets
from ._routes import TYPE, Read, Reading, Route


def read_cloudevents(request: Request, body: bytes) -> Reading:
    """Read what is sent to `/events`."""
    return cloudevents.from_http(request.headers, body), read_wait(request.query.get("wait"))


def typed_reader(origin: str) -> Read:
    """Return how the JSON that is sent to `/events/TYPE` is read; `origin` is the source of its events."""

    def read(request: Request, body: bytes) -> Reading:
        type = request.params["type"]
        if not TYPE.fullmatch(type):
            raise Problem(400, f'"{type}" is not an event type: it is words joined by single dots, without spaces, "*" and ">"')
        data = codec.read_json("the body", body) if body else None
        id = cloudevents.id_from_headers(request.headers)
        event = Event(type=type, source=origin, id=id, data=data, datacontenttype="application/json")
        return event, read_wait(request.query.get("wait"))

    return read


def route_reader(route: Route, origin: str, now: Callable[[], float]) -> Read:
    """Return how the requests to a route are read."""
    key = jmespath.compile(route.key) if route.key else None
    wait = route.timeout if route.reply == "result" else None
    signature = route.signature

    def read(request: Request, body: bytes) -> Reading:
        if signature is not None:
            signature.check(request.headers, body, now())
        data, media_type = read_data(request.headers.get("content-type", ""), body)
        if signature is not None and (challenge := signature.challenge(data)) is not None:
            return Answer(headers={"content-type": "application/json"}, body=challenge)
        event = Event(
            type=route.type,
            source=origin,
            id=cloudevents.id_from_headers(request.headers) if signature is None else signature.id_of(request.headers, data),
            data=data,
            datacontenttype=media_type,
            key=None if key is None else read_key(key, data),
            priority=route.priority,
            request=without_secrets(request),
        )
        return event, wait

    return read


def read_data(content_type: str, body: bytes) -> tuple[Any, str | None]:
    """Return the data of a body that is sent to a route, and its media type, which the object that a form becomes has not.

    Raises:
        MalformedEvent: it is not the JSON or the form that it is called.
    """
    if not body:
        return None, None
    media_type = _media_type(content_type)
    if media_type in ("", "application/json", "text/json") or media_type.endswith("+json"):
        return codec.read_json("the body", body), "application/json"
    if media_type == MULTIPART:
        return read_multipart(content_type, body), None
    if media_type == URLENCODED:
        if not _is_form(body):  # curl -d says form, whatever it sends
            return codec.read_json("the body", body), "application/json"
        with suppress(UnicodeDecodeError):
            return read_urlencoded(body), None
    return body, content_type


@lru_cache(256)
def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _is_form(body: bytes) -> bool:
    return b"=" in body and body.lstrip()[:1] not in (b"{", b"[", b'"')


def read_key(expression: Any, data: Any) -> str | None:
    """Return what a compiled JMESPath finds in the data, as text.

    Raises:
        Problem: it cannot be read (422).
    """
    try:
        found = expression.search(data)
    except JMESPathError as error:
        raise Problem(422, f"the key of the event cannot be read from the data: {str(error).splitlines()[0]}") from None
    return found if found is None or isinstance(found, str) else msgspec.json.encode(found).decode()
