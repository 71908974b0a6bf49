"""The event: an immutable CloudEvents 1.0 record, and what the runtime adds to steer it."""

from __future__ import annotations

import base64
import re
from datetime import datetime
from typing import Any

import msgspec

DEFAULT_PRIORITY = 4  # of 9 (urgent) … 0 (bulk), when nothing is said


class Request(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The HTTP request an event came from, without credentials; recorded, never sent on.

    `params` are the parts of the path that the route names, `query` the last value of each query
    parameter, `headers` have lower-case names.
    """

    method: str
    path: str
    params: dict[str, str] = {}
    query: dict[str, str] = {}
    headers: dict[str, str] = {}


_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")


class Answer(msgspec.Struct, frozen=True, kw_only=True, rename={"status": "statusCode", "is_base64": "isBase64Encoded"}):
    """What an HTTP caller is answered with who waits for a function that is annotated `-> Answer`.

    As data it is what API Gateway takes of AWS Lambda: `statusCode`, `headers`, `body`, `cookies`, and `isBase64Encoded`
    for a body that is bytes.

    Raises:
        ValueError: it cannot be said in HTTP.
    """

    status: int = 200
    headers: dict[str, str | int | float | bool] | None = None
    body: str | None = None
    cookies: list[str] = []
    is_base64: bool = False

    def __post_init__(self) -> None:
        if not 200 <= self.status <= 599:
            raise ValueError(f"the status of an answer is 200 … 599, found {self.status}")
        for name, value in (*(self.headers or {}).items(), *(("set-cookie", cookie) for cookie in self.cookies)):
            if not _NAME.fullmatch(name) or not _VALUE.fullmatch(str(value)):
                raise ValueError(f'a header of an answer is a word and a line of text, found another character in "{name}"')
        _ = self.content

    @property
    def content(self) -> bytes:
        """The body as it is sent."""
        body = self.body or ""
        return base64.b64decode(body) if self.is_base64 else body.encode()


def answer_of(result: Any) -> Any:
    """Return the answer that the recorded result of a function says; the result when it says none."""
    if not isinstance(result, dict) or "statusCode" not in result:
        return result
    try:
        return msgspec.convert(result, Answer, strict=False)
    except msgspec.ValidationError:  # recorded when the function was another one
        return result


class Event(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A CloudEvents 1.0 event.

    `type` and `source` are required. An `id` left empty and a `time` left out are given by the runtime
    when it accepts the event. `data` is anything JSON can say, or bytes. `extensions` holds the
    extension attributes but three, which steer: `key` (on the wire `partitionkey`) orders events that
    share it, `priority` is 9 (urgent) to 0 (bulk), or None for the default, `due` is the time before
    which the event does not run. All times are aware datetimes.
    """

    type: str
    source: str
    id: str = ""
    data: Any = None
    time: datetime | None = None
    subject: str | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    key: str | None = None
    priority: int | None = None
    due: datetime | None = None
    extensions: dict[str, Any] = {}
    request: Request | None = None


class Malformed(Event, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """An event that stands for a message which cannot be understood; `data` is its raw bytes, `why` says what is wrong with it.

    A source puts it like any other. It is accepted as a dead letter at once, and no function or sink gets it unless somebody
    redrives it.
    """

    why: str
