"""Messages of brokers as events and back, held against what the protocol bindings of CloudEvents say."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.bindings import amqp, kafka
from cloudevents.core.formats.json import JSONFormat
from hypothesis import given
from hypothesis import strategies as st

from runtime import Event, Malformed, Reject
from runtime.bindings import AMQP, KAFKA, MQTT, NATS, Address, Binding, Content, Mode, Reader, write

TIME = datetime(2027, 1, 15, 8, 0, 0, 125000, UTC)
FULL = Event(
    type="order.placed",
    source="/shop?a=b",
    id="ünï 7%",
    time=TIME,
    subject="a subject",
    key="ada",
    priority=9,
    dataschema="https://example.com/schema.json",
    datacontenttype="application/json",
    extensions={"traceparent": "00-1", "flag": "true"},
    data={"n": 1},
)
BINDINGS = {"nats": NATS, "kafka": KAFKA, "amqp": AMQP, "mqtt": MQTT}


def reader(binding: Binding = NATS, type: str | None = None, content: Content = "json") -> Reader:
    return Reader(binding, "in", type=type, usual="{subject}", names=("subject",), content=content)


def read(headers: Mapping[str, str], body: bytes, *, by: Reader | None = None, **said: Any) -> Event:
    lowered = {name.lower(): value for name, value in headers.items()}
    return (by or reader())(lowered, body, **({"id": "1", "names": {"subject": "orders.new"}, "subject": "orders.new"} | said))


@pytest.mark.parametrize("mode", ["binary", "structured"])
@pytest.mark.parametrize("binding", BINDINGS.values(), ids=BINDINGS)
@pytest.mark.parametrize("event", [FULL, Event(type="a", source="b", id="c"), Event(type="a", source="b", id="c", data=b"\xff\x00")])
def test_an_event_comes_back_as_it_was(binding: Binding, mode: Mode, event: Event) -> None:
    found = read(*write(binding, event, mode), by=reader(binding))
    if mode == "binary" and isinstance(event.data, bytes):
        assert found.datacontenttype == "application/octet-stream"
        found = Event(type="a", source="b", id="c", data=found.data)
    assert found == event


@pytest.mark.parametrize("binding", BINDINGS.values(), ids=BINDINGS)
@given(text=st.text(min_size=1).filter(lambda text: text.isprintable() or True), data=st.one_of(st.none(), st.integers(0, 9), st.text()))
def test_any_text_comes_back_as_it_was(binding: Binding, text: str, data: Any) -> None:
    event = Event(type="a", source="b", id=text, subject=text, extensions={"any": text}, data=data, datacontenttype="application/json")
    assert read(*write(binding, event, "binary"), by=reader(binding)) == event


def test_each_binding_has_its_own_headers() -> None:
    event = Event(type="a", source="b", id="ü", data={"n": 1})
    said = {name: write(binding, event, "binary")[0] for name, binding in BINDINGS.items()}
    common = {"specversion": "1.0", "source": "b", "type": "a"}
    assert said == {
        "nats": {f"ce-{name}": value for name, value in common.items()} | {"ce-id": "%C3%BC", "ce-datacontenttype": "application/json"},
        "kafka": {f"ce_{name}": value for name, value in common.items()} | {"ce_id": "ü", "content-type": "application/json"},
        "amqp": {f"cloudEvents:{name}": value for name, value in common.items()}
        | {"cloudEvents:id": "ü", "content-type": "application/json"},
        "mqtt": common | {"id": "ü", "content-type": "application/json"},
    }
    assert write(NATS, event, "structured")[0] == {"content-type": "application/cloudevents+json"}


def test_the_sdk_understands_what_is_written_for_kafka() -> None:
    headers, body = write(KAFKA, FULL, "binary")
    message = kafka.KafkaMessage(headers={name: value.encode() for name, value in headers.items()}, key=None, value=body)
    told = kafka.from_binary(message, JSONFormat())
    assert (told.get_id(), told.get_type(), told.get_time(), told.get_data()) == (FULL.id, FULL.type, TIME, {"n": 1})
    assert told.get_extension("partitionkey") == "ada"


def test_the_sdk_understands_what_is_written_for_amqp() -> None:
    headers, body = write(AMQP, FULL, "binary")
    content_type = headers.pop("content-type")
    told = amqp.from_binary(
        amqp.AMQPMessage(properties={"content-type": content_type}, application_properties=headers, application_data=body), JSONFormat()
    )
    assert (told.get_id(), told.get_type(), told.get_time(), told.get_data()) == (FULL.id, FULL.type, TIME, {"n": 1})


def test_a_plain_message_is_the_data_of_an_event_made_of_what_the_broker_says() -> None:
    assert read({}, b'{"n": 1}', time=TIME, key="k") == Event(
        type="orders.new", source="source/in", id="1", subject="orders.new", time=TIME, key="k", data={"n": 1}
    )


@pytest.mark.parametrize(
    ("content", "headers", "body", "data"),
    [
        ("json", {}, b"[1]", [1]),
        ("json", {}, b"", None),
        ("text", {}, "ü".encode(), "ü"),
        ("bytes", {}, b"\xff", b"\xff"),
        ("json", {"content-type": "text/plain"}, b"a", "a"),
        ("bytes", {"content-type": "application/json"}, b"[1]", [1]),
    ],
)
def test_what_a_plain_message_is_says_its_content_type_or_else_the_option(
    content: Content, headers: dict[str, str], body: bytes, data: Any
) -> None:
    found = read(headers, body, by=reader(content=content))
    assert found.data == data
    assert not isinstance(found, Malformed)


def test_json_that_has_all_of_an_event_is_one_though_nothing_says_so() -> None:
    text = b'{"specversion": "1.0", "id": "7", "source": "s", "type": "t", "data": 1}'
    assert read({}, text) == Event(type="t", source="s", id="7", data=1)
    assert read({}, b'{"specversion": "1.0", "id": "7"}').data == {"specversion": "1.0", "id": "7"}
    assert read({}, text, by=reader(content="text")).data == text.decode()


@pytest.mark.parametrize(
    ("type", "expected"),
    [("order.placed", "order.placed"), ("from.{subject}", "from.orders.new"), ("{header.Kind}", "special"), (None, "orders.new")],
)
def test_the_type_is_fixed_or_made_of_what_is_known(type: str | None, expected: str) -> None:
    assert read({"Kind": "special"}, b"1", by=reader(type=type)).type == expected


def test_a_type_that_is_given_is_that_of_cloudevents_too() -> None:
    message = write(NATS, FULL, "binary")
    assert read(*message, by=reader(type="{subject}")).type == "orders.new"
    assert read(*message).type == "order.placed"


def test_the_trace_is_carried_by_any_message() -> None:
    trace = {"traceparent": "00-2", "tracestate": "a=b"}
    assert read({**trace, "else": "x"}, b"1").extensions == trace
    headers, body = write(NATS, Event(type="a", source="b", id="c"), "binary")
    assert read({**headers, **trace}, body).extensions == trace
    assert write(NATS, FULL, "structured")[0]["traceparent"] == "00-1"
    assert read({**write(NATS, FULL, "binary")[0], "traceparent": "00-3"}, b"").extensions["traceparent"] == "00-1"


def test_the_key_of_the_broker_counts_where_the_event_has_none() -> None:
    assert read(*write(KAFKA, FULL, "binary"), by=reader(KAFKA), key="other").key == "ada"
    assert read(*write(KAFKA, Event(type="a", source="b", id="c"), "binary"), by=reader(KAFKA), key="other").key == "other"


BATCH = {"content-type": "application/cloudevents-batch+json"}
ATTRIBUTES = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s"}


@pytest.mark.parametrize(
    ("headers", "body", "why"),
    [
        ({}, b"{", "the body: expected JSON: Input data was truncated"),
        ({}, b"\xff", "the body: expected JSON: "),
        ({"content-type": "application/cloudevents+json"}, b"{}", 'attribute "specversion": expected "1.0", found nothing'),
        (BATCH, b"[]", "content-type: expected application/cloudevents+json, found 'application/cloudevents-batch+json'"),
        (ATTRIBUTES, b"", 'attribute "type": expected a string, found nothing; every CloudEvent has one'),
        (ATTRIBUTES | {"ce-type": "%ff"}, b"", "header ce-type: expected percent-encoded UTF-8, found '%ff'"),
        ({"content-type": "text/plain"}, b"\xff", "the body: expected text as its content-type says, found "),
    ],
)
def test_what_cannot_be_understood_is_an_event_that_says_why_with_the_raw_bytes(headers: dict[str, str], body: bytes, why: str) -> None:
    found = read(headers, body)
    assert isinstance(found, Malformed)
    assert (found.type, found.source, found.id, found.data) == ("orders.new", "source/in", "1", body)
    assert found.why.startswith(why)


def test_a_message_without_what_its_type_is_made_of_cannot_be_understood() -> None:
    found = read({}, b"1", by=reader(type="{header.kind}"))
    assert isinstance(found, Malformed)
    assert (found.type, found.data) == ("malformed", b"1")
    assert found.why == "expected a message with something for the place {header.kind} of `type`, found nothing"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{topic}", "`type`: expected places like {subject}, {header.NAME}, found {topic}; correct it"),
        ("{header.}", "`type`: expected places like {subject}, {header.NAME}, found {header.}; correct it"),
        ("{subject", "`type`: expected a text that is not empty, where each { has its }, found '{subject'; correct it"),
        ("", "`type`: expected a text that is not empty, where each { has its }, found ''; correct it"),
    ],
)
def test_a_template_that_is_wrong_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        reader(type=text)
    assert str(caught.value) == message


def test_an_address_is_made_of_the_event() -> None:
    assert Address("subject", "out.{type}.{key}.{extension.flag}")(FULL) == "out.order.placed.ada.true"
    assert Address("subject", "{type}")(FULL) == "order.placed"
    with pytest.raises(Reject, match=r"`subject`: expected an event with something for the place \{key\}, found nothing"):
        Address("subject", "{key}")(Event(type="a", source="b"))


def test_what_cloudevents_cannot_say_is_refused_for_good() -> None:
    with pytest.raises(Reject, match="attribute 'Bad'"):
        write(NATS, Event(type="a", source="b", id="c", extensions={"Bad": "x"}), "binary")
