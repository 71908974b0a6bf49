"""Where the sink `webhook` sends to, and by what it is known there."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec
from yarl import URL

from runtime import Event, posting

from ._credentials import Auth
from ._signatures import Signature

_HEADER = re.compile(r"(?!ce-|content-|transfer-encoding$)[\w!#$%&'*+.^`|~-]+", re.ASCII | re.IGNORECASE)


class SinkOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where to send events, and how; `ca` is a file of certificates to trust instead of the system's, `proxy` a URL."""

    url: str
    mode: Literal["structured", "binary", "batch"] = "structured"
    auth: Auth | None = None
    signature: Signature | None = None
    headers: dict[str, str] = {}
    ca: str | None = None
    proxy: str | None = None


def address_of(text: str) -> URL:
    """Return the address that events are sent to; a ValueError says what is wrong with it, but shows nothing of it."""
    try:
        url = URL(text)
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError('url: expected an address like "https://example.com/events", found something else; correct it')
    if url.user is not None or url.password is not None:
        raise ValueError('url: expected no user and no password in it, found some; write `auth = { basic = "USER:PASSWORD" }`')
    return url


def proxy_of(text: str | None) -> URL | None:
    """Return the address of a proxy; a ValueError says what is wrong with it, but shows nothing of it."""
    if text is None:
        return None
    try:
        url = URL(text)
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError('proxy: expected an address like "http://USER:PASSWORD@proxy.example.com:3128", found something else; correct it')
    return url


def id_of(events: list[Event]) -> str:
    """Return the id of a message with these events, which a second attempt has too."""
    names = "\0".join(f"{event.source}\0{event.id}" for event in events)
    return f"msg_{hashlib.sha256(names.encode()).hexdigest()[:32]}"


def headers_of(options: SinkOptions) -> Iterator[tuple[str, str]]:
    """Yield the headers of all requests; a ValueError names the one that is wrong, but does not show its value."""
    given = dict(options.headers)
    if options.auth is not None:
        if any(name.lower() == "authorization" for name in given):
            raise ValueError("headers: expected no Authorization beside `auth`, found one; remove one of them")
        given["Authorization"] = options.auth.header
    for name, value in given.items():
        if not _HEADER.fullmatch(name):
            raise ValueError(f'headers: "{name}" is no name of a header, or of one that the sink sets itself; remove it')
        if re.search(r"[\x00-\x1f\x7f]", value):
            raise ValueError(f"{name}: expected text without control characters, found some, perhaps a line break; remove them")
        yield name, value


def secrets_of(options: SinkOptions, headers: Mapping[str, str]) -> list[str]:
    """Return what may not be shown, whole and in part."""
    basic = options.auth.basic or "" if options.auth else ""
    signing = options.signature.secret if options.signature else ""
    proxy = URL(options.proxy or "")
    known = [basic, basic.partition(":")[2], signing, proxy.user or "", proxy.password or "", proxy.raw_password or ""]
    return [*known, *posting.secrets_of(options.url, headers.values())]
