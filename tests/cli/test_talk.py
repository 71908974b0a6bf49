"""The commands that talk to a running runtime, as a user types them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import Running, run

FUNCTIONS = """
import asyncio
from pathlib import Path
from runtime import function

@function(on=["count", "count.*"], emits="counted")
async def count(number: int) -> int:
    return number * 2

@function(on=["flaky", "flaky.*"], retries=0)
def flaky(data):
    if not Path("mended").exists():
        raise ValueError("it is broken")
    return data

@function(on="hang")
async def hang(data):
    await asyncio.Event().wait()
"""

CONFIG = '[sources]\n[admin]\nlisten = "127.0.0.1:0"\ntoken = "s3cret"\n'


class Shop:
    """A running runtime, and commands that find it by `client.toml`."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.folder = running.folder
        self.url = running.banner["admin"]
        (self.folder / "client.toml").write_text(f'[admin]\nlisten = "{self.url.removeprefix("http://")}"\ntoken = "s3cret"\n')

    def __call__(self, *arguments: str, code: int = 0, **more: Any) -> str:
        """Run a command and return what it says on stdout, or on stderr when it fails."""
        done = run(self.folder, *arguments, "-c", "client.toml", **more)
        assert done.returncode == code, (done.stdout, done.stderr)
        assert "Traceback (most" not in done.stderr
        if code == 0:
            assert done.stderr == ""
        return done.stderr if code else done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json"))

    def dead_letter(self, type: str = "flaky") -> str:
        """Return the id of a new dead letter."""
        refused = self("emit", type, "--wait", code=1)
        return refused.split()[2].rstrip(":")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    (folder / "functions").mkdir()
    (folder / "functions" / "shop.py").write_text(FUNCTIONS)
    (folder / "runtime.toml").write_text(CONFIG)
    with Running(folder) as running:
        yield Shop(running)


# --- emit ---------------------------------------------------------------------------------------------


def test_emit_prints_the_id_of_the_event(shop: Shop) -> None:
    id = shop("emit", "count", "--data", "5", "--key", "ann", "--priority", "9").strip()
    event = shop.json("show", id)
    assert (event["id"], event["type"], event["source"], event["key"], event["priority"]) == (id, "count", "cli", "ann", 9)
    assert event["event"]["data"] == 5
    assert shop.json("emit", "count", "-d", "5").keys() == {"id"}


def test_emit_with_wait_prints_the_result_alone(shop: Shop) -> None:
    assert shop("emit", "count", "--data", "5", "--wait") == "10\n"
    (shop.folder / "number.json").write_text("6")
    assert shop("emit", "count", "--data", "@number.json", "--wait") == "12\n"
    assert shop("emit", "count", "--data", "-", "--wait", input="7") == "14\n"


def test_emit_with_wait_is_exit_1_when_there_is_no_result(shop: Shop) -> None:
    refused = shop("emit", "flaky", "--wait", code=1)
    assert refused.startswith("error: event ")
    assert refused.endswith(': "flaky" failed: ValueError: it is broken\n')
    assert shop("emit", "nobody", "--wait", code=1) == 'error: no result for "nobody": no function handles it\n'
    misfit = shop("emit", "count", "--data", '"five"', "--wait", code=1)
    assert misfit == 'error: parameter "number" of "count" does not fit: Expected `int`, got `str`\n'
    late = shop("emit", "hang", "--wait", "--timeout", "0.05", code=1)
    assert late.endswith(": no result after 0.05 s; it goes on\n")


def test_what_emit_cannot_send_is_exit_2(shop: Shop) -> None:
    shop("emit", "", code=2)
    assert shop("emit", "count", "--data", "{", code=2).startswith("error: --data: `{` is not JSON: ")


# --- events and show ----------------------------------------------------------------------------------


def test_events_are_listed_for_people_and_for_machines(shop: Shop) -> None:
    dead = shop.dead_letter("flaky.listed")
    shop("emit", "count.listed", "--data", "5", "--wait")
    head, line = shop("events", "--type", "flaky.listed").splitlines()
    assert head.split() == ["STATUS", "TYPE", "ID", "TIME", "ATTEMPTS", "ERROR"]
    assert line.split()[:3] == ["dead", "flaky.listed", dead]
    assert line.endswith("  1         ValueError: it is broken")
    answer = shop.json("events", "--type", "flaky.listed")
    assert answer.keys() == {"events", "cursor"}
    assert [event["id"] for event in answer["events"]] == [dead]
    assert shop("events", "--type", "nothing").split() == head.split()


def test_events_are_found_by_status_type_and_function(shop: Shop) -> None:
    shop.dead_letter("flaky.found")
    shop("emit", "count.found", "--data", "5", "--wait")
    assert [event["status"] for event in shop.json("events", "--type", "*.found")["events"]] == ["done", "dead"]
    assert [event["type"] for event in shop.json("events", "--type", "*.found", "--status", "dead")["events"]] == ["flaky.found"]
    assert [event["type"] for event in shop.json("events", "--type", "*.found", "--function", "count")["events"]] == ["count.found"]
    assert len(shop.json("events", "--limit", "1")["events"]) == 1


def test_a_wrong_filter_is_exit_2_with_what_is_allowed(shop: Shop) -> None:
    assert shop("events", "--limit", "0", code=2) == 'error: limit: "0" is not allowed; it is a whole number from 1 to 1000\n'
    assert shop("events", "--status", "dea", code=2).startswith('error: status: "dea" is not one (did you mean "dead"?); allowed: ')
    assert shop("events", "--type", "a..b", code=2).startswith('error: type: "a..b" is not a pattern of event types: ')


def test_an_event_is_shown_with_its_steps_and_errors(shop: Shop) -> None:
    id = shop.dead_letter()
    lines = shop("show", id).splitlines()
    told = dict(line.split(maxsplit=1) for line in lines[: lines.index("")])
    assert (told["id"], told["type"], told["status"], told["source"], told["attempts"]) == (id, "flaky", "dead", "cli", "1")
    steps = lines[lines.index("") + 1 :]
    assert steps[0].split() == ["STEP", "STATUS", "ATTEMPTS", "STARTED", "FINISHED", "ERROR"]
    assert steps[1].split()[:3] == ["flaky", "failed", "1"]
    assert steps[1].endswith("  ValueError: it is broken")
    assert steps[3] == "flaky:"
    assert steps[4] == "Traceback (most recent call last):"
    assert steps[-1] == "ValueError: it is broken"
    assert shop("show", told["uid"]).splitlines() == lines


def test_an_event_that_is_shown_names_what_it_caused(shop: Shop) -> None:
    shop("emit", "count.shown", "--data", "5", "--wait")
    (event,) = shop.json("events", "--type", "count.shown")["events"]
    (effect,) = shop.json("show", event["id"])["effects"]
    assert f"effects   {effect}\n" in shop("show", event["id"])
    assert f"causation  {event['id']}\n" in shop("show", effect)


def test_an_event_that_is_not_there_is_exit_1(shop: Shop) -> None:
    for command in ("show", "retry", "discard"):
        detail = 'error: there is no event "nothing": it never was, or finished longer ago than the journal keeps\n'
        assert shop(command, "nothing", code=1).endswith(detail)


# --- retry and discard --------------------------------------------------------------------------------


@pytest.fixture
def mended(shop: Shop) -> Iterator[Path]:
    path = shop.folder / "mended"
    yield path
    path.unlink(missing_ok=True)


def test_dead_letters_are_retried_by_id_and_what_cannot_be_is_told(shop: Shop, mended: Path) -> None:
    first, second, discarded = (shop.dead_letter() for _ in range(3))
    assert shop("discard", discarded) == "discarded 1\n"
    mended.touch()
    done = run(shop.folder, "retry", first, "nothing", discarded, second, "-c", "client.toml")
    assert (done.returncode, done.stdout) == (1, "retried 2\n")
    assert done.stderr == (
        'error: there is no event "nothing": it never was, or finished longer ago than the journal keeps\n'
        f"error: event {discarded} is discarded; only dead or unrouted ones can be retried\n"
    )


def test_dead_letters_are_retried_or_discarded_by_what_they_are(shop: Shop, mended: Path) -> None:
    for type in ("flaky.a", "flaky.a", "flaky.b"):
        shop.dead_letter(type)
    mended.touch()
    assert shop.json("retry", "--dead", "--type", "flaky.a", "--function", "flaky") == {"retried": 2}
    assert shop("discard", "--dead", "--function", "nothing") == "discarded 0\n"
    assert shop.json("discard", "--dead", "--type", "flaky.b") == {"discarded": 1}
    assert [event["status"] for event in shop.json("events", "--type", "flaky.b")["events"]] == ["discarded"]


def test_unrouted_events_are_sent_through_the_present_graph(shop: Shop) -> None:
    id = shop("emit", "unheard").strip()
    assert shop("retry", "--unrouted", "--type", "unheard") == "retried 0\n"
    detail = f'error: event {id} stays unrouted: no function and no sink takes events of type "unheard"\n'
    assert shop("retry", id, code=1).endswith(detail)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("retry",), "give the IDs of events to retry, or --dead for all dead letters"),
        (("discard",), "give the IDs of events to discard, or --dead for all dead letters"),
        (("retry", "7", "--dead"), "give the IDs of events to retry, or --dead for all dead letters"),
        (("retry", "--dead", "--unrouted"), "give --dead or --unrouted, not both"),
        (("retry", "7", "--type", "a"), "--function and --type narrow --dead; they do not go with IDs"),
        (("discard", "--dead", "--type", ""), "type: expected a text that is not empty; leave it out to mean all"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_meant_is_exit_2(shop: Shop, arguments: tuple[str, ...], text: str) -> None:
    assert shop(*arguments, code=2) == f"error: {text}\n"


# --- where the runtime is -----------------------------------------------------------------------------


def test_the_runtime_is_found_by_its_url_with_its_token(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run(shop.folder, "events", "--limit", "1", "--json", "--url", shop.url, *arguments)

    assert counted("--token", "s3cret").returncode == 0
    refused = counted()
    assert refused.returncode == 2
    assert refused.stderr == (
        "error: the token is missing or wrong; send it as `Authorization: Bearer TOKEN`; set `token` in [admin], --token or RUNTIME_TOKEN\n"
    )
    monkeypatch.setenv("RUNTIME_TOKEN", "s3cret")
    assert counted().returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [("emit", "a"), ("emit", "a", "--wait"), ("events",), ("show", "7"), ("retry", "7", "8"), ("retry", "--dead"), ("discard", "7")],
    ids=" ".join,
)
def test_when_nothing_answers_it_is_exit_3(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "runtime.toml").write_text('[admin]\nlisten = "127.0.0.1:1"\n')
    done = run(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        "error: no runtime answers at http://127.0.0.1:1 (Connection refused);"
        " start it with `runtime run`, or name another with --url or -c\n"
    )
