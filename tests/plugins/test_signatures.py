"""Signatures of webhooks at routes of the source `http`, made by `standardwebhooks` and as the other senders tell."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from runtime_plugins._signatures import Signature
from served import Served, detail, make, serving
from standardwebhooks import Webhook

SECRETS = {
    "github": "swordfish",
    "stripe": "whsec_swordfish",
    "slack": "swordfish",
    "standard-webhooks": "whsec_" + base64.b64encode(b"swordfish" * 3).decode(),
}
SCHEMES = sorted(SECRETS)
BODY = json.dumps({"id": "evt_1", "event_id": "Ev1", "text": "hällo"}).encode()
IDS = {"github": "d1", "standard-webhooks": "d1", "stripe": "evt_1", "slack": "Ev1"}
NAMES = {
    "github": "X-Hub-Signature-256",
    "standard-webhooks": "webhook-signature",
    "stripe": "Stripe-Signature",
    "slack": "X-Slack-Signature",
}


def digest(secret: str, text: str, body: bytes) -> str:
    return hmac.new(secret.encode(), text.encode() + body, hashlib.sha256).hexdigest()


def signed(scheme: str, time: float, body: bytes = BODY, secret: str | None = None, id: str = "d1") -> dict[str, str]:
    """Return the headers that a sender of this kind adds, by other code than ours."""
    secret = secret or SECRETS[scheme]
    stamp = str(int(time))
    match scheme:
        case "github":
            return {"X-Hub-Signature-256": "sha256=" + digest(secret, "", body), "X-GitHub-Delivery": id}
        case "stripe":
            return {"Stripe-Signature": f"t={stamp},v1={digest(secret, f'{stamp}.', body)},v0=6ffbb59b2300aae63f272406069a9788"}
        case "slack":
            return {"X-Slack-Signature": "v0=" + digest(secret, f"v0:{stamp}:", body), "X-Slack-Request-Timestamp": stamp}
    made = Webhook(secret).sign(id, datetime.fromtimestamp(int(time), UTC), body.decode())
    return {"webhook-id": id, "webhook-timestamp": stamp, "webhook-signature": made}


def routes(scheme: str) -> dict[str, Any]:
    return {"/hook": {"type": "echo", "signature": {"scheme": scheme, "secret": SECRETS[scheme]}}}


async def send(served: Served, headers: Mapping[str, str], body: bytes = BODY) -> Any:
    raw = {name.encode(): value.encode() for name, value in {"content-type": "application/json", **headers}.items()}
    return await served.client.post("/hook", content=body, headers=raw)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_body_that_was_signed_is_accepted_under_the_id_of_its_sender(scheme: str) -> None:
    async with serving(routes(scheme)) as served:
        headers = signed(scheme, served.source.clock.time())
        answer = await send(served, headers)
        assert (answer.status_code, answer.json()) == (202, {"id": IDS[scheme]})
        event = await served.event(IDS[scheme])
        assert event.data == json.loads(BODY)
        assert event.request is not None
        assert not any("signature" in name for name in event.request.headers)
        await send(served, {**headers, "ce-id": "other", "idempotency-key": "other"})  # replayed, with an id that nobody signed
        assert await served.accepted() == 1


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_what_was_not_signed_so_is_refused(scheme: str) -> None:
    async with serving(routes(scheme)) as served:
        good = signed(scheme, served.source.clock.time())
        name = NAMES[scheme]
        unfit = f"{name} does not fit the body"
        assert detail(await send(served, {}), 401) == f"send the signature of this route: {name}: …"
        answer = await send(served, good, BODY + b" ")
        assert detail(answer, 401) == unfit
        assert answer.headers["www-authenticate"] == "Signature"
        other = "whsec_" + base64.b64encode(b"other").decode()
        assert detail(await send(served, signed(scheme, served.source.clock.time(), secret=other)), 401) == unfit
        sent = good[name].partition(",v0=")[0]
        for forged in (sent[:-1], sent[:-2], sent.split("=", 1)[-1], "é", "sha256=,v0=,v1=,v1,", "=", ","):
            assert (await send(served, {**good, name: forged})).status_code == 401, forged
        assert await served.accepted() == 0


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme != "github"])
async def test_a_signature_that_is_stale_is_refused(scheme: str) -> None:
    async with serving(routes(scheme)) as served:
        now = served.source.clock.time()
        for time in (now - 302, now + 302):
            assert (
                detail(await send(served, signed(scheme, time)), 401) == "the time of the signature is missing, or more than 300 s from now"
            )
        for time in (now - 298, now + 298):
            assert (await send(served, signed(scheme, time))).status_code == 202
        stamps = {"stripe": "Stripe-Signature", "slack": "X-Slack-Request-Timestamp", "standard-webhooks": "webhook-timestamp"}
        headers = signed(scheme, now)
        for wrong in ("", "soon", "-1", "1e9", "9" * 40, "١٢٣"):
            stamp = f"t={wrong},v1=00" if scheme == "stripe" else wrong
            assert (await send(served, {**headers, stamps[scheme]: stamp})).status_code == 401, wrong


@pytest.mark.parametrize(("scheme", "join"), [("stripe", ","), ("standard-webhooks", " ")])
async def test_one_of_several_signatures_has_to_fit(scheme: str, join: str) -> None:
    async with serving(routes(scheme)) as served:
        now, name = served.source.clock.time(), NAMES[scheme]
        good, other = signed(scheme, now), signed(scheme, now, secret="whsec_" + base64.b64encode(b"old").decode())
        both = {
            **good,
            name: join.join([other[name], good[name].rpartition("t=")[2].partition(",")[2] if scheme == "stripe" else good[name]]),
        }
        assert (await send(served, both)).status_code == 202


async def test_what_has_no_id_is_known_again_by_its_signature() -> None:
    async with serving(routes("slack")) as served:
        now = served.source.clock.time()
        body = b"command=%2Fweather&text=94070"
        kind = {"content-type": "application/x-www-form-urlencoded"}
        for _ in range(2):
            answer = await send(served, {**signed("slack", now, body), **kind}, body)
            assert answer.status_code == 202
        event = await served.event(answer.json()["id"])
        assert (event.data, await served.accepted()) == ({"command": "/weather", "text": "94070"}, 1)
        await send(served, {**signed("slack", now + 1, body), **kind}, body)
        assert await served.accepted() == 2


async def test_slack_is_told_that_somebody_is_there_and_only_slack() -> None:
    body = json.dumps({"type": "url_verification", "challenge": "3eZbrw1a", "token": "t"}).encode()
    async with serving(routes("slack")) as served:
        answer = await send(served, signed("slack", served.source.clock.time(), body), body)
        assert (answer.status_code, answer.json(), answer.headers["content-type"]) == (200, {"challenge": "3eZbrw1a"}, "application/json")
        assert (await send(served, {}, body)).status_code == 401
        assert await served.accepted() == 0


async def test_a_large_body_is_refused_before_anything_is_computed() -> None:
    async with serving(routes("github"), max_body=10) as served:
        assert (await send(served, {"X-Hub-Signature-256": "sha256=00"}, b"x" * 11)).status_code == 413


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_signed_by_us_others_take_for_signed(scheme: str) -> None:
    made = Signature(scheme=scheme, secret=SECRETS[scheme]).headers("d1", 1_800_000_000, BODY)
    theirs = signed(scheme, 1_800_000_000)
    shown: Callable[[str], str] = lambda value: value.split(",v0=")[0]  # noqa: E731 - what Stripe sends to test mode besides
    assert made == {name: shown(value) for name, value in theirs.items()}


def test_a_secret_is_in_no_message() -> None:
    with pytest.raises(ValueError) as caught:
        make({"/a": {"type": "a", "retries": -1, "signature": {"scheme": "standard-webhooks", "secret": "swordfish!"}}})
    assert "swordfish" not in str(caught.value)
