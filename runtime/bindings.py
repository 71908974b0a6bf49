"""CloudEvents as messages of brokers, both ways: the protocol bindings for NATS, Kafka, AMQP and MQTT.

In binary mode each attribute is a header of the message, behind a prefix that differs from broker to broker, and the
body is the data. In structured mode the body is the whole event as JSON, which the content type tells, or, where a
message has none, the body itself. Any other message is plain: the data of an event that is made of what the broker says.
The headers are a mapping of lower-case names to text; where a broker has a property for the content type, it stands in
them as `content-type`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from runtime import cloudevents
from runtime.codec import read_json
from runtime.errors import MalformedEvent, Reject
from runtime.event import Event, Malformed
from runtime.headers import from_header, shown, to_header, to_text

Mode = Literal["binary", "structured"]
Content = Literal["json", "text", "bytes"]

TRACE: Final = ("traceparent", "tracestate")
UNKNOWN: Final = "malformed"  # the type of a message that is so malformed that it tells none

_PLACE = re.compile(r"\{([^{}]*)\}")
_EVENT = ("specversion", "id", "source", "type")  # what JSON without a content type has to have to be taken for an event


class Binding(msgspec.Struct, frozen=True):
    """How a broker carries attributes: behind one of `prefixes` (written behind the first), as any text or percent-encoded.

    With `is_typed` the header `content-type` says `datacontenttype`; otherwise that has a header of its own.
    """

    prefixes: tuple[str, ...]
    is_encoded: bool = False
    is_typed: bool = True


NATS: Final = Binding(("ce-",), is_encoded=True, is_typed=False)
KAFKA: Final = Binding(("ce_",))
AMQP: Final = Binding(("cloudEvents:", "cloudEvents_"))
MQTT: Final = Binding(("",))


class Template(msgspec.Struct, frozen=True):
    """A text with places, like `"orders.{key}"`; see `template`."""

    text: str
    places: tuple[str, ...]

    def fill(self, find: Callable[[str], str | None]) -> str:
        """Return the text with what `find` knows under the name of each place.

        Raises:
            Missing: it knows nothing of one.
        """
        if not self.places:
            return self.text
        if self.text == f"{{{self.places[0]}}}":
            return _found(find, self.places[0])
        return _PLACE.sub(lambda place: _found(find, place[1]), self.text)


class Missing(LookupError):
    """Raised when nothing is known for a place of a template; its text shows the place."""


def _found(find: Callable[[str], str | None], name: str) -> str:
    value = find(name)
    if not value:
        raise Missing(f"{{{name}}}")
    return value


def template(option: str, text: str, names: Collection[str], open: str) -> Template:
    """Return a template whose places are some of `names`, or begin with the word `open` and a dot.

    Raises:
        ValueError: it has another place, or none is closed; the text begins with the `option`.
    """
    places = tuple(_PLACE.findall(text))
    for place in places:
        if place not in names and not (place.startswith(f"{open}.") and place != f"{open}."):
            allowed = ", ".join([*(f"{{{name}}}" for name in names), f"{{{open}.NAME}}"])
            raise ValueError(f"`{option}`: expected places like {allowed}, found {{{place}}}; correct it")
    if not text or "{" in _PLACE.sub("", text) or "}" in _PLACE.sub("", text):
        raise ValueError(f"`{option}`: expected a text that is not empty, where each {{ has its }}, found {shown(text)}; correct it")
    return Template(text, places)


class Reader:
    """Makes events of the messages of a source; one that cannot be understood becomes a `Malformed`, so that the source goes on.

    `type` is the option of that name, a text or a template over what the broker says of a message (`names`) and its
    headers (`{header.NAME}`): it is the type of all events. Without it an event has the type it says, and a plain message
    that of the template `usual`. `content` tells what a plain message is that says no content type.
    """

    def __init__(
        self, binding: Binding, name: str, *, type: str | None, usual: str, names: Collection[str], content: Content = "json"
    ) -> None:
        self._binding = binding
        self._source = f"source/{name}"
        self._fixed = type is not None
        self._type = template("type", usual if type is None else type, names, "header")
        self._simple = self._type.places[0] if self._type.text == "{" + "".join(self._type.places) + "}" else ""  # all there is
        self._content = content

    def __call__(
        self,
        headers: Mapping[str, str],
        body: bytes,
        *,
        id: str,
        names: Mapping[str, str],
        subject: str | None = None,
        time: datetime | None = None,
        key: str | None = None,
    ) -> Event:
        """Return the event of a message.

        `id` is that of the sender, or made of what names the message at the broker, so that it is the same when the message
        comes again; empty when there is none. `subject`, `time` and `key` are the event's where the message says none.
        """
        try:
            event = self._read(headers, body)
            if event is None:
                return self._plain(headers, body, id=id, names=names, subject=subject, time=time, key=key)
            changes: dict[str, Any] = {"type": self._named(headers, names)} if self._fixed else {}
            if key is not None and event.key is None:
                changes["key"] = key
            if traces := {name: headers[name] for name in TRACE if name in headers and name not in event.extensions}:
                changes["extensions"] = {**event.extensions, **traces}
            return msgspec.structs.replace(event, **changes) if changes else event
        except Missing as error:
            type, why = UNKNOWN, f"expected a message with something for the place {error} of `type`, found nothing"
        except MalformedEvent as error:
            type, why = self._known(headers, names), str(error)
        return Malformed(type=type, source=self._source, id=id, subject=subject, time=time, key=key, data=body, why=why)

    def _named(self, headers: Mapping[str, str], names: Mapping[str, str]) -> str:
        if not self._type.places:
            return self._type.text
        if (found := names.get(self._simple)) is not None:
            return found
        return self._type.fill(lambda place: headers.get(place[7:].lower()) if place.startswith("header.") else names.get(place))

    def _known(self, headers: Mapping[str, str], names: Mapping[str, str]) -> str:
        try:
            return self._named(headers, names)
        except Missing:
            return UNKNOWN

    def _plain(self, headers: Mapping[str, str], body: bytes, *, names: Mapping[str, str], **said: Any) -> Event:
        content_type = headers.get("content-type")
        if content_type:
            data = cloudevents.data_from_body(content_type, body)
        else:
            data = body if self._content == "bytes" else _text(body) if self._content == "text" else _json(body)
        extensions = {name: headers[name] for name in TRACE if name in headers} if headers else {}
        type = self._named(headers, names)
        return Event(type=type, source=self._source, data=data, datacontenttype=content_type, extensions=extensions, **said)

    def _read(self, headers: Mapping[str, str], body: bytes) -> Event | None:
        """Return the event that a message says it is, None when it is plain."""
        content_type = headers.get("content-type", "")
        if content_type.lower().startswith("application/cloudevents"):
            if content_type.partition(";")[0].strip().lower() != cloudevents.EVENT_TYPE:
                raise MalformedEvent(f"content-type: expected {cloudevents.EVENT_TYPE}, found {shown(content_type)}")
            return cloudevents.decode(body)
        for prefix in self._binding.prefixes if headers else ():
            if f"{prefix}specversion".lower() in headers:
                return cloudevents.from_attributes(self._attributes(headers, prefix.lower()), body)
        if not content_type and body[:1] == b"{" and b'"specversion"' in body and self._content == "json":
            value = _json(body)
            return cloudevents.from_dict(value) if all(name in value for name in _EVENT) else None
        return None

    def _attributes(self, headers: Mapping[str, str], prefix: str) -> dict[str, str]:
        """Return the attributes that stand in the headers; without a prefix all are, but those whose names cannot be."""
        encoded = self._binding.is_encoded
        cut = len(prefix)
        found = {
            name[cut:]: from_header(name, value) if encoded else value
            for name, value in headers.items()
            if name.startswith(prefix) and (prefix or (name.isascii() and name.isalnum()))
        }
        if self._binding.is_typed:
            found.pop("datacontenttype", None)
        if "datacontenttype" not in found and headers.get("content-type"):
            found["datacontenttype"] = headers["content-type"]
        return found


def _json(body: bytes) -> Any:
    return read_json("the body", body) if body else None


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise MalformedEvent(f"the body: expected text in UTF-8, found {error}") from None


def write(binding: Binding, event: Event, mode: Mode) -> tuple[dict[str, str], bytes]:
    """Return an event as the headers and the body of a message; `traceparent` also stands in a header of its own.

    Raises:
        Reject: CloudEvents cannot say it, now or ever.
    """
    try:
        if mode == "structured":
            return {"content-type": cloudevents.EVENT_TYPE, **_trace(event)}, cloudevents.encode(event)
        attributes, body = cloudevents.to_attributes(event)
    except MalformedEvent as error:
        raise Reject(str(error)) from None
    headers = _trace(event)
    if binding.is_typed and "datacontenttype" in attributes:
        headers["content-type"] = attributes.pop("datacontenttype")
    say = to_header if binding.is_encoded else to_text
    headers.update((binding.prefixes[0] + name, say(value)) for name, value in attributes.items())
    return headers, body


def _trace(event: Event) -> dict[str, str]:
    return {name: str(event.extensions[name]) for name in TRACE if name in event.extensions} if event.extensions else {}


class Address:
    """Where a sink sends an event: an option like `subject = "{type}"`, with places for attributes and `{extension.NAME}`."""

    NAMES: Final = ("type", "source", "id", "subject", "key")

    def __init__(self, option: str, text: str) -> None:
        self._option = option
        self._template = template(option, text, self.NAMES, "extension")

    def __call__(self, event: Event) -> str:
        """Return the address for an event.

        Raises:
            Reject: the event has nothing for one of the places.
        """
        try:
            return self._template.fill(lambda place: _attribute(event, place))
        except Missing as error:
            raise Reject(f"`{self._option}`: expected an event with something for the place {error}, found nothing") from None


def _attribute(event: Event, place: str) -> str | None:
    if place.startswith("extension."):
        value = event.extensions.get(place[10:])
        return None if value is None else to_text(value)
    found: str | None = getattr(event, place)
    return found
