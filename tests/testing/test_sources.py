"""Every source passes the suite, and the suite finds a source that breaks its contract."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import httpx
import msgspec
import pytest
from runtime_plugins.cron import Cron
from runtime_plugins.files import Files
from runtime_plugins.http import Http
from runtime_plugins.jsonl import JsonlSource

from runtime import Event, Inlet, JournalError, Source
from runtime.testing import SourceSuite, VirtualClock

EVERY = 0.25  # seconds


class Lines(SourceSuite):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.path = tmp_path / "in.jsonl"
        self.path.touch()
        self.count = 0

    async def produce(self, count: int) -> list[Any]:
        numbers = list(range(self.count, self.count + count))
        self.count += count
        with self.path.open("a") as file:
            file.writelines(f'{{"n": {number}}}\n' for number in numbers)
        return [{"n": number} for number in numbers]


class TestJsonl(Lines):
    finite = True
    bad_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "path": {"type": "line"},
        "every": {"path": "in.jsonl", "every": 0},
        "folow": {"path": "in.jsonl", "folow": True},
    }

    def make(self) -> tuple[type[Source], Mapping[str, Any]]:
        return JsonlSource, {"path": "in.jsonl", "type": "line"}


class TestJsonlFollowed(Lines):
    def make(self) -> tuple[type[Source], Mapping[str, Any]]:
        return JsonlSource, {"path": "in.jsonl", "type": "line", "follow": True, "every": 0.01}


class TestHttp(SourceSuite):
    """The client is the upstream: it sends an event again, with the same id, until that is acknowledged."""

    remembers = False
    read_ahead = 100
    bad_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {"listen": {"listen": "nowhere"}, "/orders": {"routes": {"/orders": {}}}}

    @pytest.fixture(autouse=True)
    def _place(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.listen = f"127.0.0.1:{free.getsockname()[1]}"
        self.count = 0

    def make(self) -> tuple[type[Source], Mapping[str, Any]]:
        return Http, {"listen": self.listen}

    async def produce(self, count: int) -> list[Any]:
        sent = []
        async with httpx.AsyncClient(base_url=f"http://{self.listen}", timeout=10) as client:
            for _ in range(count):
                self.count += 1
                sent.append({"n": self.count})
                while not await self.send(client, str(self.count), sent[-1]):
                    await asyncio.sleep(0.01)
        return sent

    async def send(self, client: httpx.AsyncClient, id: str, data: Any) -> bool:
        headers = {"content-type": "application/json", "ce-specversion": "1.0", "ce-source": "client", "ce-type": "sent", "ce-id": id}
        with suppress(httpx.HTTPError):
            return (await client.post("/events", headers=headers, content=json.dumps(data))).status_code == 202
        return False


class TestCron(SourceSuite):
    read_ahead = 100
    bad_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "every": {"type": "tick"},
        "schedule": {"type": "tick", "schedule": "61 * * * *"},
        "timezone": {"type": "tick", "schedule": "@daily", "timezone": "Europe/Berlln"},
    }

    @pytest.fixture(autouse=True)
    def _place(self) -> None:
        self.virtual = self.clock = VirtualClock()

    def make(self) -> tuple[type[Source], Mapping[str, Any]]:
        return Cron, {"type": "tick", "every": EVERY, "missed": "all"}

    async def produce(self, count: int) -> list[Any]:
        await self.virtual.settle()  # a new source begins with the present time
        began = self.virtual.time()
        await self.virtual.advance(count * EVERY)
        times = [datetime.fromtimestamp(began + number * EVERY, UTC) for number in range(1, count + 1)]
        return [{"scheduled": time.isoformat().replace("+00:00", "Z")} for time in times]


class TestFiles(SourceSuite):
    ordered = False  # files of one moment come by name
    bad_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "path": {"type": "file"},
        "pattern": {"type": "file", "path": "in", "pattern": "../*"},
        "content": {"type": "file", "path": "in", "content": "xml"},
    }

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        (tmp_path / "in").mkdir()
        self.count = 0

    def make(self) -> tuple[type[Source], Mapping[str, Any]]:
        return Files, {"type": "file", "path": "in", "content": "json", "every": 0.01}

    async def produce(self, count: int) -> list[Any]:
        made = []
        for _ in range(count):
            self.count += 1
            made.append({"n": self.count})
            (self.folder / "in" / f"{self.count:06}.json").write_text(json.dumps(made[-1]))
        return made


class TestFilesOnce(TestFiles):
    finite = True

    def make(self) -> tuple[type[Source], Mapping[str, Any]]:
        return Files, {"type": "file", "path": "in", "content": "json", "every": 0.01, "watch": False}


# --- the suite itself ---------------------------------------------------------------------------------


class Mailbox(Source):
    """Takes letters out of a box, and removes each when it was accepted."""

    box: ClassVar[list[int]] = []

    async def run(self, inlet: Inlet) -> None:
        while True:
            while self.box:
                await inlet.put(self.letter(self.box[0]))
                self.box.pop(0)
            await asyncio.sleep(0.001)

    def letter(self, number: int) -> Event:
        return Event(type="letter", source="box", id=str(number), data=number)


class Hasty(Mailbox):
    """Acknowledges before the journal has it."""

    async def run(self, inlet: Inlet) -> None:
        while True:
            while self.box:
                await inlet.put(self.letter(self.box.pop(0)))
            await asyncio.sleep(0.001)


class Careless(Mailbox):
    """Does not mind that the journal cannot take it."""

    async def run(self, inlet: Inlet) -> None:
        while True:
            if self.box:
                with suppress(JournalError):
                    await inlet.put(self.letter(self.box[0]))
                self.box.pop(0)
            await asyncio.sleep(0.001)


class Greedy(Mailbox):
    """Reads ahead without a limit."""

    async def run(self, inlet: Inlet) -> None:
        while True:
            if taken := list(self.box):
                await inlet.put([self.letter(number) for number in taken])
                del self.box[: len(taken)]
            await asyncio.sleep(0.001)


class Forgetful(Mailbox):
    """Brings what it has acknowledged again, with another id."""

    seen: ClassVar[list[int]] = []

    async def run(self, inlet: Inlet) -> None:
        for number in self.seen:
            await inlet.put(Event(type="letter", source="box", data=number))
        while True:
            while self.box:
                await inlet.put(self.letter(self.box[0]))
                self.seen.append(self.box.pop(0))
            await asyncio.sleep(0.001)


class Backwards(Mailbox):
    """Brings the last first."""

    async def run(self, inlet: Inlet) -> None:
        while True:
            while self.box:
                await inlet.put(self.letter(self.box[-1]))
                self.box.pop()
            await asyncio.sleep(0.001)


class Stubborn(Mailbox):
    """Does not stop."""

    async def run(self, inlet: Inlet) -> None:
        end = asyncio.get_running_loop().time() + 0.5
        while asyncio.get_running_loop().time() < end:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)


class Endless(Mailbox):
    """Cannot be opened twice."""

    was_open = False

    async def open(self) -> None:
        assert not self.was_open
        self.was_open = True


class Lax(Mailbox):
    """Takes any number."""

    class Options(msgspec.Struct):
        every: float = 1.0


def suite_of(kind: type[Mailbox], **features: Any) -> SourceSuite:
    class Suite(SourceSuite):
        read_ahead = 2
        patience = 0.3

        def make(self) -> tuple[type[Source], Mapping[str, Any]]:
            return kind, {}

        async def produce(self, count: int) -> list[Any]:
            first = len(Mailbox.box) + produced[0]
            produced[0] += count
            Mailbox.box += range(first, first + count)
            return list(range(first, first + count))

    produced = [0]
    Mailbox.box.clear()
    Forgetful.seen.clear()
    for name, value in features.items():
        setattr(Suite, name, value)
    return Suite()


class TestMailbox(SourceSuite):
    """The source that the broken ones are made of keeps the contract."""

    alone = False
    read_ahead = 1

    @pytest.fixture(autouse=True)
    def _place(self) -> None:
        Mailbox.box.clear()
        self.count = 0

    def make(self) -> tuple[type[Source], Mapping[str, Any]]:
        return Mailbox, {}

    async def produce(self, count: int) -> list[Any]:
        self.count += count
        made = list(range(self.count - count, self.count))
        Mailbox.box += made
        return made


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (Hasty, "test_what_was_not_accepted_when_it_is_cancelled_comes_again"),
        (Hasty, "test_what_the_journal_could_not_take_comes_again"),
        (Careless, "test_what_the_journal_could_not_take_comes_again"),
        (Greedy, "test_no_more_than_read_ahead_wait_to_be_accepted"),
        (Forgetful, "test_a_new_instance_goes_on_where_the_last_one_was"),
        (Backwards, "test_events_arrive_once_and_in_order"),
        (Stubborn, "test_it_stops_when_nothing_has_arrived"),
        (Endless, "test_it_opens_and_closes_without_running_and_again"),
    ],
)
async def test_the_suite_finds_a_source_that_breaks_its_contract(broken: type[Mailbox], test: str) -> None:
    with pytest.raises(AssertionError):
        await getattr(suite_of(broken), test)()


async def test_the_suite_finds_a_source_that_does_not_end() -> None:
    with pytest.raises(AssertionError, match="`run` has not returned"):
        await suite_of(Mailbox, finite=True).test_it_ends_when_all_is_brought()


async def test_the_suite_finds_a_source_that_takes_any_options() -> None:
    with pytest.raises(pytest.fail.Exception):
        await suite_of(Lax, bad_options={"every": {"every": 0}}).test_options_that_are_wrong_are_refused_by_name()
