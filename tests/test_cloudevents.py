"""The CloudEvents codec: every mode there and back, the public SDK as the oracle, and what no event is."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from cloudevents.core.bindings import http as sdk
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.datastructures import Headers

from runtime import cloudevents, codec
from runtime.errors import MalformedEvent
from runtime.event import Event, Request

STRUCTURED = {"content-type": "application/cloudevents+json"}
BATCH = {"content-type": "application/cloudevents-batch+json"}
BINARY = {"ce-specversion": "1.0", "ce-id": "7", "ce-source": "/shop", "ce-type": "order.placed"}
PLAIN: dict[str, Any] = {"specversion": "1.0", "id": "7", "source": "/shop", "type": "order.placed"}
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
FULL = Event(
    type="order.placed",
    source="/shop",
    id="7",
    time=NOON,
    subject="Größe 100 %",
    datacontenttype="application/json",
    dataschema="https://example.com/order.json",
    key="customer 12",
    priority=9,
    due=NOON + timedelta(hours=1),
    extensions={"traceparent": "00-a-b-01"},
    data={"total": 12.5},
)
FULL_DICT = {
    "specversion": "1.0",
    "id": "7",
    "source": "/shop",
    "type": "order.placed",
    "time": "2026-01-31T12:00:00Z",
    "subject": "Größe 100 %",
    "datacontenttype": "application/json",
    "dataschema": "https://example.com/order.json",
    "partitionkey": "customer 12",
    "priority": 9,
    "due": "2026-01-31T13:00:00Z",
    "traceparent": "00-a-b-01",
    "data": {"total": 12.5},
}

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no fault of the codec
words = st.text(min_size=1, max_size=20)
moments = st.datetimes(
    min_value=datetime(2, 1, 1),  # noqa: DTZ001 - hypothesis adds the timezone
    max_value=datetime(9998, 1, 1),  # noqa: DTZ001 - hypothesis adds the timezone
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=-5)), timezone(timedelta(hours=5, minutes=53, seconds=28))]),
)
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | st.text(max_size=20)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=12
)
names = st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True).filter(lambda name: name not in cloudevents._RESERVED)
content = st.one_of(
    st.tuples(st.sampled_from(["application/json", "application/vnd.shop+json", "text/json; charset=utf-8"]), values),
    st.tuples(st.sampled_from(["text/plain", "text/csv; charset=UTF-16", 'text/html;a=b;charset="utf-8"']), words),
    st.tuples(st.sampled_from(["application/octet-stream", "image/png"]), st.binary(min_size=1, max_size=30)),
    st.just((None, None)),
)


texts = st.text(max_size=20)


@st.composite
def events(draw: st.DrawFn, extension: st.SearchStrategy[Any] = texts) -> Event:
    """Make any event that CloudEvents can say, in binary mode too (which knows strings alone)."""
    datacontenttype, data = draw(content)
    return Event(
        type=draw(words),
        source=draw(words),
        id=draw(words),
        data=data,
        time=draw(st.none() | moments),
        subject=draw(st.none() | words),
        datacontenttype=datacontenttype,
        dataschema=draw(st.none() | words),
        key=draw(st.none() | words),
        priority=draw(st.none() | st.integers(0, 9)),
        due=draw(st.none() | moments),
        extensions=draw(st.dictionaries(names, extension, max_size=3)),
    )


typed_events = events(texts | st.booleans() | st.integers(-(2**31), 2**31 - 1))


def refusal(headers: dict[str, str], body: bytes) -> str:
    with pytest.raises(MalformedEvent) as caught:
        cloudevents.from_http(headers, body)
    assert not caught.value.unsupported
    return str(caught.value)


def refusal_of(**attributes: Any) -> str:
    return refusal(STRUCTURED, codec.to_json(PLAIN | attributes))


# There and back


def test_every_attribute_has_its_place_in_the_json_format() -> None:
    assert cloudevents.to_dict(FULL) == FULL_DICT
    assert cloudevents.from_dict(FULL_DICT) == FULL


def test_what_an_event_does_not_have_is_left_out() -> None:
    assert cloudevents.to_dict(Event(type="order.placed", source="/shop", id="7")) == PLAIN
    assert cloudevents.to_dict(Event(type="order.placed", source="/shop", id="7", subject="", key="", extensions={"a": None})) == PLAIN


def test_the_request_an_event_came_from_is_never_sent() -> None:
    event = msgspec.structs.replace(FULL, request=Request("POST", "/orders"))
    assert cloudevents.to_dict(event) == FULL_DICT
    assert "request" not in str(cloudevents.to_binary(event))


def test_bytes_are_base64_in_the_json_format() -> None:
    event = Event(type="a", source="b", id="c", data=b"\xff\x00")
    assert cloudevents.to_dict(event)["data_base64"] == "/wA="
    assert cloudevents.decode(cloudevents.encode(event)) == event
    assert cloudevents.to_dict(msgspec.structs.replace(event, data=bytearray(b"\xff\x00")))["data_base64"] == "/wA="


def test_an_encoded_event_is_one_line() -> None:
    assert b"\n" not in cloudevents.encode(msgspec.structs.replace(FULL, data={"text": "two\nlines"}))


@patient
@given(typed_events)
def test_an_event_survives_structured_mode(event: Event) -> None:
    assert cloudevents.decode(cloudevents.encode(event)) == event
    assert cloudevents.from_http(STRUCTURED, cloudevents.encode(event)) == event


@patient
@given(st.lists(typed_events, max_size=4))
def test_events_survive_a_batch(batch: list[Event]) -> None:
    assert cloudevents.decode_batch(cloudevents.encode_batch(batch)) == batch
    assert cloudevents.from_http(BATCH, cloudevents.encode_batch(batch)) == batch


@patient
@given(events())
def test_an_event_survives_binary_mode(event: Event) -> None:
    headers, body = cloudevents.to_binary(event)
    assert all(value.isascii() and value.isprintable() for value in headers.values())
    assert cloudevents.from_http(headers, body) == event


@patient
@given(typed_events)
def test_binary_mode_says_every_extension_as_text(event: Event) -> None:
    texts = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in event.extensions.items()}
    assert cloudevents.from_http(*cloudevents.to_binary(event)) == msgspec.structs.replace(event, extensions=texts)


@pytest.mark.parametrize(
    ("data", "content_type", "body"),
    [
        ({"a": 1}, "application/json", b'{"a":1}'),
        ("text", "application/json", b'"text"'),
        (5, "application/json", b"5"),
        (b"raw", "application/octet-stream", b"raw"),
    ],
)
def test_data_without_a_content_type_gets_one_in_binary_mode(data: Any, content_type: str, body: bytes) -> None:
    headers, sent = cloudevents.to_binary(Event(type="order.placed", source="/shop", id="7", data=data))
    assert (headers, sent) == (BINARY | {"content-type": content_type}, body)


def test_data_that_is_not_text_is_json_whatever_its_content_type() -> None:
    event = Event(type="a", source="b", id="c", data={"a": 1}, datacontenttype="text/plain")
    assert cloudevents.to_binary(event)[1] == b'{"a":1}'


def test_headers_are_percent_encoded() -> None:
    headers, _ = cloudevents.to_binary(msgspec.structs.replace(FULL, subject='€ "50 %"'))
    assert headers["ce-subject"] == "%E2%82%AC%20%2250%20%25%22"
    assert headers["ce-time"] == "2026-01-31T12:00:00Z"
    assert headers["ce-partitionkey"] == "customer%2012"
    assert headers["ce-priority"] == "9"


@pytest.mark.parametrize(
    ("header", "subject"),
    [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ("%c3%bc", "ü"),
        ('"quoted"', "quoted"),
        (r'"a \"b\" \\ %22c%22"', 'a "b" \\ "c"'),
        ('"', '"'),
        ("100%", "100%"),
        ("%zz", "%zz"),
    ],
)
def test_headers_are_read_as_the_binding_says(header: str, subject: str) -> None:
    event = cloudevents.from_http(BINARY | {"ce-subject": header}, b"")
    assert isinstance(event, Event)
    assert event.subject == subject


@pytest.mark.parametrize("spell", [str.upper, str.lower, str.title])
def test_headers_are_found_in_any_case(spell: Any) -> None:
    headers, body = cloudevents.to_binary(FULL)
    spelled = {spell(name): value for name, value in headers.items()}
    assert cloudevents.from_http(spelled, body) == FULL
    assert cloudevents.from_http(Headers(spelled), body) == FULL
    assert cloudevents.from_http({spell("content-type"): "Application/CloudEvents+JSON; charset=utf-8"}, cloudevents.encode(FULL)) == FULL


@pytest.mark.parametrize(
    ("content_type", "body", "data"),
    [
        ("application/json", b'{"a": 1}', {"a": 1}),
        ("Application/JSON; charset=utf-8", b"[1]", [1]),
        ("application/problem+json", b"null", None),
        ("text/plain", "ü".encode(), "ü"),
        ("text/plain; charset=ISO-8859-1", b"\xfc", "ü"),
        ("application/xml", b"<a/>", b"<a/>"),
        ("application/json", b"", None),
        ("text/plain", b"", None),
    ],
)
def test_the_content_type_says_how_a_body_is_read(content_type: str, body: bytes, data: Any) -> None:
    event = cloudevents.from_http(BINARY | {"content-type": content_type}, body)
    assert event == Event(type="order.placed", source="/shop", id="7", datacontenttype=content_type, data=data)


def test_a_body_without_a_content_type_is_json() -> None:
    assert cloudevents.from_http(BINARY, b'{"a":1}') == Event(type="order.placed", source="/shop", id="7", data={"a": 1})
    assert refusal(BINARY, b"hello").startswith("the body: expected JSON: ")


def test_structured_mode_wins_over_headers() -> None:
    assert cloudevents.from_http(BINARY | STRUCTURED, cloudevents.encode(FULL)) == FULL


def test_the_content_type_wins_over_its_ce_header() -> None:
    event = cloudevents.from_http(BINARY | {"ce-datacontenttype": "text/plain", "content-type": "application/json"}, b"1")
    assert event == Event(type="order.placed", source="/shop", id="7", datacontenttype="application/json", data=1)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-01-31T12:00:00Z", NOON),
        ("2026-01-31t12:00:00z", NOON),
        ("2026-01-31T14:00:00+02:00", NOON),
        ("2026-01-31T12:00:00.123456789Z", NOON.replace(microsecond=123457)),
    ],
)
def test_times_are_read_as_rfc_3339_and_become_utc(text: str, time: datetime) -> None:
    event = cloudevents.from_dict(PLAIN | {"time": text, "due": text})
    assert (event.time, event.due) == (time, time)
    assert event.time is not None
    assert event.time.tzinfo is UTC


def test_times_are_sent_as_utc() -> None:
    event = msgspec.structs.replace(FULL, time=NOON.astimezone(timezone(timedelta(hours=5, minutes=30))))
    assert cloudevents.to_dict(event)["time"] == "2026-01-31T12:00:00Z"


def test_null_is_an_attribute_that_is_absent() -> None:
    assert cloudevents.from_dict(PLAIN | {"subject": None, "time": None, "colour": None, "data": None}) == cloudevents.from_dict(PLAIN)


def test_a_priority_may_be_text() -> None:
    assert cloudevents.from_dict(PLAIN | {"priority": "7"}).priority == 7


def test_extensions_are_said_as_cloudevents_can() -> None:
    given_ = {"at": NOON, "uid": uuid.UUID(int=0), "raw": b"\xff", "big": 2**40, "ratio": 0.5, "flag": True, "count": 3}
    sent = {"at": "2026-01-31T12:00:00Z", "uid": str(uuid.UUID(int=0)), "raw": "/w==", "big": str(2**40), "ratio": "0.5"}
    written = cloudevents.to_dict(Event(type="order.placed", source="/shop", id="7", extensions=given_))
    assert written == PLAIN | sent | {"flag": True, "count": 3}


def test_reading_leaves_the_dict_alone() -> None:
    value = dict(FULL_DICT)
    cloudevents.from_dict(value)
    assert value == FULL_DICT


# The oracle


def to_sdk(event: Event) -> CloudEvent:
    times = {name: time.astimezone(UTC) for name, time in (("time", event.time), ("due", event.due)) if time is not None}
    return CloudEvent(attributes_of(event) | times, event.data)


def attributes_of(event: Event) -> dict[str, Any]:
    return {name: value for name, value in cloudevents.to_dict(event).items() if name not in ("data", "data_base64")}


timed_events = typed_events.filter(lambda event: event.time is not None)  # the SDK makes up a time that is missing


@patient
@given(timed_events)
def test_the_sdk_reads_what_structured_mode_writes(event: Event) -> None:
    read = sdk.from_http_event(sdk.HTTPMessage(STRUCTURED, cloudevents.encode(event)))
    assert read.get_attributes() == attributes_of(event) | {"time": event.time}
    assert read.get_data() == event.data


@patient
@given(timed_events)
def test_structured_mode_reads_what_the_sdk_writes(event: Event) -> None:
    written = sdk.to_structured_event(to_sdk(event))
    assert cloudevents.from_http(written.headers, written.body) == event


@patient
@given(timed_events)
def test_the_sdk_reads_what_binary_mode_writes(event: Event) -> None:
    read = sdk.from_http_event(sdk.HTTPMessage(*cloudevents.to_binary(event)))
    texts = {name: str(value).lower() if value in (True, False) else str(value) for name, value in attributes_of(event).items()}
    assert read.get_attributes() == texts | {"time": event.time}
    if event.datacontenttype is not None and "json" in event.datacontenttype:
        assert read.get_data() == event.data


@patient
@given(events().filter(lambda event: event.time is not None and isinstance(event.data, dict | bytes | None)))
def test_binary_mode_reads_what_the_sdk_writes(event: Event) -> None:
    written = sdk.to_binary_event(to_sdk(event))  # it writes other data as Python shows it
    assert cloudevents.from_http(written.headers, written.body) == event


@patient
@given(st.lists(timed_events, max_size=3))
def test_the_sdk_reads_each_event_of_a_batch(batch: list[Event]) -> None:
    read = [JSONFormat().read(None, json.dumps(item)) for item in json.loads(cloudevents.encode_batch(batch))]
    assert [event.get_id() for event in read] == [event.id for event in batch]
    assert [event.get_data() for event in read] == [event.data for event in batch]


# What no event is


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"specversion": "0.3"}, 'attribute "specversion": expected "1.0", found \'0.3\''),
        ({"specversion": None}, 'attribute "specversion": expected "1.0", found nothing'),
        ({"id": None}, 'attribute "id": expected a string, found nothing; every CloudEvent has one'),
        ({"id": ""}, "attribute \"id\": expected a string that is not empty, found ''"),
        ({"type": 5}, 'attribute "type": expected a string that is not empty, found 5'),
        ({"source": ["a"]}, "attribute \"source\": expected a string that is not empty, found ['a']"),
        ({"subject": ""}, "attribute \"subject\": expected a string that is not empty, found ''"),
        ({"partitionkey": 5}, 'attribute "partitionkey": expected a string that is not empty, found 5'),
        (
            {"time": "2026-01-31T12:00:00"},
            'attribute "time": expected a time with its offset, like "2026-01-31T12:00:00Z", found \'2026-01-31T12:00:00\'',
        ),
        ({"due": 5}, 'attribute "due": expected a time with its offset, like "2026-01-31T12:00:00Z", found 5'),
        (
            {"time": "0001-01-01T00:00:00+05:00"},
            'attribute "time": expected a time with its offset, like "2026-01-31T12:00:00Z", found \'0001-01-01T00:00:00+05:00\'',
        ),
        ({"priority": 10}, 'attribute "priority": expected an integer from 9 (urgent) to 0 (bulk), found 10'),
        ({"priority": True}, 'attribute "priority": expected an integer from 9 (urgent) to 0 (bulk), found True'),
        ({"priority": "high"}, "attribute \"priority\": expected an integer from 9 (urgent) to 0 (bulk), found 'high'"),
        ({"Colour": "red"}, "attribute 'Colour': expected a name made of a-z and 0-9 only"),
        ({"trace_id": "1"}, "attribute 'trace_id': expected a name made of a-z and 0-9 only"),
        ({"größe": "1"}, "attribute 'größe': expected a name made of a-z and 0-9 only"),
        ({"": "1"}, "attribute '': expected a name made of a-z and 0-9 only"),
        ({"colour": {"r": 1}}, "attribute \"colour\": expected a string, a boolean or a 32-bit integer, found {'r': 1}"),
        ({"colour": [1]}, 'attribute "colour": expected a string, a boolean or a 32-bit integer, found [1]'),
        ({"colour": 1.5}, 'attribute "colour": expected a string, a boolean or a 32-bit integer, found 1.5'),
        ({"colour": 2**31}, 'attribute "colour": expected a string, a boolean or a 32-bit integer, found 2147483648'),
        ({"data": 1, "data_base64": "AA=="}, "`data` and `data_base64`: expected one of them, found both"),
        ({"data_base64": "A"}, "`data_base64`: expected a string of base64, found 'A'"),
        ({"data_base64": "ü==="}, "`data_base64`: expected a string of base64, found 'ü==='"),
        ({"data_base64": "AA==\n"}, "`data_base64`: expected a string of base64, found 'AA==\\n'"),
        ({"data_base64": 5}, "`data_base64`: expected a string of base64, found 5"),
    ],
)
def test_a_malformed_attribute_is_named_with_what_is_expected(attributes: dict[str, Any], message: str) -> None:
    value = {name: item for name, item in (PLAIN | attributes).items() if item is not None}
    assert refusal(STRUCTURED, codec.to_json(value)) == message


def test_what_was_found_is_shortened() -> None:
    expected = 'attribute "colour": expected a string, a boolean or a 32-bit integer, found '
    assert refusal_of(colour=[["x" * 1000] * 1000]) == f"{expected}[['{'x' * 56}…"


def test_one_bad_event_refuses_its_batch_and_is_named() -> None:
    body = codec.to_json([PLAIN, PLAIN | {"id": ""}])
    assert refusal(BATCH, body) == "batch[1]: attribute \"id\": expected a string that is not empty, found ''"
    assert refusal(BATCH, b"[5]") == "batch[0]: a CloudEvent is a JSON object, found 5"
    assert refusal(BATCH, b"{}") == "a batch of CloudEvents is a JSON array, found {}"


def test_an_empty_batch_is_no_event() -> None:
    assert cloudevents.from_http(BATCH, b"[]") == []


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, "none"),
        ({"content-type": "application/json"}, '"application/json"'),
        ({"content-type": "application/cloudevents+xml"}, '"application/cloudevents+xml"'),
        (BINARY | {"content-type": "application/cloudevents+avro; a=b"}, '"application/cloudevents+avro"'),
    ],
)
def test_what_does_not_look_like_an_event_is_unsupported(headers: dict[str, str], found: str) -> None:
    with pytest.raises(MalformedEvent) as caught:
        cloudevents.from_http(headers, b"{}")
    assert caught.value.unsupported
    expected = "application/cloudevents+json, application/cloudevents-batch+json or ce- headers"
    assert str(caught.value) == f"content-type: expected {expected}, found {found}"


@pytest.mark.parametrize(
    ("headers", "body", "message"),
    [
        ({"ce-id": ""}, b"", "attribute \"id\": expected a string that is not empty, found ''"),
        ({"ce-specversion": "1.1"}, b"", 'attribute "specversion": expected "1.0", found \'1.1\''),
        ({"ce-trace-id": "1"}, b"", "attribute 'trace-id': expected a name made of a-z and 0-9 only"),
        ({"ce-data": "1"}, b"", 'attribute "data": CloudEvents gives the name another meaning; expected another one for an extension'),
        ({"ce-subject": "%ff"}, b"", "header ce-subject: expected percent-encoded UTF-8, found '%ff'"),
        (
            {"content-type": "application/json"},
            b'{"a" 1}',
            "the body: expected JSON: JSON is malformed: expected ':' (byte 5)",
        ),
        ({"content-type": "text/plain; charset=rot13"}, b"a", "content-type: expected a charset like utf-8, found 'rot13'"),
        (
            {"content-type": "text/plain"},
            b"\xff",
            (
                "the body: expected text as its content-type says, found 'utf-8' codec can't decode byte 0xff in position 0: "
                "invalid start byte"
            ),
        ),
    ],
)
def test_a_malformed_binary_message_is_told(headers: dict[str, str], body: bytes, message: str) -> None:
    assert refusal(BINARY | headers, body) == message


def test_a_missing_id_is_malformed() -> None:
    headers = {name: value for name, value in BINARY.items() if name != "ce-id"}
    assert refusal(headers, b"") == 'attribute "id": expected a string, found nothing; every CloudEvent has one'


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (
            Event(type="a", source="b", id="c", due=datetime(2026, 1, 31)),  # noqa: DTZ001 - what is wrong with it
            'attribute "due": expected a time with a timezone, found datetime.datetime(2026, 1, 31, 0, 0); add one, like `tzinfo=UTC`',
        ),
        (
            Event(type="a", source="b", id="c", extensions={"trace_id": "1"}),
            "attribute 'trace_id': expected a name made of a-z and 0-9 only",
        ),
        (
            Event(type="a", source="b", id="c", extensions={"partitionkey": "1"}),
            'attribute "partitionkey": CloudEvents gives the name another meaning; expected another one for an extension',
        ),
        (
            Event(type="a", source="b", id="c", extensions={"colour": [1]}),
            'attribute "colour": expected a string, a boolean or a 32-bit integer, found [1]',
        ),
        (
            Event(type="a", source="b", id="c", extensions={"colour": object}),
            "attribute \"colour\": expected a string, a boolean or a 32-bit integer, found <class 'object'>",
        ),
    ],
)
def test_an_event_that_cloudevents_cannot_say_is_refused(event: Event, message: str) -> None:
    with pytest.raises(MalformedEvent) as caught:
        cloudevents.encode(event)
    assert str(caught.value) == message


def test_a_content_type_cannot_smuggle_a_header_in() -> None:
    with pytest.raises(MalformedEvent, match="datacontenttype"):
        cloudevents.to_binary(Event(type="a", source="b", id="c", data="d", datacontenttype="text/plain\r\nx-admin: 1"))


def test_text_that_its_charset_cannot_say_is_refused() -> None:
    with pytest.raises(MalformedEvent, match="use charset=utf-8"):
        cloudevents.to_binary(Event(type="a", source="b", id="c", data="ü", datacontenttype="text/plain; charset=us-ascii"))


# Hostile input


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "expected JSON: Input data was truncated"),
        (b"NaN", "expected JSON: JSON is malformed: invalid character (byte 0)"),
        (b"[1e999]", "expected JSON: Number out of range"),
        (b'"\\ud800"', "expected JSON: Input data was truncated"),
        (b'"\xff"', "expected JSON: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        (b"1" * 5000, "expected JSON: Integer value out of range"),
        (b"[18446744073709551616]", "expected integers of at most 64 bits, found a larger one; send it as a string"),
        (b"[-9223372036854775809]", "expected integers of at most 64 bits, found a larger one; send it as a string"),
        (nested(257), "expected JSON nested at most 256 levels deep, found more"),
        (nested(100_000), "expected JSON nested at most 256 levels deep, found more"),
        (b'{"a":' * 100_000, "expected JSON nested at most 256 levels deep, found more"),
    ],
)
def test_hostile_json_is_malformed(body: bytes, message: str) -> None:
    assert refusal(STRUCTURED, body).startswith(f"the event: {message}")
    assert refusal(BATCH, body).startswith(f"the batch: {message}")
    if body:
        assert refusal(BINARY | {"content-type": "application/json"}, body).startswith(f"the body: {message}")


def test_data_may_be_wide_and_as_deep_as_the_limit() -> None:
    wide = {"rows": [{"n": [n]} for n in range(1000)], "text": "[" * 1000}
    assert cloudevents.from_http(BINARY, codec.to_json(wide)) == Event(type="order.placed", source="/shop", id="7", data=wide)
    assert isinstance(cloudevents.from_http(BINARY, nested(256)), Event)


def test_the_last_of_two_keys_that_are_equal_counts() -> None:
    body = b'{"specversion":"1.0","id":"6","id":"7","source":"/shop","type":"order.placed"}'
    assert cloudevents.decode(body) == cloudevents.from_dict(PLAIN)


hostile_names = st.sampled_from([*PLAIN, *cloudevents._ATTRIBUTES, "data", "data_base64", "colour"]) | st.text(max_size=5)
hostile_dicts = st.builds(lambda overrides: PLAIN | overrides, st.dictionaries(hostile_names, values, max_size=4))
hostile_bodies = st.one_of(
    st.binary(max_size=60),
    values.map(codec.to_json),
    hostile_dicts.map(codec.to_json),
    st.lists(hostile_dicts, max_size=3).map(codec.to_json),
    st.tuples(hostile_dicts.map(codec.to_json), st.integers(0, 80), st.binary(max_size=3)).map(lambda cut: cut[0][: cut[1]] + cut[2]),
)
content_types = st.sampled_from(
    [STRUCTURED["content-type"], BATCH["content-type"], "application/json", "text/plain", "text/plain; charset=utf-16", "text/x;charset"]
)
hostile_headers = st.builds(
    lambda base, extra, kind: base | extra | kind,
    st.sampled_from([{}, BINARY]),
    st.dictionaries(hostile_names.map("ce-".__add__) | st.text(max_size=5), st.text(max_size=20) | st.just("%c3"), max_size=4),
    st.just({}) | st.builds(lambda value: {"content-type": value}, content_types | st.text(max_size=20)),
)


@settings(patient, max_examples=300)
@given(hostile_headers, hostile_bodies)
def test_whatever_comes_in_is_an_event_that_can_be_sent_on_or_malformed(headers: dict[str, str], body: bytes) -> None:
    try:
        read = cloudevents.from_http(headers, body)
    except MalformedEvent:
        return
    for event in read if isinstance(read, list) else [read]:
        assert cloudevents.decode(cloudevents.encode(event)) == event
        msgspec.msgpack.encode(event)


@patient
@given(st.binary() | hostile_bodies)
def test_whatever_is_decoded_is_an_event_or_malformed(body: bytes) -> None:
    for decode in (cloudevents.decode, cloudevents.decode_batch):
        try:
            decode(body)
        except MalformedEvent:
            continue


@patient
@given(st.dictionaries(st.text(max_size=20) | st.sampled_from(["ce-id", "Webhook-Id"]), st.text(max_size=20)))
def test_any_headers_have_an_id_or_none(headers: dict[str, str]) -> None:
    assert isinstance(cloudevents.id_from_headers(headers), str)


# Ids of senders


@pytest.mark.parametrize(
    ("headers", "id"),
    [
        ({}, ""),
        ({"X-GitHub-Delivery": "9"}, "9"),
        ({"Nats-Msg-Id": "8", "X-GitHub-Delivery": "9"}, "8"),
        ({"CE-ID": "a%20b", "Nats-Msg-Id": "8"}, "a b"),
        ({"webhook-id": "msg_1"}, "msg_1"),
        ({"webhook-id": "", "idempotency-key": "k"}, "k"),
        ({"X-Request-Id": "5"}, ""),
    ],
)
def test_the_id_of_the_sender_is_found(headers: dict[str, str], id: str) -> None:
    assert cloudevents.id_from_headers(headers) == id
    assert cloudevents.id_from_headers(Headers(headers)) == id
