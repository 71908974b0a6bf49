"""The sink `webhook`: CloudEvents to a server, over HTTP.

What the server answers decides: 2xx means that it has the event; 408, 425, 429, 5xx and no answer at all that the
event is tried again, not before the time that `Retry-After` asks for; anything else, redirects included, that it is
refused for good. Errors show the beginning of an answer, and it may repeat what it was sent: what could be a secret,
which is the value of any header, the path and the query of `url` and who we are to a proxy, is struck out.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping

import aiohttp

from runtime import Event, MalformedEvent, PartialFailure, Reject, Sink, Unavailable, cloudevents, hookimpl, posting, redaction

from ._credentials import Auth
from ._receiver import SinkOptions, address_of, headers_of, id_of, proxy_of, secrets_of
from ._signatures import Signature

__all__ = ["Auth", "Signature", "SinkOptions", "Webhook", "register_sinks"]

SUSPECT = frozenset({400, 413, 422})  # of a batch that is refused so, a single event may be the cause


class Webhook(Sink):
    """Sends events one after the other, or with `mode = "batch"` together.

    A batch that is refused is sent again one by one, so that only the event that is the cause ends as a dead letter.
    """

    Options = SinkOptions

    def __init__(self, name: str, options: SinkOptions) -> None:
        super().__init__(name, options)
        self._url = address_of(options.url)
        self._proxy = proxy_of(options.proxy)
        if options.signature and (fault := options.signature.fault()):
            raise ValueError(fault)
        self._headers = dict(headers_of(options))
        self._secrets = secrets_of(options, self._headers)
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make ready; connections are made when there is something to send, and used again.

        Raises:
            OSError: `ca` cannot be read.
        """
        self._session = posting.open_session(self._headers, trusted=self._trusted())

    def _trusted(self) -> ssl.SSLContext | bool:
        if self.options.ca is None:
            return True
        path = self.folder / self.options.ca
        try:
            return ssl.create_default_context(cafile=path)
        except OSError as error:
            raise OSError(f"ca: expected certificates in PEM at {path}, found {type(error).__name__}: {error}; correct it") from None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def write(self, events: list[Event]) -> None:
        """Send the events; when the server asks for time, those behind are not sent either.

        Raises:
            PartialFailure: some were not taken; each has the error that says why.
            Reject: the batch is refused for good.
            Unavailable: the batch is to be sent again.
        """
        if self.options.mode == "batch":
            try:
                await self._post(events, {"Content-Type": cloudevents.BATCH_TYPE}, cloudevents.encode_batch(events))
            except Reject as refusal:
                if len(events) == 1 or refusal.status not in SUSPECT:
                    raise
            else:
                return
        failures: dict[str, str | Exception] = {}
        for index, event in enumerate(events):
            try:
                await self._post([event], *self._message(event))
            except (Reject, Unavailable) as error:
                failures[event.id] = error
                if isinstance(error, Unavailable) and error.retry_after:
                    failures |= dict.fromkeys((other.id for other in events[index:]), error)
                    break
        if failures:
            raise PartialFailure(failures)

    def _message(self, event: Event) -> tuple[dict[str, str], bytes]:
        """Return the headers and the body for one event."""
        if self.options.mode == "batch":
            return {"Content-Type": cloudevents.BATCH_TYPE}, cloudevents.encode_batch([event])
        if self.options.mode == "structured":
            return {"Content-Type": cloudevents.EVENT_TYPE}, cloudevents.encode(event)
        try:
            return cloudevents.to_binary(event)
        except MalformedEvent as error:
            raise Reject(str(error)) from None

    async def _post(self, events: list[Event], headers: dict[str, str], body: bytes) -> None:
        """Send one request with these events.

        Raises:
            Reject: it is refused for good.
            Unavailable: it is to be sent again.
        """
        assert self._session is not None
        if self.options.signature:
            headers = headers | self.options.signature.headers(id_of(events), int(self.clock.time()), body)
        payload = posting.payload_of(body)
        try:
            async with self._session.post(self._url, data=payload, headers=headers, allow_redirects=False, proxy=self._proxy) as answer:
                said = await posting.beginning(answer)
        except (aiohttp.ClientError, OSError) as error:
            told = self._shown(str(error))  # which may show the url
            raise Unavailable(f"expected an answer, found {type(error).__name__}: {told}; see to the server") from None
        status = answer.status
        if 300 <= status < 400:
            where = posting.origin_of(self._url, answer.headers.get("Location", ""))
            raise Reject(f"expected 2xx, found {status}, a redirect to {where}, which is not followed; correct `url`")
        told = f"expected 2xx, found {status}: {self._shown(said) or 'no more is said'}"
        if status in posting.AGAIN:
            raise Unavailable(f"{told}; see to the server", posting.seconds_of(answer.headers.get("Retry-After", ""), self.clock.time()))
        if not 200 <= status < 300:
            raise Reject(f"{told}; correct the options of the sink, or what makes the event", min(max(status, 400), 599))

    def _shown(self, text: str) -> str:
        return redaction.shown(text, self._secrets)


@hookimpl
def register_sinks() -> Mapping[str, type[Sink]]:
    """Offer the sink."""
    return {"webhook": Webhook}
