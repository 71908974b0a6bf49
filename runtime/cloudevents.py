"""CloudEvents 1.0: events as JSON, as batches of JSON and as HTTP messages.

An attribute is a string, a boolean or a 32-bit integer; JSON null means that it is absent. Names are made
of a-z and 0-9. The body of an HTTP message in binary mode is the data itself, so types are lost there:
extensions come back as strings, and data is read by its content type (JSON, text, else bytes).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from runtime.codec import BYTES, read_json, to_json
from runtime.errors import MalformedEvent
from runtime.event import Event
from runtime.headers import from_header, shown, to_header

EVENT_TYPE: Final = "application/cloudevents+json"
BATCH_TYPE: Final = "application/cloudevents-batch+json"

_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin-1", "windows-1252", "utf-16"})
_ID_HEADERS = ("ce-id", "nats-msg-id", "x-github-delivery", "webhook-id", "idempotency-key")
_ID_NAMES = frozenset(_ID_HEADERS)
_UNESCAPED = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')


def to_dict(event: Event) -> dict[str, Any]:
    """Return an event in the JSON format of CloudEvents; its data stays as it is, but bytes are `data_base64`.

    Raises:
        MalformedEvent: CloudEvents cannot say a time or an extension of it.
    """
    result = _attributes_of(event)
    data = event.data
    if isinstance(data, BYTES):
        result["data_base64"] = base64.b64encode(data).decode()
    elif data is not None:
        result["data"] = data
    return result


def from_dict(value: Any) -> Event:
    """Return the event that a dict in the JSON format of CloudEvents says.

    Raises:
        MalformedEvent: it is none; the message names the attribute.
    """
    if not isinstance(value, dict):
        raise MalformedEvent(f"a CloudEvent is a JSON object, found {shown(value)}")
    attributes = dict(value)
    data = attributes.pop("data", None)
    encoded = attributes.pop("data_base64", None)
    if encoded is not None:
        if data is not None:
            raise MalformedEvent("`data` and `data_base64`: expected one of them, found both")
        data = _from_base64(encoded)
    return _make_event(attributes, data)


def encode(event: Event) -> bytes:
    """Return an event as one line of JSON, of media type `application/cloudevents+json`.

    Raises:
        MalformedEvent: CloudEvents cannot say a time or an extension of it.
    """
    return to_json(to_dict(event))


def decode(data: bytes) -> Event:
    """Return the event that JSON of media type `application/cloudevents+json` says.

    Raises:
        MalformedEvent: it says none.
    """
    return from_dict(read_json("the event", data))


def encode_batch(events: Iterable[Event]) -> bytes:
    """Return events as one line of JSON, of media type `application/cloudevents-batch+json`.

    Raises:
        MalformedEvent: CloudEvents cannot say a time or an extension of one.
    """
    return to_json([to_dict(event) for event in events])


def decode_batch(data: bytes) -> list[Event]:
    """Return the events that JSON of media type `application/cloudevents-batch+json` says.

    Raises:
        MalformedEvent: one of them is malformed; the message names its index, from 0.
    """
    values = read_json("the batch", data)
    if not isinstance(values, list):
        raise MalformedEvent(f"a batch of CloudEvents is a JSON array, found {shown(values)}")
    events = []
    for index, value in enumerate(values):
        try:
            events.append(from_dict(value))
        except MalformedEvent as error:
            raise MalformedEvent(f"batch[{index}]: {error}") from None
    return events


def to_attributes(event: Event) -> tuple[dict[str, Any], bytes]:
    """Return an event as its attributes by name and the body of a message in binary mode.

    Data without a content type goes out as `application/json`, or `application/octet-stream` when it is bytes.

    Raises:
        MalformedEvent: CloudEvents cannot say a time or an extension of it, or its content type does not fit.
    """
    attributes, data = _attributes_of(event), event.data
    content_type = attributes.get("datacontenttype")
    if content_type is None:
        if data is None:
            return attributes, b""
        content_type = attributes["datacontenttype"] = "application/octet-stream" if isinstance(data, BYTES) else "application/json"
    if not (content_type.isascii() and content_type.isprintable()):
        raise MalformedEvent(f'attribute "datacontenttype": expected a media type, found {shown(content_type)}')
    return attributes, _body_of(data, content_type)


def from_attributes(attributes: Mapping[str, Any], body: bytes) -> Event:
    """Return the event that attributes by name and the body of a message in binary mode say.

    Raises:
        MalformedEvent: they say none, or the body is not what `datacontenttype` says.
    """
    return _make_event(attributes, data_from_body(attributes.get("datacontenttype", ""), body))


def to_binary(event: Event) -> tuple[dict[str, str], bytes]:
    """Return an event as the headers and the body of an HTTP message in binary mode.

    Raises:
        MalformedEvent: as for `to_attributes`.
    """
    attributes, body = to_attributes(event)
    content_type = attributes.pop("datacontenttype", None)
    headers = {f"ce-{name}": to_header(value) for name, value in attributes.items()}
    return headers if content_type is None else {**headers, "content-type": content_type}, body


def from_http(headers: Mapping[str, str], body: bytes) -> Event | list[Event]:
    """Return the event of an HTTP message in structured or binary mode, or the events of a batch.

    Raises:
        MalformedEvent: it is none; `unsupported` when it does not even look like one.
    """
    lowered = _lowered(headers)
    content_type = lowered.get("content-type", "")
    media_type = _media_type(content_type)
    if media_type == EVENT_TYPE:
        return decode(body)
    if media_type == BATCH_TYPE:
        return decode_batch(body)
    attributes = {name[3:]: from_header(name, value) for name, value in lowered.items() if name[:3] == "ce-"}
    if not attributes or media_type.startswith("application/cloudevents"):
        found = f'"{media_type}"' if media_type else "none"
        raise MalformedEvent(f"content-type: expected {EVENT_TYPE}, {BATCH_TYPE} or ce- headers, found {found}", unsupported=True)
    attributes.pop("datacontenttype", None)
    if content_type:
        attributes["datacontenttype"] = content_type
    return from_attributes(attributes, body)


def data_from_http(content_type: str, body: bytes) -> Any:
    """Return the data of any HTTP message: that of the event in structured mode, else the body as its content type says it.

    Raises:
        MalformedEvent: the body is not what its content type says.
    """
    return decode(body).data if _media_type(content_type) == EVENT_TYPE else data_from_body(content_type, body)


def is_json(content_type: str | None) -> bool:
    """Return whether data of this content type is JSON; without one it is."""
    return not content_type or _is_json(_media_type(content_type))


def id_from_headers(headers: Mapping[str, str]) -> str:
    """Return the id by which the sender of any HTTP message knows it, or an empty string."""
    if _ID_NAMES.isdisjoint(map(str.lower, headers)):
        return ""
    lowered = _lowered(headers)
    for name in _ID_HEADERS:
        if found := lowered.get(name):
            return unquote(found) if name == "ce-id" else found
    return ""


def _lowered(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def check_event(event: Event) -> None:
    """See to it that an event is one that CloudEvents can say.

    Raises:
        MalformedEvent: an attribute is missing or wrong; data is not looked at.
    """
    if not isinstance(event, Event):
        raise MalformedEvent(f"expected an Event, found a value of type {type(event).__name__}")
    if not (event.type and event.source and isinstance(event.type, str) and isinstance(event.source, str)):
        for name, value in (("type", event.type), ("source", event.source)):
            if not value or not isinstance(value, str):
                raise MalformedEvent(f"{name}: expected a text that is not empty, found {shown(value)}")
    if event.priority is not None:
        _read_priority("priority", event.priority)
    if event.time is not None or event.due is not None or event.extensions:
        _attributes_of(event)


def _attributes_of(event: Event) -> dict[str, Any]:
    result: dict[str, Any] = {"specversion": "1.0", "id": event.id, "source": event.source, "type": event.type}
    if event.time is not None:
        result["time"] = _time_text("time", event.time)
    if event.subject:
        result["subject"] = event.subject
    if event.datacontenttype:
        result["datacontenttype"] = event.datacontenttype
    if event.dataschema:
        result["dataschema"] = event.dataschema
    if event.key:
        result["partitionkey"] = event.key
    if event.priority is not None:
        result["priority"] = event.priority
    if event.due is not None:
        result["due"] = _time_text("due", event.due)
    for name, value in event.extensions.items():
        if value is not None:
            result[_extension_name(name)] = _extension_value(name, value)
    return result


def _make_event(attributes: Mapping[str, Any], data: Any) -> Event:
    if attributes.get("specversion") != "1.0":
        found = shown(attributes["specversion"]) if "specversion" in attributes else "nothing"
        raise MalformedEvent(f'attribute "specversion": expected "1.0", found {found}')
    fields: dict[str, Any] = {}
    extensions: dict[str, Any] = {}
    for name, value in attributes.items():
        if value is None or name == "specversion":
            continue
        known = _ATTRIBUTES.get(name)
        if known is not None:
            field, read = known
            fields[field] = read(name, value)
        else:
            extensions[_extension_name(name)] = value if type(value) is str else _check_extension(name, value)
    for name in ("id", "source", "type"):
        if name not in fields:
            raise MalformedEvent(f'attribute "{name}": expected a string, found nothing; every CloudEvent has one')
    return Event(data=data, extensions=extensions, **fields)


def _read_text(name: str, value: Any) -> str:
    if type(value) is not str or not value:
        raise MalformedEvent(f'attribute "{name}": expected a string that is not empty, found {shown(value)}')
    return value


def _read_time(name: str, value: Any) -> datetime:
    try:
        time = msgspec.convert(value, datetime)
        if time.tzinfo is not None:
            return time.astimezone(UTC)
    except (msgspec.ValidationError, OverflowError):
        pass
    expected = 'a time with its offset, like "2026-01-31T12:00:00Z"'
    raise MalformedEvent(f'attribute "{name}": expected {expected}, found {shown(value)}')


def _read_priority(name: str, value: Any) -> int:
    if type(value) is str and len(value) == 1 and value in "0123456789":
        return int(value)
    if type(value) is not int or not 0 <= value <= 9:
        raise MalformedEvent(f'attribute "{name}": expected an integer from 9 (urgent) to 0 (bulk), found {shown(value)}')
    return value


_ATTRIBUTES: dict[str, tuple[str, Callable[[str, Any], Any]]] = {
    **{name: (name, _read_text) for name in ("id", "source", "type", "subject", "datacontenttype", "dataschema")},
    "partitionkey": ("key", _read_text),
    "time": ("time", _read_time),
    "due": ("due", _read_time),
    "priority": ("priority", _read_priority),
}
_RESERVED = frozenset({*_ATTRIBUTES, "specversion", "data"})


def _extension_name(name: Any) -> str:
    if not (isinstance(name, str) and name.isascii() and name.isalnum() and name == name.lower()):
        raise MalformedEvent(f"attribute {shown(name)}: expected a name made of a-z and 0-9 only")
    if name in _RESERVED:
        raise MalformedEvent(f'attribute "{name}": CloudEvents gives the name another meaning; expected another one for an extension')
    return name


def _is_int32(value: int) -> bool:
    return -(2**31) <= value < 2**31


def _check_extension(name: str, value: Any) -> bool | int:
    if type(value) is bool or (type(value) is int and _is_int32(value)):
        return value
    raise MalformedEvent(f'attribute "{name}": expected a string, a boolean or a 32-bit integer, found {shown(value)}')


def _extension_value(name: str, value: Any) -> str | bool | int:
    """Say an extension as CloudEvents can: times, UUIDs, bytes, larger numbers and the like as strings."""
    if type(value) is str:
        return value
    try:
        plain = msgspec.to_builtins(value)
    except TypeError:
        plain = value
    if type(plain) is str:
        return plain
    if type(plain) is float or (type(plain) is int and not _is_int32(plain)):
        return str(plain)
    return _check_extension(name, plain)


def _time_text(name: str, value: datetime) -> str:
    try:
        if value.utcoffset() is not None:
            return str(msgspec.to_builtins(value.astimezone(UTC)))
    except OverflowError:
        pass
    raise MalformedEvent(f'attribute "{name}": expected a time with a timezone, found {value!r}; add one, like `tzinfo=UTC`')


def _from_base64(value: Any) -> bytes:
    try:
        if type(value) is str:
            return base64.b64decode(value, validate=True)
    except ValueError:
        pass
    raise MalformedEvent(f"`data_base64`: expected a string of base64, found {shown(value)}")


def _is_json(media_type: str) -> bool:
    return media_type in {"application/json", "text/json"} or media_type.endswith("+json")


def _charset(content_type: str) -> str:
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            charset = value.strip().strip('"').lower()
            if charset not in _CHARSETS:
                raise MalformedEvent(f"content-type: expected a charset like utf-8, found {shown(charset)}")
            return charset
    return "utf-8"


def data_from_body(content_type: str, body: bytes) -> Any:
    """Return the data that a body is by its content type: JSON (also without one), text, else bytes; None when it is empty.

    Raises:
        MalformedEvent: the body is not what its content type says.
    """
    if not body:
        return None
    media_type = _media_type(content_type)
    if not media_type or _is_json(media_type):
        return read_json("the body", body)
    if not media_type.startswith("text/"):
        return body
    try:
        return body.decode(_charset(content_type))
    except UnicodeDecodeError as error:
        raise MalformedEvent(f"the body: expected text as its content-type says, found {error}") from None


def _body_of(data: Any, content_type: str) -> bytes:
    if data is None:
        return b""
    if isinstance(data, BYTES):
        return bytes(data)
    if not isinstance(data, str) or _is_json(_media_type(content_type)):
        return to_json(data)
    try:
        return data.encode(_charset(content_type))
    except UnicodeEncodeError as error:
        raise MalformedEvent(f"the data: expected text that its datacontenttype can say, found {error}; use charset=utf-8") from None
