"""Forms as browsers, curl and libraries write them."""

from __future__ import annotations

from email.message import EmailMessage
from typing import Any

import httpx
import msgspec
import pytest
from runtime_plugins._forms import MOST, read_multipart, read_urlencoded, write_form

from runtime import MalformedEvent


class File(msgspec.Struct):
    filename: str
    content_type: str
    content: bytes


KIND = "multipart/form-data; boundary=x"


def part(head: str, content: bytes, boundary: str = "x") -> bytes:
    return f"--{boundary}\r\n{head}\r\n\r\n".encode() + content + b"\r\n"


def named(name: str, more: str = "") -> str:
    return f'Content-Disposition: form-data; name="{name}"{more}'


@pytest.mark.parametrize(
    ("body", "form"),
    [
        (b"a=1&b=2", {"a": "1", "b": "2"}),
        (b"a=1&a=2&a=", {"a": ["1", "2", ""]}),
        ("a=%C3%BC+%26&\u00fc=".encode(), {"a": "ü &", "ü": ""}),
        (b"flag", {"flag": ""}),
    ],
)
def test_pairs_are_read(body: bytes, form: dict[str, Any]) -> None:
    assert read_urlencoded(body) == form


def test_what_is_no_text_is_no_form_of_pairs() -> None:
    for body in (b"a=\xff", b"a=%ff"):
        with pytest.raises(UnicodeDecodeError):
            read_urlencoded(body)


def test_a_form_has_so_many_fields_at_most() -> None:
    assert len(read_urlencoded(b"&".join(b"%d=" % number for number in range(MOST)))) == MOST
    with pytest.raises(MalformedEvent, match=r"^the form: expected at most 1000 fields, found more$"):
        read_urlencoded(b"a&" * (MOST + 1))
    parts = part(named("a"), b"1") * MOST
    assert len(read_multipart(KIND, parts + b"--x--")["a"]) == MOST
    with pytest.raises(MalformedEvent, match="at most 1000 parts"):
        read_multipart(KIND, parts + part(named("a"), b"1") + b"--x--")


@pytest.mark.parametrize(
    ("head", "content", "value"),
    [
        (named("a"), b"hello", "hello"),
        (named("a"), b"", ""),
        (named("a"), b"two\r\nlines\r\n", "two\r\nlines\r\n"),
        (named("a"), b"\xff", {"filename": "", "content_type": "application/octet-stream", "content": "/w=="}),
        (named("a").lower(), b"1", "1"),
        (named("a") + "\r\nContent-Type: text/plain", "ü".encode(), "ü"),
        (
            named("a", '; filename="b.bin"') + "\r\nContent-Type: image/png",
            b"\x00\r\n-",
            {"filename": "b.bin", "content_type": "image/png", "content": "AA0KLQ=="},
        ),
        (named("a", '; filename="b"'), b"", {"filename": "b", "content_type": "application/octet-stream", "content": ""}),
        (named("a", '; filename=""'), b"", None),
        (
            named("a", '; filename="q%22%0D%0A.txt"'),
            b"",
            {"filename": 'q"\r\n.txt', "content_type": "application/octet-stream", "content": ""},
        ),
        (named("a", r'; filename="q\".txt"'), b"", {"filename": 'q".txt', "content_type": "application/octet-stream", "content": ""}),
        (
            named("a", '; filename="100%25.txt"'),
            b"",
            {"filename": "100%25.txt", "content_type": "application/octet-stream", "content": ""},
        ),
    ],
)
def test_a_part_is_read(head: str, content: bytes, value: object) -> None:
    assert read_multipart(KIND, part(head, content) + b"--x--\r\n") == {"a": value}


def test_what_stands_before_and_behind_the_parts_is_not_read() -> None:
    body = b"hello\r\n" + part(named("a"), b"1") + b"--x--\r\nepilogue"
    assert read_multipart('multipart/form-data; charset=utf-8; Boundary="x"', body) == {"a": "1"}


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        ("multipart/form-data", b"--x--", "content-type: expected a boundary, found none"),
        (KIND, b"", "the form: expected at most 1000 parts and a last boundary behind them, found another end"),
        (KIND, part(named("a"), b"1"), "the form: expected at most 1000 parts and a last boundary behind them, found another end"),
        (
            KIND,
            b"--x\r\n" + named("a").encode() + b"\r\n--x--",
            "the form: expected an empty line between the headers of a part and its content, found none",
        ),
        (KIND, part("X: y", b"1") + b"--x--", 'the form: expected `Content-Disposition: form-data; name="…"` in each part, found none'),
        (
            KIND,
            part('Content-Disposition: attachment; name="a"', b"1") + b"--x--",
            'the form: expected `Content-Disposition: form-data; name="…"` in each part, found none',
        ),
        (
            KIND,
            b"--x\r\n\xff: y\r\n\r\n\r\n--x--",
            "the form: expected the headers of a part in UTF-8, found other bytes",
        ),
    ],
)
def test_what_is_no_form_is_told(kind: str, body: bytes, message: str) -> None:
    with pytest.raises(MalformedEvent) as caught:
        read_multipart(kind, body)
    assert str(caught.value) == message


def test_a_form_of_a_library_is_read_and_written_again() -> None:
    files = [("f", ('a"ü.png', b"\x00\r\n--", "image/png")), ("f", ("b.txt", b"text", "text/plain"))]
    request = httpx.Request("POST", "http://a", data={"name": ["Zoë", "Jo"], 'q"': ""}, files=files)
    kind = request.headers["content-type"]
    form = read_multipart(kind, request.read())
    assert list(form) == ["name", 'q"', "f"]
    assert form["name"] == ["Zoë", "Jo"]
    assert [file["content"] for file in form["f"]] == ["AA0KLS0=", "dGV4dA=="]
    assert msgspec.convert(form["f"][0], File) == File('a"ü.png', "image/png", b"\x00\r\n--")
    assert read_multipart(kind, write_form(kind, form)) == form
    odd = {"none": None, "empty": ""}
    assert read_multipart(KIND, write_form(KIND, odd)) == odd


def test_a_form_of_pairs_is_written_again() -> None:
    form = {"a": ["1", "2"], "b": "ü &"}
    assert read_urlencoded(write_form("application/x-www-form-urlencoded", form)) == form


def test_a_written_form_is_one_for_others() -> None:
    body = write_form(KIND, {"a": "1", "f": {"filename": "b", "content_type": "image/png", "content": "Mg=="}})
    message = EmailMessage()
    message["Content-Type"] = KIND
    from email import message_from_bytes, policy

    parts = list(message_from_bytes(b"Content-Type: " + KIND.encode() + b"\r\n\r\n" + body, policy=policy.HTTP).iter_parts())
    assert [(one.get_param("name", header="content-disposition"), one.get_filename()) for one in parts] == [("a", None), ("f", "b")]
