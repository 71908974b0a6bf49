"""The event: an immutable CloudEvents 1.0 record, and what the runtime adds to steer it."""

from __future__ import annotations

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
