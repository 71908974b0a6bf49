"""The source and the sink `exec`, with real commands."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from runtime_plugins import _process
from runtime_plugins.exec import ExecSink, ExecSource

from runtime import Event, Malformed, PartialFailure, Reject, Sink, Source, cloudevents
from runtime.testing import SinkSuite, SourceSuite
from runtime.testing.inlet import SuiteInlet

SECONDS = 20  # more than any of this takes
ANSWERING = """
import json, sys
for line in sys.stdin:
    event = json.loads(line)
    with open(sys.argv[1], "a") as file:
        file.write(line)
    print(json.dumps(event.get("data") if isinstance(event.get("data"), dict) else None), flush=True)
"""


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


class OfFile(SourceSuite):
    """A command that writes what stands in a file."""

    read_ahead = 500

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.file = tmp_path / "lines"
        self.file.touch()
        self.count = 0

    def line(self, data: Any) -> bytes:
        raise NotImplementedError

    async def produce(self, count: int) -> list[Any]:
        made = [{"n": self.count + n} for n in range(count)]
        self.count += count
        self.add(b"".join(self.line(data) for data in made))
        return made

    def add(self, text: bytes) -> None:
        with self.file.open("ab") as file:
            file.write(text)


class TestFollowing(OfFile):
    """It writes all of it each time, as CloudEvents, which are known by their ids."""

    bad_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "command": {},
        "length": {"command": []},
        "content": {"command": ["a"], "content": "xml"},
        "environment": {"command": ["a"], "environment": {}},
    }

    def make(self) -> tuple[type[Source], Mapping[str, Any]]:
        return ExecSource, {"command": ["tail", "-n", "+1", "-f", str(self.file)]}

    def line(self, data: Any) -> bytes:
        return cloudevents.encode(Event(type="made", source="s", id=str(data["n"]), data=data)) + b"\n"

    async def flood(self, count: int, size: int) -> None:
        self.add(b"".join(self.line({"n": n, "text": "x" * size}) for n in range(count)))


class TestEnding(OfFile):
    """It ends, and remembers nothing."""

    finite = True
    remembers = False
    replays = False

    def make(self) -> tuple[type[Source], Mapping[str, Any]]:
        return ExecSource, {"command": ["cat", "lines"], "cwd": ".", "type": "made"}

    def line(self, data: Any) -> bytes:
        return json.dumps(data).encode() + b"\r\n"


class OnCommand(SinkSuite):
    """A command that writes the events to a file."""

    mode: ClassVar[str] = "persistent"
    bad_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "command": {},
        "mode": {"command": ["a"], "mode": "twice"},
    }

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.file = tmp_path / "events"
        self.broken = tmp_path / "broken"

    async def received(self) -> list[Event]:
        return [cloudevents.decode(line) for line in self.file.read_bytes().splitlines()] if self.file.exists() else []

    async def fail(self) -> None:
        self.broken.touch()

    async def recover(self) -> None:
        self.broken.unlink()


class TestPersistent(OnCommand):
    connected = True
    load = 200

    def make(self) -> tuple[type[Sink], Mapping[str, Any]]:
        code = """
import os, sys
if os.path.exists("broken"):
    sys.exit("broken")
for line in sys.stdin:
    if os.path.exists("broken"):
        sys.exit("broken")
    with open("events", "a") as file:
        file.write(line)
    print("{}", flush=True)
"""
        return ExecSink, {"command": python(code), "cwd": "."}


class TestOnce(OnCommand):
    load = 20
    batch = 3
    ordered = False

    def make(self) -> tuple[type[Sink], Mapping[str, Any]]:
        return ExecSink, {"command": ["sh", "-c", "test ! -e broken && exec cat >> events"], "mode": "once", "cwd": "."}


# --- what commands have of their own ------------------------------------------------------------------


def source(folder: Path, *command: str, **options: Any) -> ExecSource:
    made = ExecSource("in", msgspec.convert({"command": list(command), **options}, ExecSource.Options))
    made.folder = folder
    return made


def sink(folder: Path, *command: str, **options: Any) -> ExecSink:
    made = ExecSink("out", msgspec.convert({"command": list(command), **options}, ExecSink.Options))
    made.folder = folder
    return made


def event(id: str, data: Any = None) -> Event:
    return Event(type="a", source="s", id=id, data=data)


async def ran(made: ExecSource) -> SuiteInlet:
    inlet = SuiteInlet()
    await made.open()
    try:
        await asyncio.wait_for(made.run(inlet), SECONDS)
    finally:
        await made.close()
    return inlet


async def gone(pid: int) -> None:
    async with asyncio.timeout(SECONDS):
        while Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("content", "data"), [("json", [1, b"no JSON", "last"]), ("text", ["1", "no JSON", '"last"']), ("bytes", [b"1", b"no JSON", b'"last"'])]
)
async def test_a_line_is_what_content_says_also_the_last_without_an_end(tmp_path: Path, content: str, data: list[Any]) -> None:
    inlet = await ran(source(tmp_path, "printf", '1\n\nno JSON\n"last"', type="t", content=content))
    found = {id: one.data for id, one in enumerate([*inlet.events, *inlet.malformed])}
    assert sorted(found.values(), key=repr) == sorted(data, key=repr)
    assert all(one.type == "t" for one in [*inlet.events, *inlet.malformed])
    assert [type(one) for one in inlet.malformed] == ([Malformed] if content == "json" else [])


async def test_a_command_that_ends_with_an_error_is_told_with_its_last_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with pytest.raises(_process.Failed) as caught:
        await ran(source(tmp_path, "sh", "-c", "echo 1; echo first >&2; echo why >&2; exit 3", type="t"))
    assert str(caught.value) == 'the command has ended with exit code 3; its last words: "why"'
    assert "first" in caplog.text
    with pytest.raises(_process.Failed, match="the command has ended with Killed"):
        await ran(source(tmp_path, "sh", "-c", "kill -9 $$", type="t"))


async def test_a_command_has_its_folder_and_variables(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    program = tmp_path / "it"
    program.write_text('#!/bin/sh\npwd; echo "$WORD"\n')
    program.chmod(0o755)
    inlet = await ran(source(tmp_path, "./it", type="t", content="text", cwd="sub", env={"WORD": "said"}))
    assert [one.data for one in inlet.events] == [str(tmp_path / "sub"), "said"]


async def test_a_command_that_cannot_be_started_is_told(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    told = {
        ("nowhere",): "`command`: expected a program that can be executed, found nowhere: No such file or directory; correct it",
        ("./plain",): "`command`: expected a program that can be executed, found ./plain: Permission denied; correct it",
    }
    for command, message in told.items():
        with pytest.raises(_process.Failed) as caught:
            await source(tmp_path, *command).open()
        assert str(caught.value) == message
    with pytest.raises(_process.Failed, match="`cwd`: expected a folder, found none at"):
        await source(tmp_path, "true", cwd="nowhere").open()
    with pytest.raises(ConnectionError, match="expected a program that can be executed, found nowhere"):
        await sink(tmp_path, "nowhere").open()


async def test_a_line_without_end_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_process, "LONGEST", 200_000)
    with pytest.raises(_process.Failed, match="expected lines of at most 200,000 bytes on stdout, found a longer one"):
        await ran(source(tmp_path, "cat", "/dev/zero", type="t"))


async def test_lines_that_the_journal_could_not_take_are_brought_again(tmp_path: Path) -> None:
    inlet = SuiteInlet()
    made = source(tmp_path, "sh", "-c", "test -e again && exit; touch again; echo 1", type="t", cwd=".")
    inlet.failures = 1
    for _ in range(2):
        await made.open()
        await asyncio.gather(made.run(inlet), return_exceptions=True)
        await made.close()
    assert [one.data for one in inlet.events] == [1]


async def test_what_it_has_started_ends_with_it_though_it_does_not_want_to(tmp_path: Path) -> None:
    made, inlet = source(tmp_path, "sh", "-c", "trap '' TERM; sleep 1000 & echo $!; wait; sleep 1000", type="t"), SuiteInlet()
    await made.open()
    task = asyncio.create_task(made.run(inlet))
    async with asyncio.timeout(SECONDS):
        while not inlet.events:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await made.close()
    await gone(inlet.events[0].data)


async def test_a_persistent_command_answers_for_each_event(tmp_path: Path) -> None:
    made = sink(tmp_path, *python(ANSWERING, "events"), cwd=".")
    await made.open()
    with pytest.raises(PartialFailure) as caught:
        await made.write([event("1", {"error": "later"}), event("2"), event("3", {"reject": "never"}), event("4", {"n": 1})])
    assert caught.value.failures["1"] == "later"
    assert isinstance(caught.value.failures["3"], Reject)
    assert str(caught.value.failures["3"]) == "never"
    assert caught.value.failures.keys() == {"1", "3"}
    await made.close()
    assert (tmp_path / "events").read_text().count("\n") == 4


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("read line; echo oh >&2; exit 4", 'the command has ended with exit code 4; its last words: "oh"'),
        ("read line; echo hello", "the answer: expected JSON"),
        ("read line; printf '1\\n2\\n'; sleep 9", "expected a line in answer to each of 1 events, found 2; print logs on stderr"),
    ],
)
async def test_a_command_that_does_not_answer_is_a_lost_connection(tmp_path: Path, command: str, message: str) -> None:
    made = sink(tmp_path, "sh", "-c", command)
    await made.open()
    with pytest.raises(ConnectionError) as caught:
        await asyncio.wait_for(made.write([event("1")]), SECONDS)
    assert message in str(caught.value)
    await made.close()


async def test_a_line_that_nobody_has_asked_for_is_told_before_the_next_event(tmp_path: Path) -> None:
    made = sink(tmp_path, "sh", "-c", "read line; echo 1; sleep 0.05; echo 2; touch said; read line; echo 3; sleep 9", cwd=".")
    await made.open()
    await made.write([event("1")])
    async with asyncio.timeout(SECONDS):
        while not (tmp_path / "said").exists():
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.01)
    with pytest.raises(ConnectionError, match="expected nothing before the next event, found 1 lines; print logs on stderr"):
        await made.write([event("2")])
    await made.close()


async def test_without_a_type_a_line_that_is_no_cloudevent_is_set_aside(tmp_path: Path) -> None:
    inlet = await ran(source(tmp_path, "echo", '{"n": 1}'))
    assert [(one.type, one.data) for one in inlet.malformed] == [("malformed", b'{"n": 1}')]


async def test_a_write_that_is_given_up_ends_the_command_and_the_next_has_another(tmp_path: Path) -> None:
    made = sink(tmp_path, "sh", "-c", "echo $$ >> pids; while read line; do touch got; test -e slow && sleep 100; echo 1; done", cwd=".")
    (tmp_path / "slow").touch()
    await made.open()
    writing = asyncio.create_task(made.write([event("1")]))
    async with asyncio.timeout(SECONDS):
        while not (tmp_path / "got").exists():
            await asyncio.sleep(0.01)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    (tmp_path / "slow").unlink()
    await asyncio.wait_for(made.write([event("2")]), SECONDS)
    await made.close()
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == 2
    await gone(int(pids[0]))


async def test_closed_it_may_end_what_it_has_begun(tmp_path: Path) -> None:
    made = sink(tmp_path, "sh", "-c", "while read line; do echo 1; done; echo done > end", cwd=".")
    await made.open()
    await made.write([event("1")])
    await made.close()
    assert (tmp_path / "end").read_text() == "done\n"


async def test_a_command_for_each_event_has_its_exit_code_for_an_answer(tmp_path: Path) -> None:
    made = sink(tmp_path, "sh", "-c", 'read line; case "$line" in *bad*) echo why >&2; exit 1;; esac', mode="once")
    await made.open()
    with pytest.raises(PartialFailure) as caught:
        await made.write([event("1"), event("2", "bad"), event("3")])
    assert caught.value.failures == {"2": 'the command has ended with exit code 1; its last words: "why"'}
    await made.close()


async def test_a_command_that_does_not_read_its_event_may_succeed(tmp_path: Path) -> None:
    made = sink(tmp_path, "true", mode="once")
    await made.open()
    await made.write([event("1", "x" * 1_000_000)])
    await made.close()
