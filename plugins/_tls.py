"""TLS as connectors that connect take it: the table `tls` of their options."""

from __future__ import annotations

import ssl
from pathlib import Path

import msgspec


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`ca`: a file of certificates to trust instead of the system's; `cert` and `key`: one's own; `verify = false` trusts anybody."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    verify: bool = True

    def __post_init__(self) -> None:
        if self.key is not None and self.cert is None:
            raise ValueError("expected a `cert` beside the `key`, found none; give both, or only a `cert` that holds its key")

    def context(self, folder: Path) -> ssl.SSLContext:
        """Return what a client needs to connect; paths are relative to `folder`.

        Raises:
            OSError: a file cannot be read, or is no certificate or key.
        """
        try:
            context = ssl.create_default_context(cafile=folder / self.ca if self.ca else None)
            if self.cert:
                context.load_cert_chain(folder / self.cert, folder / self.key if self.key else None)
        except OSError as error:
            raise OSError(
                f"tls: expected certificates and a key in PEM, found {type(error).__name__}: {error}; correct the paths"
            ) from None
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context
