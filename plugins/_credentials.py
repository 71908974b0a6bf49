"""Credentials of HTTP: a bearer token, or user and password; sent by sinks, asked for by sources."""

from __future__ import annotations

import base64
import hmac

import msgspec


class Auth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who may call: those who send this token (`bearer`), or as `basic` this "USER:PASSWORD"."""

    bearer: str | None = None
    basic: str | None = None

    def __post_init__(self) -> None:
        if (self.bearer is None) == (self.basic is None):
            raise ValueError("expected either `bearer` or `basic`; give one of them")

    @property
    def scheme(self) -> str:
        """The word in front."""
        return "Bearer" if self.basic is None else "Basic"

    @property
    def header(self) -> str:
        """What is sent as `Authorization`."""
        return f"{self.scheme} {self._credentials.decode()}"

    @property
    def _credentials(self) -> bytes:
        return (self.bearer or "").encode() if self.basic is None else base64.b64encode(self.basic.encode())

    def admits(self, authorization: str) -> bool:
        """Return whether a caller who sends this `Authorization` is one of them; takes the same time for whatever is wrong in it."""
        scheme, _, given = authorization.partition(" ")
        return hmac.compare_digest(given.strip().encode("latin-1"), self._credentials) and scheme.lower() == self.scheme.lower()

    def fault(self) -> str | None:
        """Return what is wrong with it as something to ask for, or None."""
        if self.bearer == "":
            return "`auth.bearer` is empty; set the secret, or remove `auth` to let anyone in"
        if self.basic is not None and not (":" in self.basic and self.basic.partition(":")[2]):
            return '`auth.basic` is "USER:PASSWORD", found no password; set the secret, or remove `auth` to let anyone in'
        return None
