"""Events as messages of `runtime/proto/function_runtime.proto`, both ways; they are those of the protobuf format of CloudEvents."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from runtime import cloudevents
from runtime.codec import BYTES, read_json, to_json
from runtime.errors import MalformedEvent
from runtime.event import Event
from runtime.proto.function_runtime_pb2 import Accepted, AcceptedBatch, CloudEvent, CloudEventBatch, Result

__all__ = ["Accepted", "AcceptedBatch", "CloudEvent", "CloudEventBatch", "Result", "event_of", "message_of"]


def message_of(event: Event) -> CloudEvent:
    """Return an event as a message.

    Raises:
        MalformedEvent: CloudEvents cannot say a time or an extension of it.
    """
    data = event.data
    attributes = cloudevents.to_dict(msgspec.structs.replace(event, data=None))
    required = {name: attributes.pop(name) for name in ("id", "source", "type")}
    message = CloudEvent(**required, spec_version=attributes.pop("specversion"))
    is_text = isinstance(data, str) and not cloudevents.is_json(event.datacontenttype)
    if isinstance(data, BYTES):
        message.binary_data = bytes(data)
    elif data is not None:
        message.text_data = data if is_text else to_json(data).decode()
        attributes.setdefault("datacontenttype", "application/json")
    for name, value in attributes.items():
        _say(message.attributes[name], name, value, event)
    return message


def _say(attribute: CloudEvent.AttributeValue, name: str, value: Any, event: Event) -> None:
    """Set an attribute to a value of its own type."""
    if name in ("time", "due"):
        attribute.ce_timestamp.FromDatetime(getattr(event, name))
    elif name == "dataschema":
        attribute.ce_uri = value
    elif isinstance(value, bool):
        attribute.ce_boolean = value
    elif isinstance(value, int):
        attribute.ce_integer = value
    else:
        attribute.ce_string = value


def event_of(message: CloudEvent) -> Event:
    """Return the event that a message says.

    Raises:
        MalformedEvent: it is none; the message names the attribute.
    """
    attributes = {name: _said(value) for name, value in message.attributes.items()}
    for name in ("id", "source", "specversion", "type", "data", "data_base64"):
        if name in attributes:
            raise MalformedEvent(f"{name}: expected a field of the message, found it among `attributes`; set the field")
    attributes |= {"id": message.id, "source": message.source, "specversion": message.spec_version, "type": message.type}
    event = cloudevents.from_dict(attributes)
    kind = message.WhichOneof("data")
    if kind is None:
        return event
    data: Any = message.binary_data
    if kind == "text_data":
        data = message.text_data if not cloudevents.is_json(event.datacontenttype) else read_json("text_data", message.text_data.encode())
    return msgspec.structs.replace(event, data=data)


def _said(value: CloudEvent.AttributeValue) -> Any:
    """Return the value of an attribute as the JSON format says it."""
    kind = value.WhichOneof("value")
    if kind == "ce_timestamp":
        return value.ce_timestamp.ToJsonString()
    if kind == "ce_bytes":
        return base64.b64encode(value.ce_bytes).decode()
    return None if kind is None else getattr(value, kind)
