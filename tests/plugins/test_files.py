from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from faults import broken
from faults.ledger import drained, event, listing, until
from running import COMMAND, Running, run
from runtime_plugins import files
from runtime_plugins.files import Files

from runtime import Event, JournalError, Source
from runtime.testing import SourceSuite, VirtualClock


class Recorder:
    """An inlet that keeps what is put; `failures` puts of events fail first."""

    def __init__(self, cursor: Any = None, failures: int = 0) -> None:
        self.cursor = cursor
        self.puts = 0
        self.batches: list[list[Event]] = []
        self._failures = failures

    async def put(self, events: Event | Sequence[Event], *, cursor: Any = None, wait: bool = True) -> list[str]:
        batch = [events] if isinstance(events, Event) else list(events)
        if batch and self._failures:
            self._failures -= 1
            raise JournalError("disk full")
        self.puts += 1
        self.cursor = json.loads(json.dumps(cursor))
        self.batches += [batch] if batch else []
        return [one.id for one in batch]

    async def call(self, event: Event, *, timeout: float | None = None, retries: int = 0) -> Any:  # noqa: ASYNC109 - the contract's
        raise NotImplementedError

    @property
    def events(self) -> list[Event]:
        return [event for batch in self.batches for event in batch]


class Steps(VirtualClock):
    """A clock on which a source waits until a test has it look again."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = asyncio.Event()
        self._go: asyncio.Future[None] | None = None

    async def sleep(self, delay: float) -> None:
        self._go = asyncio.get_running_loop().create_future()
        self.waits.set()
        await self._go

    def go(self) -> None:
        self.waits.clear()
        assert self._go is not None
        self._go.set_result(None)


class Watched:
    """A source that looks when a test says so."""

    def __init__(self, task: asyncio.Task[None], clock: Steps, inlet: Recorder) -> None:
        self.inlet = inlet
        self._task = task
        self._clock = clock

    async def looked(self) -> None:
        """Return when the source waits for its next look; raises what it raises."""
        waits = asyncio.create_task(self._clock.waits.wait())
        async with asyncio.timeout(20):
            await asyncio.wait([waits, self._task], return_when=asyncio.FIRST_COMPLETED)
        waits.cancel()
        if self._task.done():
            self._task.result()

    async def look(self, times: int = 1) -> list[Event]:
        """Have it look so many times, and return the events these looks brought."""
        before = len(self.inlet.events)
        for _ in range(times):
            self._clock.go()
            await self.looked()
        return self.inlet.events[before:]

    async def names(self, times: int = 2) -> list[str | None]:
        return [event.subject for event in await self.look(times)]


def source(folder: Path, **options: Any) -> Files:
    return Files("inbox", msgspec.convert({"path": str(folder), "type": "file", "every": 0.01} | options, Files.Options))


@asynccontextmanager
async def watching(folder: Path, inlet: Recorder | None = None, cursor: Any = None, **options: Any) -> AsyncIterator[Watched]:
    """Watch a folder; the first look has been made."""
    made, clock, inlet = source(folder, **options), Steps(), inlet or Recorder(cursor)
    made.clock = clock
    task = asyncio.create_task(made.run(inlet))
    watched = Watched(task, clock, inlet)
    try:
        await watched.looked()
        yield watched
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, OSError, JournalError):
            await task


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "in"
    made.mkdir()
    return made


class TestFiles(SourceSuite):
    bad_options: ClassVar = {
        "pattern": {"path": "in", "type": "file", "pattern": "a/b"},
        "every": {"path": "in", "type": "file", "every": 0},
    }

    @pytest.fixture(autouse=True)
    def place(self, folder: Path) -> None:
        self.folder = folder.parent
        self.count = 0

    def make(self) -> tuple[type[Source], Mapping[str, Any]]:
        return Files, {"path": "in", "type": "file", "every": 0.01, "content": "json"}

    async def produce(self, count: int) -> list[Any]:
        numbers = list(range(self.count, self.count + count))
        self.count += count
        for number in numbers:
            (self.folder / "in" / f"{number:06}").write_text(str(number))
        return numbers


# --- which files --------------------------------------------------------------------------------------


async def test_a_new_file_is_an_event_that_refers_to_it(folder: Path) -> None:
    async with watching(folder) as watched:
        path = folder / "a.csv"
        path.write_text("1,2")
        os.utime(path, ns=(0, 1_500_000_000))
        (event,) = await watched.look(2)
    assert event == Event(
        type="file", source="source/inbox", id=event.id, subject="a.csv", data={"path": str(path), "size": 3, "changed": 1.5}
    )
    assert len(event.id) == 16


async def test_files_that_are_there_already_are_new_and_come_by_their_time_of_change(folder: Path) -> None:
    for number, name in enumerate(["c", "a", "b"]):
        (folder / name).touch()
        os.utime(folder / name, (number, number))
    async with watching(folder) as watched:
        assert await watched.names(1) == ["c", "a", "b"]
        assert await watched.names(3) == []


async def test_a_changed_file_is_a_new_event_and_a_touched_one_too(folder: Path) -> None:
    path = folder / "a"
    path.write_text("1")
    async with watching(folder) as watched:
        assert await watched.names() == ["a"]
        path.write_text("22")
        assert await watched.names() == ["a"]
        os.utime(path, (7, 7))
        assert await watched.names() == ["a"]
    assert len({event.id for event in watched.inlet.events}) == 3


async def test_a_file_renamed_into_place_is_taken_and_a_renamed_one_is_new(folder: Path) -> None:
    (folder / ".a.part").write_text("1")
    async with watching(folder, pattern="*.csv") as watched:
        (folder / "b.csv.tmp").write_text("2")
        assert await watched.names() == []
        (folder / ".a.part").rename(folder / "a.csv")
        assert await watched.names() == ["a.csv"]
        (folder / "a.csv").rename(folder / "c.csv")
        assert await watched.names() == ["c.csv"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*", ["a.csv", "b.txt"]),
        ("*.csv", ["a.csv"]),
        ("**/*.csv", ["a.csv", "below/c.csv", "below/deep/d.csv"]),
        ("[bx].???", ["b.txt"]),
        ("*.CSV", []),
        (".*", [".hidden"]),
    ],
)
async def test_a_pattern_is_for_names(folder: Path, pattern: str, names: list[str]) -> None:
    (folder / "below" / "deep").mkdir(parents=True)
    (folder / ".git").mkdir()
    for name in ["a.csv", "b.txt", ".hidden", "below/c.csv", "below/deep/d.csv", ".git/e.csv"]:
        (folder / name).touch()
    async with watching(folder, pattern=pattern) as watched:
        assert sorted(str(name) for name in await watched.names()) == names


@pytest.mark.parametrize("pattern", ["", "a/", "/a", "**", "a/*.csv", "../*", "**/**/a"])
async def test_a_pattern_that_cannot_be_is_told(folder: Path, pattern: str) -> None:
    with pytest.raises(ValueError) as caught:
        source(folder, pattern=pattern)
    assert str(caught.value) == '`pattern`: expected one for names, as in "*.csv", or "**/*.csv" to look into the folders below too'


async def test_links_do_no_harm(folder: Path) -> None:
    (folder / "below").mkdir()
    (folder / "below" / "loop").symlink_to(folder)
    (folder / "self").symlink_to("self")
    (folder / "nowhere").symlink_to("missing")
    (folder.parent / "elsewhere").write_text("1")
    (folder / "link").symlink_to(folder.parent / "elsewhere")
    async with watching(folder, pattern="**/*", content="text") as watched:
        (event,) = await watched.look(3)
    assert (event.subject, event.data) == ("link", "1")


async def test_pipes_and_folders_are_no_files(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "a").mkdir()
    async with watching(folder, content="bytes") as watched:
        assert await watched.names() == []


async def test_names_that_are_not_utf8_do_no_harm(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for content in (b"1", b"?"):
        Path(os.fsdecode(bytes(folder) + b"/\xff" + content)).write_bytes(content)
    async with watching(folder, content="json") as watched:
        (event,) = await watched.look(2)
    assert (event.subject, event.data) == ("\\xff1", 1)
    assert caplog.messages[0].startswith(f"{folder}/\\xff?: the content: expected JSON")
    async with watching(folder) as watched:
        assert {event.data["path"] for event in await watched.look(2)} == {f"{folder}/\\xff1", f"{folder}/\\xff?"}


async def test_any_time_of_change_can_be_told(folder: Path) -> None:
    for name, time in (("old", -(10**9)), ("new", 10**10)):
        (folder / name).touch()
        os.utime(folder / name, (time, time))
    async with watching(folder) as watched:
        assert [event.data["changed"] for event in await watched.look()] == [-1e9, 1e10]


# --- when ---------------------------------------------------------------------------------------------


async def test_a_file_that_is_being_written_waits_until_two_looks_find_it_the_same(folder: Path) -> None:
    async with watching(folder, content="text") as watched:
        for text in ("1", "12", "123"):
            (folder / "a").write_text(text)
            assert await watched.look() == []
        (event,) = await watched.look()
        assert event.data == "123"


async def test_a_file_that_changes_between_the_look_and_its_reading_is_not_read_half(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "a"
    path.write_text("old")
    take: Callable[..., list[Event]] = Files._take

    def write_first(self: Files, waiting: Any) -> list[Event]:
        path.write_text("half")
        monkeypatch.setattr(Files, "_take", take)
        return take(self, waiting)

    monkeypatch.setattr(Files, "_take", write_first)
    async with watching(folder, content="text") as watched:
        assert await watched.look() == []
        path.write_text("whole")
        assert [event.data for event in await watched.look(2)] == ["whole"]


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("replace", [Path.unlink, make_pipe])
async def test_a_file_that_goes_between_the_look_and_its_reading_is_passed_over(
    folder: Path, replace: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    take: Callable[..., list[Event]] = Files._take

    def replace_first(self: Files, waiting: Any) -> list[Event]:
        replace(folder / "a")
        return take(self, waiting)

    monkeypatch.setattr(Files, "_take", replace_first)
    (folder / "a").write_text("1")
    async with watching(folder, content="text") as watched:
        assert await watched.look(2) == []
    assert caplog.messages == []


# --- what is remembered -------------------------------------------------------------------------------


async def test_a_restart_brings_nothing_twice_and_misses_no_change(folder: Path) -> None:
    for name in "abc":
        (folder / name).write_text(name)
    async with watching(folder) as first:
        assert len(await first.look()) == 3
    (folder / "b").write_text("changed")
    (folder / "c").unlink()
    (folder / "d").touch()
    async with watching(folder, cursor=first.inlet.cursor) as second:
        assert sorted(str(name) for name in await second.names()) == ["b", "d"]
    assert len(second.inlet.cursor) == 3 * 16


async def test_a_deleted_file_is_forgotten_and_new_when_it_is_there_again(folder: Path) -> None:
    for name in "ab":
        (folder / name).touch()
    os.utime(folder / "a", (1, 1))
    async with watching(folder) as watched:
        first = await watched.look()
        (folder / "a").unlink()
        await watched.look()
        assert len(watched.inlet.cursor) == 16
        (folder / "a").touch()
        os.utime(folder / "a", (1, 1))
        (again,) = await watched.look(2)
    assert again.id == first[0].id, "so that the runtime knows it again for a while"


async def test_an_empty_folder_may_be_one_that_is_not_mounted_so_nothing_is_forgotten(folder: Path) -> None:
    (folder / "a").touch()
    async with watching(folder) as watched:
        assert await watched.names() == ["a"]
        folder.rename(folder.with_name("away"))
        folder.mkdir()
        assert await watched.names() == []
        folder.rmdir()
        folder.with_name("away").rename(folder)
        assert await watched.names() == []


async def test_a_put_that_fails_is_repeated_by_the_next_run(folder: Path) -> None:
    (folder / "a").touch()
    inlet = Recorder(failures=1)
    async with watching(folder, inlet) as watched:
        with pytest.raises(JournalError):
            await watched.look()
    async with watching(folder, inlet) as watched:
        assert await watched.names() == ["a"]


async def test_another_folder_or_a_foreign_cursor_is_looked_through_from_the_start(folder: Path) -> None:
    (folder / "a").touch()
    async with watching(folder) as first:
        await first.look()
    copy = shutil.copytree(folder, folder.with_name("copy"))
    for cursor, place in ((first.inlet.cursor, copy), ({"offset": 7}, folder), ("what", folder)):
        async with watching(place, cursor=cursor) as watched:
            assert await watched.names() == ["a"]


async def test_ten_thousand_files_are_recorded_in_few_and_short_cursors(folder: Path) -> None:
    for number in range(10_000):
        (folder / f"{number:06}.json").touch()
    async with watching(folder) as watched:
        assert len(await watched.look()) == 10_000
        assert {len(batch) for batch in watched.inlet.batches} == {1000}
        assert watched.inlet.puts == 10
        assert len(watched.inlet.cursor) == 160_000
        assert await watched.look() == []
        assert watched.inlet.puts == 10


# --- what is in them ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "data"),
    [("text", '{"n": [1, "ü"]}\n'), ("json", {"n": [1, "ü"]}), ("bytes", '{"n": [1, "ü"]}\n'.encode())],
)
async def test_the_content_may_be_the_data(folder: Path, content: str, data: Any) -> None:
    (folder / "a").write_text('{"n": [1, "ü"]}\n')
    async with watching(folder, content=content) as watched:
        assert [event.data for event in await watched.look()] == [data]


async def test_what_does_not_fit_is_named_once_and_left_out_until_it_changes(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "bad").write_text("{")
    (folder / "good").write_text("1")
    (folder / "large").write_text('"56789"')
    async with watching(folder, content="json", max_bytes=6) as watched:
        assert [event.data for event in await watched.look(4)] == [1]
        (folder / "bad").write_text("2")
        assert [event.data for event in await watched.look(2)] == [2]
    assert caplog.messages == [
        f"{folder}/bad: the content: expected JSON: Input data was truncated",
        f"{folder}/large: expected at most 6 bytes, found 7; raise `max_bytes`",
    ]
    async with watching(folder, content="json", cursor=watched.inlet.cursor) as watched:
        assert await watched.names() == ["large"]


async def test_text_is_utf8(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "a").write_bytes(b"\xff")
    async with watching(folder, content="text") as watched:
        assert await watched.look(2) == []
    assert caplog.messages == [f"{folder}/a: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"]


async def test_large_contents_come_in_shorter_lists(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CHUNK", 1000)
    for number in range(10):
        (folder / str(number)).write_bytes(b"x" * 400)
    async with watching(folder, content="bytes") as watched:
        assert len(await watched.look()) == 10
        assert [len(batch) for batch in watched.inlet.batches] == [3, 3, 3, 1]


# --- what cannot be read ------------------------------------------------------------------------------


def forbid(monkeypatch: pytest.MonkeyPatch, place: str, forbidden: Path) -> None:
    """Let the system refuse a path: who runs the tests may be allowed all."""
    real: Callable[..., Any] = getattr(os, place)

    def refuse(path: Any, *arguments: Any, **more: Any) -> Any:
        if os.fspath(path) == str(forbidden):
            raise PermissionError(13, "Permission denied", str(forbidden))
        return real(path, *arguments, **more)

    monkeypatch.setattr(os, place, refuse)


@pytest.mark.parametrize(("place", "name"), [("open", "a"), ("scandir", "below")])
async def test_what_may_not_be_read_is_named_once_and_tried_again(
    folder: Path, place: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "below").mkdir()
    (folder / "below" / "b").write_text("2")
    (folder / "a").write_text("1")
    with pytest.MonkeyPatch.context() as patch:
        forbid(patch, place, folder / name)
        async with watching(folder, pattern="**/*", content="text") as watched:
            assert len(await watched.look(3)) == 1
            patch.undo()
            assert len(await watched.look(2)) == 1
    assert caplog.messages == [f"{folder}/{name}: Permission denied"]


async def test_a_failing_file_system_is_not_an_empty_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "below").mkdir()
    for name in ("a", "below/b"):
        (folder / name).touch()
    inlet = Recorder()
    async with watching(folder, inlet, pattern="**/*") as watched:
        assert len(await watched.look()) == 2
        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", failing(os.scandir, folder / "below"))
            with pytest.raises(OSError, match="Input/output error"):
                await watched.look()
    async with watching(folder, inlet, pattern="**/*") as watched:
        assert await watched.look(2) == []


def failing(real: Callable[..., Any], place: Path) -> Callable[..., Any]:
    def call(path: Any) -> Any:
        if os.fspath(path) == str(place):
            raise OSError(5, "Input/output error", str(place))
        return real(path)

    return call


@pytest.mark.parametrize(("make", "found"), [(lambda _: None, "No such file or directory"), (Path.touch, "Not a directory")])
async def test_a_folder_that_is_missing_is_told(tmp_path: Path, make: Callable[[Path], object], found: str) -> None:
    place = tmp_path / "missing"
    make(place)
    with pytest.raises(OSError) as caught:
        async with watching(place):
            pass
    assert str(caught.value) == f"{place}: expected a folder that can be read, found: {found}; make it, mend it, or correct `path`"


# --- to the end, and in a process of its own ----------------------------------------------------------


async def test_without_watching_it_ends_when_all_files_were_taken_or_cannot_be(folder: Path) -> None:
    assert source(folder).finite is False
    for name, text in (("a", "1"), ("bad", "{")):
        (folder / name).write_text(text)
    one, inlet = source(folder, watch=False, content="json"), Recorder()
    one.clock = clock = Steps()
    assert one.finite
    task = asyncio.create_task(one.run(inlet))
    await clock.waits.wait()
    clock.go()
    async with asyncio.timeout(20):
        await task
        assert [event.data for event in inlet.events] == [1]
        await source(folder.parent / "in", watch=False, pattern="none").run(inlet)


FUNCTION = """
import os

from runtime import Context, function

TRACE = os.open("trace", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@function(on="file")
async def take(data: str, context: Context) -> str:
    os.write(TRACE, f"{context.event.subject} {data}\\n".encode())
    return data
"""

CONFIG = """
[sources.inbox]
plugin = "files"
path = "in"
type = "file"
every = 0.02
content = "text"
{more}
[admin]
listen = "127.0.0.1:0"
"""


def project(folder: Path, more: str = "") -> Path:
    (folder / "functions").mkdir()
    (folder / "functions" / "take.py").write_text(FUNCTION)
    (folder / "runtime.toml").write_text(CONFIG.format(more=more))
    return folder


def live_and_die(folder: Path, command: Sequence[str] = COMMAND) -> set[tuple[str, str]]:
    """Kill a runtime four times in the middle of taking files; return each state of each file."""
    expected = set()
    for turn in range(4):
        with Running(folder, command) as running:  # it is killed when it is left
            before = len(listing(running, type="file"))
            if not turn:
                until(lambda: running.api.get("/api/sources").json()["sources"][0]["state"] == "failing")
                assert "expected a folder that can be read, found: No such file" in running.api.get("/health").text
                (folder / "in").mkdir()
            for number in range(200):
                (folder / "in" / f"{turn}-{number}").write_text(f"{turn}")
                expected.add((f"{turn}-{number}", str(turn)))
            until(lambda: len(listing(running, type="file")) > before)  # noqa: B023 - called at once
        (folder / "in" / "0-0").write_text(f"again {turn}")
        expected.add(("0-0", f"again {turn}"))
    return expected


def taken(running: Running, count: int) -> list[tuple[str, str]]:
    until(lambda: len(listing(running, type="file")) >= count)
    assert drained(running)["duplicates"] == 0, "the cursor is recorded with the events"
    events = [event(running, one["uid"])["event"] for one in listing(running, type="file")]
    return sorted((one["subject"], one["data"]) for one in events)


def test_a_real_process_that_is_killed_takes_each_state_of_each_file_once(tmp_path: Path) -> None:
    expected = live_and_die(project(tmp_path))
    with Running(tmp_path) as running:
        assert taken(running, len(expected)) == sorted(expected)
        assert running.stop() == 0


def test_a_cursor_that_is_not_recorded_would_be_noticed(tmp_path: Path) -> None:
    expected = live_and_die(project(tmp_path), broken.command("aimless"))
    with Running(tmp_path) as running, pytest.raises(AssertionError, match="the cursor is recorded with the events"):
        taken(running, len(expected))


def test_once_takes_what_is_there_and_ends(tmp_path: Path) -> None:
    inbox = project(tmp_path, "watch = false") / "in"
    inbox.mkdir()
    for number in range(20):
        (inbox / str(number)).write_text("x")
    for _ in range(2):
        done = run(tmp_path, "run", "--once")
        assert done.returncode == 0, done.stderr
    assert len((tmp_path / "trace").read_text().splitlines()) == 20
