"""The journal on SQLite passes the suite of its contract, and survives what a process and a disk do."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apsw
import pytest

from runtime import JournalError
from runtime.contracts import Clock, Journal, Query
from runtime.journal.sqlite import known, mover, reading, schema, writer, writing
from runtime.journal.sqlite.files import SLOTS, Marks, Reserve
from runtime.journal.sqlite.journal import SqliteJournal
from runtime.journal.sqlite.rows import pack_steps, unpack_steps
from runtime.journal.sqlite.writer import Writer
from runtime.records import (
    DEAD,
    DISCARDED,
    DONE,
    FAILED,
    QUEUED,
    RETRYING,
    SKIPPED,
    UNROUTED,
    Entry,
    Outcome,
    Shelf,
    Status,
    Step,
    StepError,
)
from runtime.testing import START, JournalSuite, VirtualClock, entry


class TestSqliteJournal(JournalSuite):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def make(self, clock: Clock) -> Journal:
        return SqliteJournal(self.folder / "journal.db", clock, dedupe=60.0)


class TestSqliteJournalWithAllThatWaitListed(TestSqliteJournal):
    """The same, when entries are put into the index of their lane at once: as it is of those behind thousands of others."""

    @pytest.fixture(autouse=True)
    def _listed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(writing, "UNLISTED", 0)
        monkeypatch.setattr(writing, "LISTED", 1)


async def opened(folder: Path, clock: VirtualClock | None = None, **options: Any) -> SqliteJournal:
    journal = SqliteJournal(folder / "journal.db", clock or VirtualClock(), **options)
    await journal.open()
    return journal


async def test_everything_is_there_again_after_it_was_closed(tmp_path: Path) -> None:
    journal = await opened(tmp_path)
    entries = [entry(id="a", data={"n": 1}, key="k", sinks=("x",)), entry("b", due=START + 50), entry("c")]
    await journal.append(entries, cursor=("lines", {"offset": 7}))
    step = Step("f", RETRYING, 1, error=StepError("E", "no"), due=START + 9)
    effect = entry("next", cause=entries[2].seq)
    await journal.record([Outcome(entry=entries[0], steps=[step], state=("f", None, {"n": [1, b"x"]}))])
    await journal.record(
        [Outcome(entry=entries[2], steps=[Step("g", DONE, 1, result={"r": 1})], emitted=[effect], ran=True, status=DONE, at=START)]
    )
    await journal.close()

    journal = await opened(tmp_path)
    (first,) = await journal.find("a")
    assert (first.seq, first.event, first.steps, first.sinks) == (1, entries[0].event, {"f": step}, ("x",))
    assert [one.seq for one in await journal.read(Shelf("begun"))] == [1]
    assert [one.seq for one in await journal.read(Shelf("sink", "x"))] == [1]
    assert [one.seq for one in await journal.read_due((0, 0), START + 99)] == [2]
    (done,) = await journal.find(entries[2].uid)
    assert (done.status, done.ended, done.steps["g"].result, done.ran) == (DONE, START, {"r": 1}, True)
    assert [one.event.id for one in await journal.effects(done.seq)] == [effect.event.id]
    assert await journal.find(effect.event.id) != []
    assert await journal.state("f", None) == {"n": [1, b"x"]}
    assert await journal.cursor("lines") == {"offset": 7}
    counts = await journal.counts()
    assert (counts.open, counts.done, counts.accepted) == (3, 1, 4)
    later = entry()
    await journal.append([later])
    assert later.seq == 5
    await journal.close()


def lane_of(entries: list[Entry]) -> list[int]:
    return [one.seq for one in entries]


@pytest.mark.parametrize("unlisted", [0, 10_000])
async def test_an_entry_is_in_its_lane_as_long_as_it_waits_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unlisted: int) -> None:
    monkeypatch.setattr(writing, "UNLISTED", unlisted)
    monkeypatch.setattr(writing, "LISTED", 1)
    lane = Shelf("lane", "test", 4)
    journal = await opened(tmp_path)
    kept, done, again, delayed, unrouted = entry(), entry(), entry(), entry(due=START + 9), entry(status=UNROUTED)
    await journal.append([kept, done, again, delayed, unrouted])
    for _ in range(2):
        await journal.record([Outcome(entry=one, state=("f", None, {"n": 1})) for one in (kept, delayed)])
        await journal.record([Outcome(entry=done, status=DONE, at=START), Outcome(entry=again, status=DEAD, at=START)])
        assert lane_of(await journal.read(lane)) == [kept.seq]
        await journal.record([Outcome(entry=one, status=QUEUED) for one in (again, unrouted)])
        expected = [kept.seq, again.seq, unrouted.seq]
        assert lane_of(await journal.read(lane)) == expected
        assert lane_of(await journal.read(lane, limit=2)) == expected[:2]
        assert lane_of(await journal.read_due((0, 0), START + 99)) == [delayed.seq]
        assert await journal.waiting() == 4
        await journal.close()
        journal = await opened(tmp_path)
        assert lane_of(await journal.read(lane)) == expected
        assert lane_of(await journal.read_due((0, 0), START + 99)) == [delayed.seq]
        kept, again, unrouted = await journal.read(lane)
        (delayed,) = await journal.read_due((0, 0), START + 99)
        (done,) = await journal.query(Query(status=(DONE,)))
        await journal.record([Outcome(entry=done, status=DONE, at=START), Outcome(entry=unrouted, status=UNROUTED, at=START)])
    await journal.record([Outcome(entry=one, status=DONE, at=START) for one in (kept, delayed, again)])
    assert await journal.waiting() == 0
    assert await journal.shelves() == []
    await journal.close()


async def test_what_waits_behind_thousands_that_are_done_is_listed_and_read_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "UNLISTED", 300)
    monkeypatch.setattr(writing, "LISTED", 100)
    journal = await opened(tmp_path)
    waiting: list[int] = []
    for number in range(40):
        entries = [entry() for _ in range(50)]
        await journal.append(entries)
        waiting.append(entries[number].seq)
        await journal.record([Outcome(entry=one, status=DONE, at=START) for one in entries if one.seq != waiting[-1]])
    assert lane_of(await journal.read(Shelf("lane", "test", 4))) == waiting
    indexed = await journal._ask(lambda batch: [seq for (seq,) in batch.connection.execute("SELECT seq FROM events WHERE stage = 0")])
    assert waiting[: len(indexed)] == indexed
    assert 30 <= len(indexed) < 40
    await journal.close()


async def test_steps_are_kept_as_they_are_whatever_they_say(tmp_path: Path) -> None:
    assert Step.__struct_fields__ == (
        "function", "status", "attempts", "generation", "started", "finished", "result", "error", "reason", "cause", "due", "crashes"
    ), "what is kept goes by place: fields may be added at the end, and in `_values_of`"  # fmt: skip
    steps = [
        Step("plain", DONE, 1, 3, START, START + 1),
        Step("result", DONE, 1, result=[1, {"two": None}, b"x"]),
        Step("error", FAILED, 2, error=StepError("E", "no", "Traceback", 422)),
        Step("skipped", SKIPPED, reason="not met", cause="error"),
        Step("due", RETRYING, 1, due=START + 3, crashes=2),
    ]
    for one in steps:
        assert unpack_steps(pack_steps({one.function: one})) == {one.function: one}
    journal = await opened(tmp_path)
    kept = entry()
    await journal.append([kept])
    await journal.record([Outcome(entry=kept, steps=steps)])
    await journal.close()
    journal = await opened(tmp_path)
    (found,) = await journal.read(Shelf("begun"))
    assert found.steps == {one.function: one for one in steps}
    await journal.close()


@pytest.mark.parametrize("count", [1, 2, 3, 511, 512, 513, 1500])
async def test_any_number_of_rows_is_written_whole(tmp_path: Path, count: int) -> None:
    journal = await opened(tmp_path)
    entries = [entry(id=str(number) if number % 3 else "", key="k" if number % 5 else None) for number in range(count)]
    await journal.append(entries)
    again = await journal.append([entry(id=str(number)) for number in range(count)])
    assert [one.seq for number, one in enumerate(again) if number % 3] == [one.seq for number, one in enumerate(entries) if number % 3]
    await journal.record([Outcome(entry=one, steps=[Step("f", DONE, 1)], status=DONE, at=START) for one in entries])
    assert (await journal.counts()).done == count
    found = await journal.query(Query(status=(DONE,), limit=count))
    assert [one.event for one in reversed(found)] == [one.event for one in entries]
    await journal.close()


async def test_entries_that_nobody_holds_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "CROWD", 100)
    journal = await opened(tmp_path)
    held = entry(id="held")
    await journal.append([held])
    for _ in range(50):
        await journal.append([entry() for _ in range(20)])
    gc.collect()
    assert len(journal._known._there) <= 200
    assert (await journal.find("held"))[0] is held
    await journal.close()


def test_what_executes_is_marked_once_however_often_and_in_whatever_order(tmp_path: Path) -> None:
    marks = Marks(tmp_path / "marks")
    marks.mark(1)
    marks.mark(1)
    marks.mark(2)
    assert marks.found() == [1, 2]
    marks.unmark(1)
    assert marks.found() == [1, 2]
    marks.mark(3)
    marks.unmark(1)
    assert marks.found() == [2, 3]
    marks.unmark(2)
    marks.unmark(3)
    assert marks.found() == []
    for seq in range(1, SLOTS + 100):
        marks.mark(seq)
    assert marks.found() == list(range(1, SLOTS + 1))
    for seq in range(1, SLOTS + 100):
        marks.unmark(seq)
    assert marks.found() == []
    marks.close()


async def test_many_calls_at_once_share_a_commit_and_keep_their_order(tmp_path: Path) -> None:
    journal = await opened(tmp_path)
    batches = [[entry(id=f"{number}-{one}") for one in range(3)] for number in range(100)]
    await asyncio.gather(*(journal.append(batch) for batch in batches))
    assert [one.seq for batch in batches for one in batch] == list(range(1, 301))
    assert len(await journal.read(Shelf("lane", "test", 4))) == 300
    same = [entry(id="same") for _ in range(50)]
    found = await asyncio.gather(*(journal.append([one]) for one in same))
    assert {one.seq for (one,) in found} == {same[0].seq}
    assert (await journal.counts()).duplicates == 49
    await journal.close()


async def test_what_was_executing_when_the_process_died_is_charged_a_crash(tmp_path: Path) -> None:
    journal = await opened(tmp_path)
    entries = [entry() for _ in range(4)]
    await journal.append(entries)
    for seq in (2, 3, 4):
        journal.mark(seq)
    journal.unmark(4)
    await journal.record([Outcome(entry=entries[2], status=DONE, at=START)])
    journal._lock.release()  # the process is gone, and nothing was let go
    copied = tmp_path / "after"
    shutil.copytree(tmp_path, copied, ignore=shutil.ignore_patterns("after"))
    after = await opened(copied)
    assert {one.seq: one.crashes for one in await after.read(Shelf("begun"))} == {2: 1}
    assert [one.seq for one in await after.read(Shelf("lane", "test", 4))] == [1, 4]
    await after.close()
    again = await opened(copied)
    assert [one.crashes for one in await again.read(Shelf("begun"))] == [1], "a clean stop charges nothing"
    await again.close()
    await journal._thread.close()


async def test_ended_entries_go_after_a_while_and_dead_letters_stay(tmp_path: Path) -> None:
    clock = VirtualClock()
    journal = await opened(tmp_path, clock, keep=100.0, dedupe=50.0)
    entries = [entry(id=str(number)) for number in range(3)]
    await journal.append(entries)
    ends: list[Status] = [DONE, DEAD, DISCARDED]
    await journal.record([Outcome(entry=one, status=status, at=START) for one, status in zip(entries, ends, strict=True)])
    await clock.advance(101)
    async with asyncio.timeout(10):
        while (await journal.counts()).accepted > 1:
            await asyncio.sleep(0.01)
    assert [one.seq for one in await journal.query(Query())] == [2]
    await journal.close()
    journal = await opened(tmp_path, clock)
    later = entry()
    await journal.append([later])
    assert later.seq == 4, "a place is never given twice"
    await journal.close()


async def test_the_file_does_not_grow_while_as_much_goes_as_comes(tmp_path: Path) -> None:
    clock = VirtualClock()
    journal = await opened(tmp_path, clock, keep=10.0, dedupe=10.0)
    sizes = []
    for _ in range(60):
        entries = [entry(data="x" * 500, now=clock.time()) for _ in range(500)]
        await journal.append(entries)
        await journal.record([Outcome(entry=one, status=DONE, at=clock.time()) for one in entries])
        await clock.advance(1)
        sizes.append((tmp_path / "journal.db").stat().st_size)
    await journal.close()
    assert sizes[-1] < 1.2 * sizes[30], "it holds what is kept, and no more"


async def test_a_second_process_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    journal = await opened(tmp_path)
    with pytest.raises(JournalError, match=rf"journal.db is in use by process {os.getpid()}; stop that one, or give \[journal\] url"):
        await opened(tmp_path)
    await journal.close()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"something else", "is not a journal of function-runtime; it was left as it is"),
        (b"SQLite format 3\x00" + bytes(84), "is not a journal of function-runtime; it was left as it is"),
        (
            b"SQLite format 3\x00" + bytes(44) + (99).to_bytes(4, "big") + bytes(4) + schema.APPLICATION_ID.to_bytes(4, "big") + bytes(28),
            "was written by a newer function-runtime (schema 99, this one knows 3); it was left as it is",
        ),
    ],
)
async def test_a_file_that_is_not_ours_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "journal.db"
    file.write_bytes(content)
    with pytest.raises(JournalError, match=re.escape(message)):
        await opened(tmp_path)
    assert file.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["journal.db"]


async def test_a_file_that_is_replaced_while_it_is_in_use_ends_the_journal(tmp_path: Path) -> None:
    lost: list[JournalError] = []
    journal = await opened(tmp_path, lost=lost.append)
    (tmp_path / "journal.db").unlink()
    with pytest.raises(JournalError, match="was moved, deleted or replaced while it was in use"):
        await journal.append([entry()])
    with pytest.raises(JournalError):
        await journal.append([entry()])
    assert len(lost) == 1
    await journal.close()


async def test_a_full_disk_refuses_what_comes_in_and_records_what_was_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = await opened(tmp_path)
    one = entry()
    await journal.append([one])
    room = False
    transact = Writer._transact

    def full(self: Writer, connection: Any, jobs: Any) -> None:
        if not room and any(job.writes for job in jobs) and (tmp_path / "journal.db.reserve").exists():
            raise apsw.FullError("disk is full")
        transact(self, connection, jobs)

    monkeypatch.setattr(Writer, "_transact", full)
    monkeypatch.setattr(Reserve, "hold", lambda self: room)
    with pytest.raises(JournalError, match="the disk is full; events are taken again when there is room"):
        await journal.append([entry()])
    await journal.record([Outcome(entry=one, steps=[Step("f", DONE, 1)], ran=True, status=DONE, at=START)])
    with pytest.raises(JournalError, match="the disk is full"):
        await journal.append([entry()])
    room = True
    async with asyncio.timeout(10):
        while journal._thread.is_full:
            await asyncio.sleep(0.01)
    await journal.append([entry()])
    assert (await journal.counts()).done == 1
    await journal.close()


async def test_a_log_that_is_deleted_while_it_is_in_use_ends_the_journal(tmp_path: Path) -> None:
    journal = await opened(tmp_path)
    await journal.append([entry()])
    (tmp_path / "journal.db-wal").unlink()
    with pytest.raises(JournalError, match=r"journal\.db-wal was moved, deleted or replaced while it was in use"):
        await journal.append([entry()])
    await journal.close()


async def test_the_log_has_its_pages_from_the_start_where_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "journal.db-wal"
    journal = await opened(tmp_path)
    assert log.stat().st_size == writer.FILLED
    await journal.append([entry(id="a")])
    assert log.stat().st_size == writer.FILLED
    copied = tmp_path / "after"
    shutil.copytree(tmp_path, copied, ignore=shutil.ignore_patterns("after"))
    await journal.close()
    assert not log.exists()
    journal = await opened(copied)
    assert len(await journal.find("a")) == 1, "what is behind the last commit is nothing"
    await journal.close()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10 * writer.FILLED))
    journal = await opened(tmp_path)
    assert log.stat().st_size == 0
    await journal.close()


async def log_after_many_commits(folder: Path) -> int:
    """Return the size of the log, which is never cut here, after hundreds of commits without a pause."""
    folder.mkdir()
    journal = await opened(folder)

    async def put() -> None:
        for _ in range(300):
            await journal.append([entry(data="x" * 1000)])

    await asyncio.gather(*(put() for _ in range(4)))
    size = (folder / "journal.db-wal").stat().st_size
    await journal.close()
    return size


async def test_the_log_does_not_grow_while_events_come_without_a_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "PAGES", 50)
    monkeypatch.setattr(writer, "SHARE", 1)
    monkeypatch.setattr(mover, "LITTLE", 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    moved = await log_after_many_commits(tmp_path / "moved")
    monkeypatch.setattr(Writer, "_move_log", lambda self: None)
    assert moved < await log_after_many_commits(tmp_path / "unmoved") / 2


async def test_a_log_that_cannot_be_moved_ends_the_journal(tmp_path: Path) -> None:
    lost: list[JournalError] = []
    journal = await opened(tmp_path, lost=lost.append)
    journal._mover.error = apsw.IOError("disk I/O error")
    async with asyncio.timeout(10):
        while not lost:
            await asyncio.sleep(0.01)
    with pytest.raises(JournalError, match="IOError: disk I/O error"):
        await journal.append([entry()])
    await journal.close()


async def test_duplicates_leave_no_gap_that_looks_like_a_loss(tmp_path: Path) -> None:
    journal = await opened(tmp_path)
    for _ in range(3):
        await journal.append([entry(id="same")])
    await journal.close()
    journal = await opened(tmp_path)
    assert journal.faults == []
    await journal.close()


async def test_a_cut_log_is_told_with_the_number_of_what_is_gone(tmp_path: Path) -> None:
    journal = await opened(tmp_path)
    await journal.append([entry() for _ in range(7)])
    copied = tmp_path / "after"
    shutil.copytree(tmp_path, copied, ignore=shutil.ignore_patterns("after", "*-wal", "*-shm"))
    after = await opened(copied)
    assert [str(fault) for fault in after.faults] == [
        "journal.db: 7 events that were accepted are gone: a part of the journal was cut off or deleted outside the runtime"
    ]
    await after.close()
    await journal.close()


async def test_what_is_found_for_people_is_never_older_than_what_is_in_memory(tmp_path: Path) -> None:
    journal = await opened(tmp_path)
    one = entry(id="a")
    await journal.append([one])
    assert (await journal.find("a"))[0] is one
    seq = one.seq
    del one
    gc.collect()
    (found,) = await journal.find("a")
    (again,) = await journal.append([entry(id="a")])
    assert (found.seq, again.seq) == (seq, seq)
    await journal.record([Outcome(entry=again, status=DONE, at=START)])
    assert (await journal.find("a"))[0].status == DONE
    await journal.close()


async def test_a_failed_disk_charges_no_crash_to_what_was_running(tmp_path: Path) -> None:
    journal = await opened(tmp_path)
    one = entry()
    await journal.append([one])
    journal.mark(one.seq)
    (tmp_path / "journal.db").rename(tmp_path / "moved.db")
    with pytest.raises(JournalError):
        await journal.append([entry()])
    async with asyncio.timeout(10):
        while journal._marks.found():
            await asyncio.sleep(0)
    await journal.close()


@pytest.mark.parametrize(
    "statement", ["shelves", "lane", "key", "begun", "sink", "due", "dead", "first", "waiting", "due to go", "go", "listed"]
)
async def test_no_question_of_the_hot_path_scans_the_table(tmp_path: Path, statement: str) -> None:
    journal = await opened(tmp_path)
    await journal.append([entry(id=str(number)) for number in range(10)])
    questions: dict[str, Callable[[apsw.Connection], object]] = {
        "lane": lambda db: reading.read_shelf(db, Shelf("lane", "a", 4), 0, 10, 5),
        "key": lambda db: reading.read_shelf(db, Shelf("key", "a", 4), 0, 10, 5),
        "begun": lambda db: reading.read_shelf(db, Shelf("begun"), 0, 10, 5),
        "sink": lambda db: reading.read_shelf(db, Shelf("sink", "x"), 0, 10, 5),
        "due": lambda db: reading.read_due(db, (0, 0), START, 10),
        "dead": lambda db: reading.query(db, Query(status=(DEAD,))),
        "first": lambda db: reading.firsts_of(db, [("a", "suite"), ("b", "suite")], 0.0),
        "shelves": lambda db: reading.shelves(db, 5),
        "waiting": lambda db: reading.waiting(db, 5),
        "due to go": lambda db: reading.is_due(db, START),
        "go": lambda db: reading.prune(db, START, 10),
        "listed": lambda db: writing.Batch(db, 0).list_waiting(10),
    }
    plans: list[str] = []

    def explain(batch: Any) -> None:
        def trace(cursor: Any, sql: str, bindings: Any) -> bool:
            if not sql.startswith("EXPLAIN"):
                plans.extend(row[3] for row in batch.connection.execute(f"EXPLAIN QUERY PLAN {sql}", bindings))
            return True

        batch.connection.exec_trace = trace
        try:
            questions[statement](batch.connection)
        finally:
            batch.connection.exec_trace = None

    await journal._ask(explain)
    assert plans
    assert not [plan for plan in plans if plan.startswith("SCAN") and "INDEX" not in plan and not re.search("VALUES|CONSTANT", plan)], plans
    await journal.close()
