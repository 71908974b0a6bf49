"""Signatures of webhooks, as GitHub, Stripe, Slack and standardwebhooks.com define them: made, and checked.

All are an HMAC-SHA256 of the body, with its time before it but for GitHub's; they differ in where they stand and how
they are written. Several may be sent, when the sender changes its secret: one has to be right.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from runtime import Problem

TOLERANCE = 300.0  # seconds by which the time of a signature may differ from ours

_HEADERS = {
    "github": "X-Hub-Signature-256",
    "standard-webhooks": "webhook-signature",
    "stripe": "Stripe-Signature",
    "slack": "X-Slack-Signature",
}


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How bodies are signed: by whose `scheme`, with which `secret`."""

    scheme: Literal["github", "standard-webhooks", "stripe", "slack"]
    secret: str

    @property
    def key(self) -> bytes:
        """The secret as it goes into the HMAC.

        Raises:
            ValueError: it is not base64, as it has to be with `standard-webhooks`.
        """
        if self.scheme != "standard-webhooks":
            return self.secret.encode()
        text = self.secret.removeprefix("whsec_")
        try:
            return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except binascii.Error:
            raise ValueError("it is not base64") from None

    def fault(self) -> str | None:
        """Return what is wrong with it, or None."""
        try:
            empty = not self.key
        except ValueError:
            return (
                '`signature.secret` is not base64, perhaps with "whsec_" before it, as `standard-webhooks` has it; copy it from the sender'
            )
        return "`signature.secret` is empty; set the secret, or remove `signature`" if empty else None

    def check(self, headers: Mapping[str, str], body: bytes, now: float) -> None:
        """See to it that a body was signed with the secret, and lately; the names of headers are lower-case.

        Raises:
            Problem: it was not (401).
        """
        name = _HEADERS[self.scheme]
        if name.lower() not in headers:
            raise _refusal(f"send the signature of this route: {name}: …")
        given, time, before = _read(self.scheme, headers)
        if time is not None and not _is_near(time, now):
            raise _refusal(f"the time of the signature is missing, or more than {TOLERANCE:g} s from now")
        expected = self._made(before + body).encode()
        if not any(hmac.compare_digest(expected, one.encode("latin-1")) for one in given):
            raise _refusal(f"{name} does not fit the body")

    def headers(self, id: str, time: int, body: bytes) -> dict[str, str]:
        """Return the headers that sign a body; `id` is of the message, which a second attempt has too, `time` in seconds since 1970."""
        match self.scheme:
            case "github":
                return {"X-Hub-Signature-256": f"sha256={self._made(body)}", "X-GitHub-Delivery": id}
            case "slack":
                made = self._made(b"v0:%d:%b" % (time, body))
                return {"X-Slack-Signature": f"v0={made}", "X-Slack-Request-Timestamp": str(time)}
            case "stripe":
                return {"Stripe-Signature": f"t={time},v1={self._made(b'%d.%b' % (time, body))}"}
            case _:
                made = self._made(b"%b.%d.%b" % (id.encode(), time, body))
                return {"webhook-id": id, "webhook-timestamp": str(time), "webhook-signature": f"v1,{made}"}

    def id_of(self, headers: Mapping[str, str], data: Any) -> str:
        """Return the id of what is signed, so that a message that is sent again is no second event; empty when there is none.

        Only what is signed is looked at, but for the deliveries of GitHub, which does not sign their ids.
        """
        if self.scheme in ("github", "standard-webhooks"):
            return headers.get("webhook-id" if self.scheme == "standard-webhooks" else "x-github-delivery", "")
        id = data.get("id" if self.scheme == "stripe" else "event_id") if isinstance(data, dict) else None
        if isinstance(id, str) and id:
            return id
        return hashlib.sha256(headers[_HEADERS[self.scheme].lower()].encode("latin-1")).hexdigest()

    def challenge(self, data: Any) -> str | None:
        """Return what Slack wants to be answered, as JSON, when it asks whether somebody is there; None for all else."""
        if self.scheme != "slack" or not isinstance(data, dict) or data.get("type") != "url_verification":
            return None
        return msgspec.json.encode({"challenge": data.get("challenge")}).decode()

    def _made(self, message: bytes) -> str:
        digest = hmac.digest(self.key, message, "sha256")
        return base64.b64encode(digest).decode() if self.scheme == "standard-webhooks" else digest.hex()


def _read(scheme: str, headers: Mapping[str, str]) -> tuple[list[str], str | None, bytes]:
    """Return the signatures that were sent, the time that is signed (None: there is none), and what is signed before the body."""
    text = headers[_HEADERS[scheme].lower()]
    if scheme == "github":
        return _behind("sha256=", [text]), None, b""
    if scheme == "slack":
        time = headers.get("x-slack-request-timestamp", "")
        return _behind("v0=", [text]), time, f"v0:{time}:".encode("latin-1")
    if scheme == "stripe":
        parts = [part.strip() for part in text.split(",")]
        time = next(iter(_behind("t=", parts)), "")
        return _behind("v1=", parts), time, f"{time}.".encode("latin-1")
    id, time = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    return _behind("v1,", text.split()), time, f"{id}.{time}.".encode("latin-1")


def _behind(prefix: str, texts: list[str]) -> list[str]:
    return [text.removeprefix(prefix) for text in texts if text.startswith(prefix)]


def _is_near(time: str, now: float) -> bool:
    return time.isascii() and time.isdecimal() and len(time) < 16 and abs(now - int(time)) <= TOLERANCE


def _refusal(detail: str) -> Problem:
    return Problem(401, detail, www_authenticate="Signature")
