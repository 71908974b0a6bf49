"""Forms, as pages and `curl -F` send them: bodies of `name=value` pairs, and of parts with files among them.

A form becomes an object: by name a text, a list of them where a name is sent several times. A file, and what is no
text, is an object of `filename`, `content_type` and `content`, in base64; a file that was not chosen is None.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode

from runtime import MalformedEvent

URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"
FORMS = (URLENCODED, MULTIPART)
MOST = 1000  # fields or parts of a form

_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"]{1,70})"|([^\s";,]{1,70}))', re.IGNORECASE)
_PARAMETER = re.compile(r';\s*(name|filename)="((?:[^"\\]|\\.)*)"', re.IGNORECASE)


def read_urlencoded(body: bytes) -> dict[str, Any]:
    """Return the form that a body of pairs says.

    Raises:
        MalformedEvent: it has too many fields.
        UnicodeDecodeError: it is no text.
    """
    try:
        return _gathered(parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=MOST))
    except UnicodeDecodeError:
        raise
    except ValueError:
        raise MalformedEvent(f"the form: expected at most {MOST} fields, found more") from None


def read_multipart(content_type: str, body: bytes) -> dict[str, Any]:
    """Return the form that a body of parts says.

    Raises:
        MalformedEvent: it is none; the text says what is wrong.
    """
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise MalformedEvent("content-type: expected a boundary, found none")
    _, *parts = (b"\r\n" + body).split(b"\r\n--" + (found[1] or found[2]).encode("latin-1"), MOST + 1)
    if not parts or not parts[-1].startswith(b"--"):
        raise MalformedEvent(f"the form: expected at most {MOST} parts and a last boundary behind them, found another end")
    return _gathered(_read_part(part) for part in parts[:-1])


def write_form(content_type: str, form: Mapping[str, Any]) -> bytes:
    """Return a form as a body of this content type; one that is read from it again is the same."""
    fields = [(name, value) for name, values in form.items() for value in (values if isinstance(values, list) else [values])]
    found = _BOUNDARY.search(content_type)
    if found is None:
        return urlencode(fields).encode()
    boundary = (found[1] or found[2]).encode("latin-1")
    parts = [b"--%b\r\n%b\r\n" % (boundary, _write_part(name, value)) for name, value in fields]
    return b"".join([*parts, b"--", boundary, b"--\r\n"])


def _gathered(fields: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of fields; a name that comes several times has a list."""
    lists: dict[str, list[Any]] = {}
    for name, value in fields:
        lists.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in lists.items()}


def _read_part(part: bytes) -> tuple[str, Any]:
    """Return name and value of a part, which begins behind its boundary."""
    head, separator, content = part.lstrip(b" \t").partition(b"\r\n\r\n")
    if not separator:
        raise MalformedEvent("the form: expected an empty line between the headers of a part and its content, found none")
    try:
        headers = dict(_headers(head.decode()))
    except UnicodeDecodeError:
        raise MalformedEvent("the form: expected the headers of a part in UTF-8, found other bytes") from None
    disposition = headers.get("content-disposition", "")
    said = {name.lower(): _unescaped(value) for name, value in _PARAMETER.findall(disposition)}
    if not disposition.lower().startswith("form-data") or "name" not in said:
        raise MalformedEvent('the form: expected `Content-Disposition: form-data; name="…"` in each part, found none')
    if "filename" not in said:
        with suppress(UnicodeDecodeError):
            return said["name"], content.decode()
    media_type = headers.get("content-type", "application/octet-stream")
    file = {"filename": said.get("filename", ""), "content_type": media_type, "content": base64.b64encode(content).decode()}
    return said["name"], file if file["filename"] or content else None


def _headers(head: str) -> Iterator[tuple[str, str]]:
    for line in head.split("\r\n"):
        name, _, value = line.partition(":")
        yield name.strip().lower(), value.strip()


def _unescaped(value: str) -> str:
    """Return a name as it was before a browser (by percents) or curl (by backslashes) put it in quotes."""
    return re.sub(r"%(?:22|0[AD])", lambda match: unquote(match[0]), re.sub(r'\\(["\\])', r"\1", value), flags=re.IGNORECASE)


def _write_part(name: str, value: Any) -> bytes:
    disposition = f'Content-Disposition: form-data; name="{_escaped(name)}"'
    if isinstance(value, str):
        return f"{disposition}\r\n\r\n{value}".encode()
    file = value or {"filename": "", "content_type": "application/octet-stream", "content": ""}
    head = f'{disposition}; filename="{_escaped(file["filename"])}"\r\nContent-Type: {file["content_type"]}\r\n\r\n'
    return head.encode() + base64.b64decode(file["content"])


def _escaped(name: str) -> str:
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
